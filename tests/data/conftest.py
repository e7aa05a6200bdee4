"""Made data: small datasets of JPEG and PNG files in every layout, as folders and as archives."""

import io
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lightning_cifake.data.decode import ImageSet


class MadeData:
    """Writes small datasets. Reached through the fixture of the same name in small letters."""

    @staticmethod
    def pixels(number: int, size: int = 32) -> np.ndarray:
        """(S, S, 3) uint8, another picture for every number."""
        return np.random.default_rng(number).integers(0, 256, (size, size, 3), dtype=np.uint8)

    @classmethod
    def encoded(cls, number: int, format: str = "JPEG", mode: str = "RGB", size: int = 32, **options: object) -> bytes:
        file = io.BytesIO()
        Image.fromarray(cls.pixels(number, size)).convert(mode).save(file, format, **options)
        return file.getvalue()

    @classmethod
    def files(cls, layout: str, each: int = 3) -> dict[str, bytes]:
        """Path -> content; ``each`` images of each class in each part.

        Layouts: ``flat``, ``parts`` (train/val/test, PNG among JPEG), ``kaggle`` (train and test, CIFAKE's names),
        ``author`` (the same behind the prefix of the author's archive, with a README).
        """
        folders = {
            "flat": [""],
            "parts": ["train/", "val/", "test/"],
            "kaggle": ["train/", "test/"],
            "author": ["CIFAKE-e112a942/DATASET/train/", "CIFAKE-e112a942/DATASET/test/"],
        }[layout]
        made: dict[str, bytes] = {"CIFAKE-e112a942/README.md": b"about"} if layout == "author" else {}
        number = 0
        for folder in folders:
            for label in ("REAL", "FAKE"):
                for i in range(each):
                    number += 1
                    if layout in ("kaggle", "author"):
                        stem = f"{i // 10:04d}" if label == "REAL" else f"{i // 10}"
                        name = f"{stem} ({i % 10 + 1}).jpg" if i % 10 else f"{stem}.jpg"
                    else:
                        name = f"{i}.png" if layout == "parts" and i % 2 else f"{i}.jpg"
                    format = "PNG" if name.endswith("png") else "JPEG"
                    made[f"{folder}{label}/{name}"] = cls.encoded(number, format)
        return made

    @staticmethod
    def folder(root: Path, files: dict[str, bytes]) -> Path:
        for path, content in files.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(content)
        return root

    @staticmethod
    def zip(path: Path, files: dict[str, bytes], packed: int = zipfile.ZIP_STORED, comment: bytes = b"") -> Path:
        with zipfile.ZipFile(path, "w", packed) as archive:
            for name, content in files.items():
                archive.writestr(zipfile.ZipInfo(name, (2024, 1, 24, 0, 0, 0)), content, packed)
            archive.comment = comment
        return path


@pytest.fixture(scope="session")
def madedata() -> type[MadeData]:
    return MadeData


@pytest.fixture(scope="session")
def imageset() -> Callable[..., ImageSet]:
    """Makes an ImageSet of black 1x1 images from labels and what else is given."""

    def make(
        labels: Iterable[int],
        classes: Iterable[int] | None = None,
        groups: Iterable[int] | None = None,
        parts: Iterable[str] | None = None,
    ) -> ImageSet:
        labels = np.array(list(labels), np.uint8)
        n = len(labels)
        return ImageSet(
            np.zeros((n, 1, 1, 3), np.uint8),
            [f"{('FAKE', 'REAL')[label]}/{i}.png" for i, label in enumerate(labels)],
            labels,
            np.array(list(parts)) if parts is not None else np.full(n, ""),
            np.array(list(classes), np.uint8) if classes is not None else np.zeros(n, np.uint8),
            np.array(list(groups), np.int64) if groups is not None else np.arange(n),
            "digest",
            [],
            "made",
        )

    return make
