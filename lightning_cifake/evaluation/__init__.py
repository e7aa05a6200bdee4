"""From probabilities to figures: metrics, the report, the pictures."""

from lightning_cifake.beside_tensorflow import keep_triton_out

keep_triton_out()
