"""The published TensorFlow system, as a person would run it on today's Keras. Imports nothing of lightning_cifake."""
