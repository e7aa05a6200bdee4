"""What comes beside the code: the released models, the named configurations, and the reference in a checkout.

In an installed package they lie inside it (pyproject.toml maps them there); in a checkout, which an editable
installation is too, in the folders of its top level.
"""

import os
from pathlib import Path
from typing import NamedTuple

from lightning_cifake.errors import UserError
from lightning_cifake.files import expand_user, read_json
from lightning_cifake.hub import fetch, is_hub_name
from lightning_cifake.spelling import did_you_mean
from lightning_cifake.text import printable, shorten

_PACKAGE = Path(__file__).parent
_CHECKOUT = _PACKAGE.parent


class Released(NamedTuple):
    """A released model: its file, beside which its manifest lies, and what it is for."""

    file: str
    about: str


MODELS = {
    "compact": Released("cifake-compact-int8.onnx", "small and fast, in int8"),
    "compact-float32": Released("cifake-compact-float32.onnx", "the same before it was made int8"),
    "best": Released("cifake-best.onnx", "the most accurate"),
    "robust": Released("cifake-robust.onnx", "for images that were compressed, blurred or re-scaled"),
}
DEFAULT = "compact"
CARD = "MODEL_CARD.md"  # of all of them, beside them


def released_model(name: str | None = None) -> Path:
    """The file of a released model, or of the default one; its manifest, ``.json``, lies beside it."""
    return models_folder() / MODELS[name or DEFAULT].file


def models_folder() -> Path:
    """Where the released models lie."""
    inside = _PACKAGE / "released"
    return inside if inside.is_dir() else _CHECKOUT / "checkpoints"


def model_file(model: Path | str | None) -> Path:
    """A model as users name it: text that is a name of :data:`MODELS` is that one, whatever lies in the folder.

    A file of such a name is ``./best``, or in Python ``Path("best")``. None is the released model that answers where
    none is named. ``hf://owner/name`` is fetched from the Hugging Face Hub (:mod:`~lightning_cifake.hub`).

    Raises:
        UserError: a word that is neither a name nor a file, or a model of the Hub that cannot be had.
    """
    if isinstance(model, str) and is_hub_name(model):
        return fetch(model)
    if model is None or (isinstance(model, str) and model in MODELS):
        return released_model(model)
    path = expand_user(model)
    if not (os.path.lexists(path) or path.suffix or len(path.parts) > 1):  # a word alone: a name, misspelt
        names = f"{', '.join(MODELS)}{did_you_mean(str(model), MODELS)}"
        raise UserError(
            f"{printable(shorten(str(model)))} does not exist: expected a model that "
            f"`python -m lightning_cifake export` wrote, or one of {names}"
        )
    return path


def models_help() -> str:
    """A line for each released model, with its manifest's figures: for ``--help``."""
    width = max(map(len, MODELS))
    lines = [f"  {name:{width}}  {model.about}{_figures(released_model(name))}" for name, model in MODELS.items()]
    return "\n".join(["models that come with the package (accuracy: on CIFAKE's own test images):", *lines])


def _figures(path: Path) -> str:
    try:
        manifest, _ = read_json(path.with_suffix(".json"))
        accuracy, size = manifest["real"]["onnxruntime"]["accuracy"], manifest["model"]["bytes"]
        return f": {accuracy:.2%}, {size / 1e6:.1f} MB"
    except (UserError, KeyError, TypeError, ValueError):  # help is for reading; `verify` says what is wrong
        return ""


def config_dir() -> Path:
    """Where the named configurations lie."""
    inside = _PACKAGE / "configs"
    return inside if inside.is_dir() else _CHECKOUT / "configs"


def reference_folder() -> Path | None:
    """The checkout whose ``tf_reference`` runs: this package's own, or the current folder; None without one."""
    return next((each for each in (_CHECKOUT, Path.cwd()) if (each / "tf_reference" / "__init__.py").is_file()), None)
