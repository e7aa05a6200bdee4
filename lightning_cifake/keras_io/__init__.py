"""Keras's files, read without TensorFlow, and written with it."""

from lightning_cifake.beside_tensorflow import keep_triton_out

keep_triton_out()
