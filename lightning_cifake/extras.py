"""What `pip install lightning_cifake` leaves out: one sentence that names the extra to install, where it is needed.

require("train", "torch", "lightning", what="fit")
"""

import sys
from importlib.util import find_spec

from lightning_cifake.errors import UserError

EXTRA_OF = {
    "cv2": "train",
    "h5py": "train",
    "jinja2": "train",
    "lightning": "train",
    "markupsafe": "train",
    "matplotlib": "train",
    "onnxscript": "train",
    "scipy": "train",
    "sklearn": "train",
    "tensorboard": "train",
    "torch": "train",
    "torchmetrics": "train",
    "torchvision": "train",
    "captum": "evaluate",
    "cleanlab": "evaluate",
    "keras": "tf",
    "seaborn": "tf",
    "tensorflow": "tf",
    "ray": "ray",
    "huggingface_hub": "hub",
    "safetensors": "hub",
    "pillow_heif": "heic",
    "fastapi": "web",
    "httptools": "web",
    "markdown_it": "web",
    "prometheus_client": "web",
    "python_multipart": "web",
    "starlette": "web",
    "uvicorn": "web",
}
"""Module -> the extra of pyproject.toml that installs it; what is not here comes with the package itself."""


class MissingExtra(UserError, ImportError):
    """A module of an extra that is not installed: one line on the command line, an ImportError in Python."""


def require(extra: str, *modules: str, what: str) -> None:
    """Nothing where all of these can be imported; imports none of them, so it costs no time.

    Args:
        extra: of pyproject.toml.
        modules: by the names that they are imported by.
        what: needs them: a command, a flag or a public name; the sentence begins with it.

    Raises:
        MissingExtra: one or more are not installed.
    """
    absent = [module for module in modules if not _is_installed(module)]
    if absent:
        raise _missing(what, " and ".join(absent), extra)


def missing_extra(error: ImportError, what: str) -> MissingExtra | None:
    """The sentence for an import that failed; None where no extra would fix it."""
    if isinstance(error, MissingExtra):  # it says so itself, with other words before it
        return error
    module = (error.name or "").partition(".")[0]
    # a module that is there and fails on its way in is broken, not missing
    if module not in EXTRA_OF or _is_installed(module):
        return None
    return _missing(what, module, EXTRA_OF[module])


def _missing(what: str, modules: str, extra: str) -> MissingExtra:
    return MissingExtra(f"{what} needs {modules}: pip install 'lightning_cifake[{extra}]'")


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):  # ValueError: it is imported and has no spec, or None stands in its place
        return sys.modules.get(module) is not None
