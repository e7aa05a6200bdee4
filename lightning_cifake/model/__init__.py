"""The network, its optimizer and the LightningModule around them."""
