"""Proof that lightning_cifake and TensorFlow compute the same: the only place that imports both."""
