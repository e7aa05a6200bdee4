"""Frameworks and engines side by side, each in a process of its own."""

from lightning_cifake.beside_tensorflow import keep_triton_out

keep_triton_out()
