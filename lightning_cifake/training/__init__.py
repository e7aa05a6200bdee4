"""What happens around the steps: early stopping, checkpoints, exact resume, guards."""

from lightning_cifake.beside_tensorflow import keep_triton_out

keep_triton_out()
