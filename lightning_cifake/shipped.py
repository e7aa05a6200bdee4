"""What comes beside the code: the released model, the named configurations, and the reference in a checkout.

In an installed package they lie inside it (pyproject.toml maps them there); in a checkout, which an editable
installation is too, in the folders of its top level.
"""

from pathlib import Path

_PACKAGE = Path(__file__).parent
_CHECKOUT = _PACKAGE.parent

RELEASED = "cifake-int8.onnx"


def released_model() -> Path:
    """The file that answers where no model is named; its manifest, ``.json``, lies beside it."""
    inside = _PACKAGE / "released" / RELEASED
    return inside if inside.is_file() else _CHECKOUT / "checkpoints" / RELEASED


def config_dir() -> Path:
    """Where the named configurations lie."""
    inside = _PACKAGE / "configs"
    return inside if inside.is_dir() else _CHECKOUT / "configs"


def reference_folder() -> Path | None:
    """The checkout whose ``tf_reference`` runs: this package's own, or the current folder; None without one."""
    return next((each for each in (_CHECKOUT, Path.cwd()) if (each / "tf_reference" / "__init__.py").is_file()), None)
