"""What the user typed to get here: ``lightning-cifake`` or ``python -m lightning_cifake``."""

import sys
from pathlib import Path

MODULE, SCRIPT = "python -m lightning_cifake", "lightning-cifake"


def program() -> str:
    """The program's name in usage lines and examples."""
    return SCRIPT if sys.argv and Path(sys.argv[0]).stem == SCRIPT else MODULE


def as_typed(text: str) -> str:
    """Examples, which are written with ``python -m lightning_cifake``, as the user would type them."""
    return text.replace(MODULE, program())
