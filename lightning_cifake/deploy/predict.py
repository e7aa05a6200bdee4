"""A checkpoint's answers about image files."""

import csv
import glob
import io
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from lightning_cifake.data.datamodule import to_float
from lightning_cifake.data.decode import decode_image
from lightning_cifake.data.sources import IMAGE_SUFFIXES
from lightning_cifake.errors import UserError
from lightning_cifake.files import write_whole
from lightning_cifake.model.classifier import FakeImageClassifier
from lightning_cifake.training.checkpoints import read_checkpoint


@dataclass(frozen=True)
class Answer:
    """About one file: ``verdict`` (AI or REAL) and ``prob_real`` in [0, 1], or both are None and ``error`` says why."""

    path: str
    verdict: str | None
    prob_real: float | None
    error: str | None = None

    def line(self) -> str:
        if self.error is not None:
            return f"{self.path}\tERROR\t{self.error}"
        return f"{self.path}\t{self.verdict}\t{self.prob_real:.6f}"


def load_classifier(checkpoint: Path | str) -> FakeImageClassifier:
    """The model of a checkpoint, in eval mode, read without running code from it.

    Raises:
        UserError: no such file, damaged, or of another model.
    """
    content = read_checkpoint(Path(checkpoint))
    try:
        # LightningCLI adds notes of its own, which begin with an underscore
        arguments = {name: value for name, value in content["hyper_parameters"].items() if not name.startswith("_")}
        classifier = FakeImageClassifier(**arguments)
        classifier.load_state_dict(content["state_dict"], strict=True)
    except (AttributeError, KeyError, TypeError, RuntimeError) as error:
        raise UserError(f"{checkpoint} is of another model: {str(error).splitlines()[0]}") from error
    return classifier.eval()


def find_images(patterns: Sequence[str]) -> list[Path]:
    """Files as given, the images below folders, and what globs match; sorted within each, none twice.

    Raises:
        UserError: something given does not exist, or matches nothing.
    """
    found: dict[Path, None] = {}
    for pattern in patterns:
        path = Path(pattern)
        if path.is_dir():
            below = sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
        elif path.exists():
            below = [path]
        else:
            below = sorted(Path(name) for name in glob.glob(pattern, recursive=True) if Path(name).is_file())  # noqa: PTH207
        if not below:
            what = "has no images in it" if path.is_dir() else "is no file, no folder, and matches nothing"
            raise UserError(f"{pattern} {what}: expected files that end in {' '.join(IMAGE_SUFFIXES)}")
        found.update(dict.fromkeys(below))
    return list(found)


def predict_files(checkpoint: Path | str, paths: Sequence[Path], batch_size: int = 256) -> Iterator[Answer]:
    """Asks a checkpoint about files, in order; a file that cannot be read gives an answer with its error.

    Raises:
        UserError: the checkpoint cannot be used.
    """
    from rich.console import Console
    from rich.progress import track

    classifier = load_classifier(checkpoint)
    size = classifier.hparams["image_size"]
    starts = range(0, len(paths), batch_size)
    console = Console(stderr=True)
    hidden = (
        len(starts) == 1 or not console.is_terminal or sys.stdout.isatty()
    )  # lines on a terminal are progress enough
    for start in track(starts, f"{len(paths):,} images", console=console, disable=hidden):
        yield from _answers(classifier, paths[start : start + batch_size], size)


def _answers(classifier: FakeImageClassifier, paths: Sequence[Path], size: int) -> list[Answer]:
    pixels: list[np.ndarray] = []
    errors: dict[Path, str] = {}
    for path in paths:
        try:
            if not path.is_file():
                raise ValueError("not a file")
            pixels.append(decode_image(path.read_bytes(), path.suffix, size))
        except (OSError, ValueError) as error:
            errors[path] = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
    probabilities = iter(_prob_real(classifier, pixels))
    answers = []
    for path in paths:
        if path in errors:
            answers.append(Answer(str(path), None, None, errors[path]))
        else:
            prob_real = float(next(probabilities))
            answers.append(Answer(str(path), "REAL" if prob_real > 0.5 else "AI", prob_real))
    return answers


@torch.inference_mode()
def _prob_real(classifier: FakeImageClassifier, pixels: list[np.ndarray]) -> list[float]:
    if not pixels:
        return []
    return classifier(to_float(torch.from_numpy(np.stack(pixels)))).sigmoid().tolist()


def write_answers(path: Path, answers: Sequence[Answer]) -> None:
    """Writes answers as .csv or .json, whole or not at all.

    Raises:
        UserError: it cannot be written.
    """
    rows = [asdict(answer) for answer in answers]
    if path.suffix == ".json":
        text = json.dumps(rows, indent=1) + "\n"
    else:
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, ["path", "verdict", "prob_real", "error"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        text = buffer.getvalue()
    write_whole(path, text)
