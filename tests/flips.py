"""One flipped byte in every kind of file that decides an answer: is it refused, repaired, or does another answer come?

    python tests/flips.py --tries 200 --seed 0 --output flips.json

Each kind of file is made once, small. Then, at seeded random places, one byte is changed to another, the file is used
through the functions that the commands call, and the byte is put back. Counted is how each try ends:

refused    one line says what is wrong
repaired   the same answer; the file was made again (the cache of decoded images)
same       the same answer; the byte decides nothing, or carries nothing
said       another answer, and a warning or a list of problems that says so
silent     another answer silently: what must not be
several    refused in more than one line
traceback  an exception that is not a UserError
hung       no end after 60 seconds

tests/test_flips.py runs a few tries of each; `pytest -m long tests/test_flips.py` two hundred.
"""

import argparse
import hashlib
import importlib.util
import io
import json
import logging
import os
import random
import shutil
import signal
import sys
import tempfile
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ENDS = ("refused", "repaired", "same", "said", "silent", "several", "traceback", "hung")
BAD = ("silent", "several", "traceback", "hung")
IMAGES = 60
LONGEST = 60  # seconds


@dataclass(frozen=True)
class Kind:
    """A file, and what a user does with it.

    Attributes:
        name: for the table.
        path: what is flipped.
        use: gives anything that can be hashed by :func:`digest`: the answer.
        place: the first byte that may be flipped, and the one behind the last.
        restore: puts back what the use may have removed or made again; None where it changes nothing.
    """

    name: str
    path: Path
    use: Callable[[], Any]
    place: tuple[int, int]
    restore: Callable[[], None] | None = None


def _module(name: str, path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def digest(value: Any) -> str:
    """Of whatever an answer is made of: arrays, tensors, tuples, mappings, numbers, text."""
    found = hashlib.sha256()
    _feed(found, value)
    return found.hexdigest()


def _feed(found: Any, value: Any) -> None:
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray):
        found.update(f"{value.dtype} {value.shape}".encode() + np.ascontiguousarray(value).tobytes())
    elif isinstance(value, dict):
        for key, each in value.items():
            found.update(repr(key).encode())
            _feed(found, each)
    elif isinstance(value, list | tuple | frozenset):
        found.update(f"{len(value)}".encode())
        for each in sorted(value) if isinstance(value, frozenset) else value:
            _feed(found, each)
    else:
        found.update(repr(value).encode())


def write_images(path: Path) -> None:
    """A zip of IMAGES pictures, half of each class, each of its own."""
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(path, "w") as archive:
        for label in ("FAKE", "REAL"):
            for number in range(IMAGES // 2):
                file = io.BytesIO()
                Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(file, "PNG")
                archive.writestr(f"{label}/{number:03d}.png", file.getvalue())


def make_kinds(folder: Path, keras: bool = True) -> list[Kind]:
    """Trains, exports and decodes in a folder; every kind of file of it."""
    import torch

    from lightning_cifake.checkpoint import read_checkpoint, read_weights
    from lightning_cifake.commands.main import main
    from lightning_cifake.data.decode import load_images
    from lightning_cifake.data.protocols import read_split
    from lightning_cifake.deploy.detector import Detector
    from lightning_cifake.deploy.loaded_model import load_model
    from lightning_cifake.deploy.manifest import read_manifest
    from lightning_cifake.deploy.predict import ClassifierModel, load_classifier
    from lightning_cifake.deploy.real_images import real_images
    from lightning_cifake.run_folder import read_config

    archive, cache, run, alone = folder / "images.zip", folder / "cache", folder / "run", folder / "alone"
    write_images(archive)
    os.environ["LIGHTNING_CIFAKE_CACHE"] = str(cache)
    commands = (
        [
            "fit",
            "--model.network",
            "tiny.SmallNetwork",  # beside this file: a thousand weights that are trained, exported and resumed
            "--data.root",
            str(archive),
            "--output_dir",
            str(run),
            "--trainer.max_epochs",
            "1",
            "--data.sample",
            "null",
            "--trainer.logger",
            "false",
        ],
        ["export", "--ckpt_path", str(run / "best.ckpt"), "--output", str(run / "model.onnx")],
    )
    for command in commands:
        said = io.StringIO()
        with redirect_stdout(said), redirect_stderr(said):
            code = main(command)
        assert code == 0, said.getvalue()
    alone.mkdir()
    shutil.copy(run / "model.onnx", alone)
    best, last = run / "best.ckpt", run / "last.ckpt"
    weights = folder / "weights.pt"
    torch.save(load_classifier(best).network.state_dict(), weights)
    images = load_images(str(archive), 32)
    pixels = images.images[:8].copy()

    def decoded(root: Path, where: Path) -> Any:
        found = load_images(str(root), 32, where)
        for problem in found.problems:
            logging.getLogger("lightning_cifake").warning("%s is left out", problem)
        return np.array(found.images), found.paths, found.labels, found.parts, found.groups, found.digest

    def test_images() -> Any:
        found = real_images(best, None, 32)
        return [found.indices(part) for part in ("train", "val", "test")], found.of_run

    def opened() -> Any:
        detector = Detector(alone / "model.onnx", threads=1)
        return detector.run(pixels), detector.facts.metadata

    kinds = [
        whole("best.ckpt", best, lambda: ClassifierModel(load_classifier(best)).logits(pixels)),
        whole("last.ckpt", last, lambda: read_checkpoint(last)),
        whole("weights .pt", weights, lambda: read_weights(weights)),
        whole("exported ONNX", alone / "model.onnx", opened),
        whole("manifest", run / "model.json", lambda: read_manifest(run / "model.onnx")[0]),
        whole("split.json, by export", run / "split.json", test_images),
        whole("split.json, by fit", run / "split.json", lambda: vars(read_split(run / "split.json", images))),
        whole("metrics.json", run / "metrics.json", lambda: load_model(best).training),
        whole("config.yaml", run / "config.yaml", lambda: getattr(read_config(run), "values", None)),
        *_cache_kinds(folder, archive, decoded),
        *_zip_kinds(folder, archive, decoded),
    ]
    if keras:
        kinds += _keras_kinds(folder)
    return kinds


def whole(name: str, path: Path, use: Callable[[], Any]) -> Kind:
    return Kind(name, path, use, (0, path.stat().st_size))


def _cache_kinds(folder: Path, archive: Path, decoded: Callable[[Path, Path], Any]) -> list[Kind]:
    """Every file that decoding leaves; what a use makes again or removes is laid back from a copy."""
    cache, kept = folder / "decoded", folder / "kept"
    decoded(archive, cache)
    shutil.copytree(cache, kept)

    def restore() -> None:
        shutil.rmtree(cache)
        shutil.copytree(kept, cache)

    files = [path for path in sorted(cache.rglob("*")) if path.is_file() and path.stat().st_size]
    return [
        Kind(
            f"cache: {path.name}",
            path,
            lambda: decoded(archive, cache),
            (0, path.stat().st_size),
            restore,
        )
        for path in files
    ]


def _zip_kinds(folder: Path, archive: Path, decoded: Callable[[Path, Path], Any]) -> list[Kind]:
    other, fresh = folder / "flipped.zip", folder / "fresh"
    shutil.copy(archive, other)
    with zipfile.ZipFile(archive) as opened:
        directory = opened.start_dir

    def restore() -> None:
        shutil.rmtree(fresh, ignore_errors=True)

    size = archive.stat().st_size
    places = {"zip: its directory": (directory, size), "zip: its members": (0, directory)}
    return [Kind(name, other, lambda: decoded(other, fresh), place, restore) for name, place in places.items()]


def _keras_kinds(folder: Path) -> list[Kind]:
    """The paper's network in Keras's two forms: 94 MB each, a second a try."""
    from lightning_cifake.keras_io.importer import import_keras

    form = _module("flips_keras", Path(__file__).with_name("keras_io") / "keras_form.py")
    weights = form.random_weights()
    keras = form.write_keras(folder / "model.keras", form.published(), form.paths(weights))
    h5 = form.write_legacy_weights(folder / "resnet.weights.h5", form.random_weights(head=None))

    def imported(path: Path) -> Any:
        found = import_keras(path)._asdict()
        notes = found.pop("notes", ())
        for note in notes:
            logging.getLogger("lightning_cifake").warning("%s", note)
        return found

    return [
        whole("Keras .keras", keras, lambda: imported(keras)),
        whole("Keras .weights.h5", h5, lambda: imported(h5)),
    ]


class _Heard(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def used(kind: Kind) -> tuple[str, list[str]]:
    """The digest of the answer, and what was said beside it."""
    heard, logger = _Heard(), logging.getLogger("lightning_cifake")
    logger.addHandler(heard)
    propagates, logger.propagate = logger.propagate, False
    try:
        with warnings.catch_warnings(record=True) as warned, redirect_stdout(io.StringIO()):
            warnings.simplefilter("always")
            answer = digest(kind.use())
    finally:
        logger.removeHandler(heard)
        logger.propagate = propagates
    return answer, [*heard.lines, *(str(each.message) for each in warned)]


def flip(kind: Kind, rng: random.Random) -> tuple[int, int]:
    """Changes one byte in place to another; where, and what it was."""
    at = rng.randrange(*kind.place)
    with kind.path.open("r+b") as file:
        file.seek(at)
        before = file.read(1)[0]
        file.seek(at)
        file.write(bytes([before ^ rng.randrange(1, 256)]))
    return at, before


def _unflip(kind: Kind, at: int, before: int, length: int) -> None:
    with kind.path.open("r+b") as file:
        assert file.seek(0, 2) == length
        file.seek(at)
        file.write(bytes([before]))


def one_try(kind: Kind, rng: random.Random, expected: tuple[str, list[str]]) -> tuple[str, str]:
    """How it ended, and what was said."""
    from lightning_cifake.errors import UserError

    length = kind.path.stat().st_size
    at, before = flip(kind, rng)
    flipped = kind.path.read_bytes() if kind.restore else b""
    place = f"byte {at:,} of {kind.path.name}: "
    try:
        with _time_limit():
            answer, said = used(kind)
    except UserError as error:
        return ("several" if "\n" in str(error) else "refused"), place + str(error)
    except TimeoutError:
        return "hung", place
    except Exception as error:
        return "traceback", place + f"{type(error).__name__}: {error}"
    else:
        new = [line for line in said if line not in expected[1]]
        unchecked = [line for line in said if "digest" in line or "unchecked" in line or "checksum" in line]
        if answer != expected[0]:
            return ("said" if new or unchecked else "silent"), place + "; ".join(new or unchecked)
        repaired = kind.restore is not None and kind.path.is_file() and kind.path.read_bytes() != flipped
        return ("repaired" if repaired else "same"), place
    finally:
        if kind.restore is not None:
            kind.restore()
        if kind.restore is None or kind.path.stat().st_size == length:
            _unflip(kind, at, before, length)


@contextmanager
def _time_limit() -> Iterator[None]:
    def over(number: int, frame: Any) -> None:
        raise TimeoutError

    handler = signal.signal(signal.SIGALRM, over)
    signal.alarm(LONGEST)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, handler)


@dataclass(frozen=True)
class Row:
    ends: Counter[str]
    examples: dict[str, list[str]]  # of each end, the first few


def measure(kinds: Iterable[Kind], tries: int, seed: int, said: Callable[[str], None] | None = None) -> dict[str, Row]:
    """How often each end came, kind by kind; the same seed flips the same bytes of the same files."""
    table = {}
    for kind in kinds:
        if kind.restore is not None:
            kind.restore()
        expected = used(kind)
        if kind.restore is not None:
            kind.restore()
        rng, row = random.Random(f"{seed} {kind.name}"), Row(Counter(), {})
        for _ in range(tries):
            end, what = one_try(kind, rng, expected)
            row.ends[end] += 1
            examples = row.examples.setdefault(end, [])
            if len(examples) < 5:
                examples.append(what)
        table[kind.name] = row
        if said is not None:
            said(line(kind.name, row))
    return table


def line(name: str, row: Row) -> str:
    return f"{name:24}" + "".join(f"{row.ends[end] or '.':>10}" for end in ENDS)


def header() -> str:
    return f"{'':24}" + "".join(f"{end:>10}" for end in ENDS)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tries", type=int, default=200, help="of each kind (default: 200)")
    parser.add_argument("--kinds", metavar="TEXT", help="only those whose name holds TEXT")
    parser.add_argument("--without_keras", action="store_true", help="whose files are large: a second a try")
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="writes the counts and the first cases there")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        asked = options.kinds or ""
        kinds = make_kinds(Path(folder), keras=not options.without_keras)
        print(header(), flush=True)
        chosen = [kind for kind in kinds if asked.lower() in kind.name.lower()]
        table = measure(chosen, options.tries, options.seed, lambda text: print(text, flush=True))
    if options.output is not None:
        content = {name: {"ends": dict(row.ends), "examples": row.examples} for name, row in table.items()}
        whole_table = {"seed": options.seed, "tries": options.tries, "kinds": content}
        options.output.write_text(json.dumps(whole_table, indent=1) + "\n")
    return 1 if any(row.ends[end] for row in table.values() for end in BAD) else 0


if __name__ == "__main__":
    sys.exit(main())
