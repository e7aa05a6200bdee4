"""The training side, imported when a command needs it, with a plain sentence where it cannot be."""

from importlib import metadata
from types import ModuleType

from lightning_cifake.commands.quick_imports import quick_imports
from lightning_cifake.errors import UserError
from lightning_cifake.extras import require


def import_training_side(what: str) -> ModuleType:
    """The module of ``fit``, ``validate`` and ``test``, and with it torch and Lightning.

    Args:
        what: needs them, in the words of the command line.

    Raises:
        UserError: they are not installed, or torch and torchvision are not of one make.
    """
    require("train", "torch", "lightning", what=what)
    try:
        with quick_imports():
            from lightning_cifake.commands import lightning_cli
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        found = f"torch {metadata.version('torch')} and torchvision {metadata.version('torchvision')}"
        raise UserError(
            f"{found} are not a matching pair: expected the two that pip chooses together; "
            "fix it with: pip install --upgrade --force-reinstall torch torchvision"
        ) from error
    return lightning_cli
