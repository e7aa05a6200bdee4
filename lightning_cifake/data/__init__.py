"""From files to batches: source, decode once, split, augment."""

from lightning_cifake.beside_tensorflow import keep_triton_out

keep_triton_out()
