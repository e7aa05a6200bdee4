"""Asking a trained model about images."""
