"""The networks: plain ``nn.Module``s that map (N, 3, S, S) float in [0, 1] to (N,) logits of P(REAL)."""

from lightning_cifake.beside_tensorflow import keep_triton_out

keep_triton_out()
