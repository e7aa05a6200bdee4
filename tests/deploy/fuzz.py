"""Damaged images and models by the thousand: each must give an answer or one clear line, and never end the process.

    python tests/deploy/fuzz.py --seed 0 --images 20000 --models 1000

Images go through the decoder as ``predict`` sends them; models through ``Detector``, loading and one answer; each model
in a process that is started anew where one dies, so that a crash of onnxruntime's own is counted and the run continues.
The same seed makes the same files. test_fuzz.py runs a short one.
"""

import argparse
import io
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, features

from lightning_cifake.shipped import released_model

RELEASED = released_model()
SLOWEST = 5.0  # seconds for one file; a whole 64-megapixel image decodes in less


def mutated(content: bytes, rng: random.Random, most: int = 8) -> bytes:
    """One to ``most`` changes: bits, bytes, four bytes at the edge of a number, cuts, repeats, pieces elsewhere."""
    data = bytearray(content)
    for _ in range(rng.randint(1, most)):
        at = rng.randrange(min(len(data), rng.choice([64, 512, len(data)])) or 1) if data else 0
        kind = rng.randrange(7)
        if not data:
            return b""
        if kind == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[at] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])
        elif kind == 2:
            value = rng.choice([0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 20_000])
            data[at : at + 4] = value.to_bytes(4, rng.choice(["big", "little"]))
        elif kind == 3:
            del data[at + rng.randrange(len(data) - at) :]
        elif kind == 4:
            del data[at : at + rng.randrange(1, 64)]
        elif kind == 5:
            data[at:at] = data[at : at + rng.randrange(1, 256)]
        else:
            other = rng.randrange(len(data))
            data[at : at + 32] = data[other : other + 32]
    return bytes(data)


def image_seeds() -> list[tuple[str, bytes]]:
    """A file of every format and mode that is taken, and some that are refused: (suffix, content)."""
    pixels = np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8)
    made = []
    suffixes = {"WEBP": ".webp", "AVIF": ".avif", "JPEG2000": ".jp2"}
    options: list[tuple[str, str, str, dict[str, object]]] = [
        (".jpg", "JPEG", "RGB", {}),
        (".jpg", "JPEG", "RGB", {"progressive": True}),
        (".jpg", "JPEG", "L", {"quality": 30}),
        (".jpg", "JPEG", "CMYK", {}),
        (".png", "PNG", "RGB", {}),
        (".png", "PNG", "P", {}),
        (".png", "PNG", "LA", {}),
        (".png", "PNG", "I;16", {}),
        (".gif", "GIF", "P", {}),
        (".bmp", "BMP", "RGB", {}),
        (".bmp", "BMP", "P", {}),
        (".tif", "TIFF", "RGB", {}),
        (".tif", "TIFF", "RGB", {"compression": "tiff_lzw"}),
        (".tif", "TIFF", "RGB", {"compression": "jpeg"}),
        (".ppm", "PPM", "RGB", {}),
    ]
    for feature, form, extra in (
        ("webp", "WEBP", {"lossless": True}),
        ("webp", "WEBP", {}),
        ("avif", "AVIF", {"speed": 10}),
        ("jpg_2000", "JPEG2000", {}),
    ):
        if features.check(feature):
            options.append((suffixes[form], form, "RGB", extra))
    for suffix, form, mode, extra in options:
        file = io.BytesIO()
        image = Image.fromarray(pixels)
        image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257) if mode == "I;16" else image.convert(mode)
        image.save(file, form, **extra)
        made.append((suffix, file.getvalue()))
    return made


def fuzz_images(seed: int, count: int) -> Counter[str]:
    """How often each end came: ``answered``, or the error's first words."""
    from lightning_cifake.deploy.load import load

    rng, seeds, ends = random.Random(seed), image_seeds(), Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        for number in range(count):
            suffix, content = seeds[number % len(seeds)]
            path = Path(folder) / f"image{suffix}"
            path.write_bytes(mutated(content, rng))
            started = time.monotonic()
            loaded = load(path)
            seconds = time.monotonic() - started
            assert seconds < SLOWEST, f"image {number} of seed {seed} took {seconds:.1f} s"
            if loaded.pixels is None:
                assert loaded.error and "\n" not in loaded.error, f"image {number} of seed {seed}: {loaded.error!r}"
                ends[loaded.error.partition("(")[0].split(":")[0].strip()[:24]] += 1
            else:
                assert loaded.pixels.dtype == np.uint8 and loaded.pixels.shape[2] == 3
                ends["answered"] += 1
    return ends


def answer_models(seed: int, count: int, first: int, model: Path) -> Iterator[str]:
    """The end of each model from ``first`` on: ``answered``, ``refused``, or ``no probability``, as NaN."""
    from lightning_cifake import Detector
    from lightning_cifake.errors import UserError

    content, image = model.read_bytes(), np.full((40, 24, 3), 99, np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        for number in range(first, count):
            path.write_bytes(mutated(content, random.Random(f"{seed} {number}"), 2))
            try:
                (answer,) = Detector(path, threads=1).predict(image)
                if answer.error is None:
                    assert answer.verdict in ("AI", "REAL"), answer
                    yield "answered"
                else:
                    assert answer.error.startswith("the model's answer is no probability"), answer
                    yield "no probability"
            except UserError as error:
                assert "\n" not in str(error), error
                yield "refused"


def fuzz_models(seed: int, count: int, model: Path, said: Callable[[str], None] = print) -> Counter[str]:
    """How often each end came; ``crashed`` where the process died or did not end, with its number said."""
    ends = Counter[str]()
    done = 0
    while done < count:
        command = [sys.executable, __file__, "--worker", str(model), "--first", str(done)]
        command += ["--seed", str(seed), "--models", str(count)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as worker:
            assert worker.stdout is not None and worker.stderr is not None
            for line in worker.stdout:
                ends[line.strip()] += 1
                done += 1
            error = worker.stderr.read()
        if worker.returncode > 0:
            raise AssertionError(f"model {done} of seed {seed}: {error.strip().splitlines()[-1]}")
        if worker.returncode < 0:
            said(f"model {done} of seed {seed}: the process died of signal {-worker.returncode}")
            ends["crashed"] += 1
            done += 1
    return ends


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--images", type=int, default=0, help="damaged images to decode")
    parser.add_argument("--models", type=int, default=0, help="damaged models to load")
    parser.add_argument("--model", type=Path, default=RELEASED, help="the model to damage (default: the released one)")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--first", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker is not None:
        for end in answer_models(options.seed, options.models, options.first, options.worker):
            print(end, flush=True)
        return 0
    started = time.monotonic()
    images = fuzz_images(options.seed, options.images)
    models: Counter[str] = Counter()
    if options.models:
        models = fuzz_models(options.seed, options.models, options.model)
    found = {"seed": options.seed, "images": dict(images), "models": dict(models)}
    print(json.dumps({**found, "seconds": round(time.monotonic() - started)}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
