"""The commands: one module each, and ``main``, which tells them apart."""
