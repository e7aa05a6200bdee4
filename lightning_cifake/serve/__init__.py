"""A page and an HTTP API over an exported model: ``python -m lightning_cifake serve``. No torch; the extra ``web``."""
