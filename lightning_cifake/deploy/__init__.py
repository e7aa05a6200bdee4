"""Asking a trained model about images."""

from lightning_cifake.beside_tensorflow import keep_triton_out

keep_triton_out()
