"""The two classes: one definition of their labels, their names, and which of them the figures are about.

Needs neither torch nor numpy, so that whatever reads a model or a folder can import it.
"""

FAKE, REAL = 0, 1
"""Labels, in the order in which Keras's ``image_dataset_from_directory`` numbers the folders FAKE and REAL."""

CLASS_NAMES = ("FAKE", "REAL")
"""By label, in data: the names of folders, and of what lies in them."""

DISPLAY_NAMES = ("AI", "REAL")
"""By label, to people: verdicts, reports, pictures, predictions.csv, and an exported model's ``class_names``."""

POSITIVE = REAL
"""The class that a model's logit and probability stand for, and that precision, recall, F1, AUROC and average precision
are about wherever no other class is named."""

POSITIVE_NAME = DISPLAY_NAMES[POSITIVE]
