"""What a benchmark works on: the same weights in every engine's form, JPEG files, images to answer about."""

import hashlib
import io
import json
import logging
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from lightning_cifake.class_paths import Spec, with_defaults
from lightning_cifake.classes import CLASS_NAMES
from lightning_cifake.data.decode import DEMO, default_cache_dir
from lightning_cifake.data.layout import parse_classes
from lightning_cifake.data.sources import open_source
from lightning_cifake.deploy import export, quantize
from lightning_cifake.deploy.digest import read_digest
from lightning_cifake.deploy.loaded_model import load_model
from lightning_cifake.deploy.real_images import RealImages, real_images
from lightning_cifake.deploy.verification import check_graph
from lightning_cifake.errors import UserError
from lightning_cifake.evaluation.report import versions
from lightning_cifake.files import sha256_of, write_whole
from lightning_cifake.networks.registry import check_spec, network_class
from lightning_cifake.text import printable

log = logging.getLogger(__name__)

EXPORT_VERSION = 6  # raise it when the same checkpoint would be exported otherwise: it keys what is kept
JPEG_QUALITY = 95  # of images that were no JPEG files
INT8_METHOD: quantize.Method = "percentile 99.99"  # what export's own comparison chose for the released model


@dataclass(frozen=True)
class Materials:
    """Where everything lies.

    Attributes:
        folder: with FAKE/ and REAL/, JPEG files to train on.
        train_images: how many.
        pixels: an .npy file, (N, S, S, 3) uint8, to answer about.
        labels: (N,), FAKE = 0.
        paths: of those N images.
        image: one of them, a file.
        models: by kind (``ckpt``, ``keras``, ``onnx``, ``int8``) a file, or why there is none.
        network: of the weights, its class_path and init_args.
        image_size: the side S of its images.
        published: the network is the one that the reference builds.
    """

    folder: Path
    train_images: int
    pixels: Path
    labels: np.ndarray
    paths: list[str]
    image: Path
    models: Mapping[str, Path | UserError]
    network: Spec
    image_size: int
    published: bool = False

    def model(self, kind: str) -> Path:
        """Raises UserError where there is none."""
        found = self.models[kind]
        if isinstance(found, UserError):
            raise found
        return found


def prepare(
    checkpoint: Path,
    root: str | None,
    needed: Mapping[str, Path | None],
    sizes: tuple[int, int],
    into: Path,
    classes: str | None = None,
) -> Materials:
    """Takes images, evenly over the classes, and makes the models that are needed.

    Args:
        checkpoint: the weights.
        root: the images, as ``--data.root``; the checkpoint's own, or the demo's, where there is none.
        needed: kinds of models, and the file of each that is there already.
        sizes: how many images to train on, and to answer about.
        into: an empty folder.
        classes: as ``--data.classes``.

    Raises:
        UserError: the checkpoint or the images cannot be had.
    """
    loaded = load_model(checkpoint)
    network, size = loaded.classifier.hparams["network"], loaded.classifier.image_size
    data = real_images(checkpoint, root, size, classes)
    trained = data.indices("train", sizes[0])
    _write_jpegs(data, trained, into / "train")
    asked = data.indices("test", sizes[1])
    np.save(into / "asked.npy", data.images.images[asked])
    image = into / "image.png"
    Image.fromarray(data.images.images[asked[0]]).save(image)
    return Materials(
        into / "train",
        len(trained),
        into / "asked.npy",
        data.images.labels[asked],
        [data.images.paths[at] for at in asked],
        image,
        {"ckpt": checkpoint, **_models(checkpoint, data, needed)},
        network,
        size,
        is_published(network, size),
    )


def is_published(network: str | Spec, size: int) -> bool:
    """Is it the network that the reference builds, for images of that side?"""
    return size == 32 and _with_defaults(network) == _with_defaults("resnet50")


def _with_defaults(network: str | Spec) -> Spec:
    """A specification with every argument that it is made with."""
    spec = check_spec(network)
    return {**spec, "init_args": with_defaults(network_class(spec["class_path"]), spec["init_args"])}


def _write_jpegs(data: RealImages, indices: np.ndarray, folder: Path) -> None:
    """The files as they are, where they are JPEGs; decoded images are written as such."""
    images = data.images
    source = None if images.name == DEMO else open_source(images.name, parse_classes(images.classes))
    for number, at in enumerate(indices):
        path = images.paths[at]
        if source is not None and images.encodings["format"][at] == b"JPEG":
            content = source.read(path)
        else:
            buffer = io.BytesIO()
            Image.fromarray(images.images[at]).save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
            content = buffer.getvalue()
        target = folder / CLASS_NAMES[int(images.labels[at])] / f"{number:05d}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)


def _models(checkpoint: Path, data: RealImages, needed: Mapping[str, Path | None]) -> dict[str, Path | UserError]:
    """Those not given are made once for each checkpoint and version, and kept beside the decoded images."""
    makers = json.dumps([EXPORT_VERSION, versions(("torch", "onnx", "onnxscript", "onnxruntime", "keras"))])
    key = hashlib.sha256((sha256_of(checkpoint) + makers).encode()).hexdigest()[:16]
    kept = default_cache_dir() / "benchmark" / key
    models: dict[str, Path | UserError] = {}
    for kind, given in needed.items():
        if given is not None and not given.is_file():
            raise UserError(f"there is no model {printable(given)}: expected a file for --{kind}")
        name, make = _MADE[kind]
        target = given or kept / name
        try:
            if given is None and not _is_whole(target):
                log.info("making %s of %s (kept for the next time)", name, printable(checkpoint))
                make(checkpoint, data, target)
            models[kind] = target
        except UserError as error:
            models[kind] = error
    return models


def _is_whole(model: Path) -> bool:
    """Whether a model that was kept is there, and what was written."""
    try:
        if model.suffix == ".onnx":
            return read_digest(model).checked
        with zipfile.ZipFile(model) as archive:  # .keras
            return archive.testzip() is None
    except (OSError, UserError, zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError, zlib.error):
        return False


def _make_keras(checkpoint: Path, data: RealImages, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    # a process of its own: TensorFlow is not wanted in this one
    command = [sys.executable, "-m", "lightning_cifake", "convert", str(checkpoint), str(target)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise UserError((done.stderr.strip().splitlines() or ["convert failed"])[-1].removeprefix("error: "))


def _make_onnx(checkpoint: Path, data: RealImages, target: Path) -> None:
    _write_model(checkpoint, target, "float32", None)


def _make_int8(checkpoint: Path, data: RealImages, target: Path) -> None:
    _write_model(checkpoint, target, "int8", data.take("train", quantize.CALIBRATION_IMAGES)[0])


def _write_model(checkpoint: Path, target: Path, precision: export.Precision, calibration: np.ndarray | None) -> None:
    """Not the command ``export``: its checks take a minute, and the benchmark compares answers itself."""
    loaded = load_model(checkpoint)
    model = export.to_onnx(loaded.classifier)
    if calibration is not None:
        model = quantize.quantize(model, calibration, INT8_METHOD)
    export.set_metadata(model, export.metadata(loaded.classifier, precision, "uint8", 1.0, 0.5))
    check_graph(model)
    write_whole(target, export.serialized(model))


_MADE = {"keras": ("model.keras", _make_keras), "onnx": ("float32.onnx", _make_onnx), "int8": ("int8.onnx", _make_int8)}
