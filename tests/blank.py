"""A report's three pictures, left blank: to draw them takes longer than the fit of a tiny network.

What they show is tested in ``tests/evaluation``, which asks for ``drawn_pictures``; a command in a process of its own
(``python tests/tiny.py``) draws them too.
"""

import base64
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from lightning_cifake.evaluation import plots
from lightning_cifake.files import write_whole

# a grey pixel
PNG = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNoAAAAggCBd81ytgAAAABJRU5ErkJggg==")
DRAWN = {name: getattr(plots, name) for name in ("plot_confusion_matrix", "plot_roc", "plot_history")}


def write_blank(*given: Any) -> None:
    (path,) = (each for each in given if isinstance(each, Path))
    write_whole(path, PNG)


def blank_pictures() -> AbstractContextManager[object]:
    return patch.multiple(plots, **dict.fromkeys(DRAWN, write_blank))


def drawn_pictures() -> AbstractContextManager[object]:
    return patch.multiple(plots, **DRAWN)
