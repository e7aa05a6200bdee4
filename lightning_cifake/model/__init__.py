"""The network, its optimizer and the LightningModule around them."""

from lightning_cifake.beside_tensorflow import keep_triton_out

keep_triton_out()
