"""report.html: one self-contained page of an evaluation or of a run, made of its metrics.json."""

import base64
import csv
import io
import itertools
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from lightning_cifake.assessment.page_charts import Charts
from lightning_cifake.assessment.page_values import Values, constant, name_of
from lightning_cifake.assessment.page_words import Words, called
from lightning_cifake.assessment.rendering import environment
from lightning_cifake.classes import DISPLAY_NAMES
from lightning_cifake.errors import UserError
from lightning_cifake.extras import require
from lightning_cifake.files import read_json, write_whole
from lightning_cifake.run_folder import HISTORY, METRICS, PAGE
from lightning_cifake.text import printable, reason_of

EVALUATION = "evaluation"
LONGEST_SIDE = 64  # pixels of an example: larger pictures are shrunk
MOST_BYTES = 1_200_000  # of all pictures on a page, as text; what comes later is named without its picture


def write_page(folder: Path, pictures: Mapping[str, np.ndarray] | None = None) -> Path:
    """Writes report.html beside a metrics.json of ``evaluate``, ``fit``, ``test`` or ``validate``.

    Args:
        folder: holds the metrics.json, and a run's history.csv.
        pictures: by the names that the examples have, (H, W, 3) uint8.

    Returns:
        Its path.

    Raises:
        UserError: no metrics.json, or a damaged one; the page cannot be written; jinja2 is not installed.
    """
    metrics, sealed = read_json(folder / METRICS)
    history = read_history(folder)
    try:
        html = page_of(metrics, pictures, history=history)
    except Exception as error:  # jinja2's own are of no common kind
        if sealed or isinstance(error, UserError):  # what this package wrote: the mistake is its own
            raise
        raise UserError(
            f"{printable(folder / METRICS)} does not hold what evaluate, fit or test write ({reason_of(error)})"
        ) from error
    path = folder / PAGE
    write_whole(path, html)
    return path


def page_of(
    metrics: Mapping[str, Any],
    pictures: Mapping[str, np.ndarray] | None = None,
    history: Sequence[Mapping[str, Any]] = (),
) -> str:
    """The page as HTML that fetches nothing: style, drawings and pictures are in it.

    Args:
        metrics: of ``evaluate``, or of a run.
        pictures: by the names that the examples have, (H, W, 3) uint8; an example without one is named alone.
        history: of a run: an entry an epoch, as :func:`plots.plot_history` takes it.

    Raises:
        UserError: jinja2 is not installed; metrics of something else.
    """
    require("train", "jinja2", what="a page")
    templates = environment(escaped=True)
    values = Values(metrics)
    return templates.get_template(f"{kind_of(metrics)}.html.j2").render(
        m=metrics,
        v=values,
        c=constant,
        name=name_of,
        words=Words(values),
        called=called,
        charts=Charts(values),
        images=_Embedded(pictures or {}),
        history=history,
        command=shlex.join(map(str, metrics.get("command") or [])),
        classes=DISPLAY_NAMES,
    )


def kind_of(metrics: Mapping[str, Any]) -> str:
    """``run`` or ``evaluation``.

    Raises:
        UserError: neither.
    """
    kind = metrics.get("kind", "run")
    needed = {"run": ("accuracy", "confusion_matrix", "images"), EVALUATION: ("data", "models")}.get(kind)
    if needed is None or not all(metrics.get(key) is not None for key in needed):
        raise UserError("expected the metrics.json of a run or an evaluation, got one of something else")
    return kind


def read_history(folder: Path) -> list[dict[str, Any]]:
    """A run's epochs, of its history.csv; none without one."""
    path = folder / HISTORY
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [
            {name: float(cell) if cell else None for name, cell in row.items() if name is not None}
            for row in csv.DictReader(file)
        ]


class _Embedded:
    """Pictures as data URIs, up to MOST_BYTES in all."""

    def __init__(self, pictures: Mapping[str, np.ndarray]) -> None:
        self._pictures = pictures
        self._left = MOST_BYTES
        self.numbers = itertools.count(1)

    def uri(self, name: str) -> Markup | None:
        pixels = self._pictures.get(name)
        if pixels is None:
            return None
        text = base64.b64encode(thumbnail(pixels)).decode()
        if len(text) > self._left:
            return None
        self._left -= len(text)
        return Markup("data:image/png;base64," + text)  # nothing but letters, digits, +, / and =


def thumbnail(pixels: np.ndarray) -> bytes:
    """(H, W, 3) uint8 as a PNG of at most LONGEST_SIDE."""
    from PIL import Image

    image = Image.fromarray(np.asarray(pixels, np.uint8))
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.BOX)
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return file.getvalue()
