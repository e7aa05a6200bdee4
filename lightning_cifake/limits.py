"""Sizes that are bounded wherever they are read from: the same everywhere."""

LARGEST_IMAGE = 1024
"""Pixels a side that images are brought to. What is larger is resized; a file that asks for more is foreign, or a trap:
20,000 would take terabytes before anybody sees an error."""
