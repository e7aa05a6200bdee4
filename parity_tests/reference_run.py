"""A short training of ``tf_reference`` by its own command, whose model and results several tests look at."""

import io
import json
import os
import subprocess
import sys
import warnings
from contextlib import redirect_stderr, redirect_stdout
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import cv2
import numpy as np

from lightning_cifake.data.decode import DEMO, load_images
from lightning_cifake.errors import UserError
from lightning_cifake.files import write_whole
from parity_tests.real_images import cifake


class ReferenceRun(NamedTuple):
    """Where the images lie, what the command wrote there, and what it printed."""

    data: Path
    folder: Path
    printed: str

    @property
    def model(self) -> Path:
        return self.folder / "ai_imageclassifier.keras"

    @property
    def results(self) -> dict:
        return json.loads((self.folder / "results.json").read_text())


def run_module(module: str, *arguments: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    """``python -m module`` in a process of its own, with this checkout in its path."""
    here = Path(__file__).resolve().parents[1]
    finished = subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        cwd=here,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1"},
    )
    if check and finished.returncode:
        raise AssertionError(f"exit code {finished.returncode}\n{finished.stdout}\n{finished.stderr[-3000:]}")
    return finished


def run_here(module: str, *arguments: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    """The same in this process, which has both frameworks imported: seconds less, and nothing of it is shared."""
    import torch  # noqa: F401 - before TensorFlow

    main = import_module({"lightning_cifake": "lightning_cifake.commands.main"}.get(module, f"{module}.__main__")).main
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as a process shows them: on standard error, and goes on
        code = main([str(argument) for argument in arguments])
    if check and code:
        raise AssertionError(f"exit code {code}\n{out.getvalue()}\n{err.getvalue()[-3000:]}")
    return subprocess.CompletedProcess([module], code, out.getvalue(), err.getvalue())


def tf_reference(*arguments: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    """What ``python -m tf_reference`` does."""
    return run_here("tf_reference", *arguments, check=check)


def write_folder(root: Path, images: int) -> Path:
    """FAKE/ and REAL/ with so many images: CIFAKE's own files where it is at hand, else the demo's as PNG."""
    for name in ("FAKE", "REAL"):
        (root / name).mkdir(parents=True)
    if os.environ.get("CIFAKE_ROOT"):
        source = cifake(os.environ["CIFAKE_ROOT"])
        for label, name in enumerate(("FAKE", "REAL")):
            entries = [entry for entry in source.entries if entry.part == "train" and entry.label == label]
            for entry in entries[:: len(entries) // (images // 2)][: images // 2]:
                (root / name / Path(entry.path).name).write_bytes(source.read(entry.path))
        return root
    demo = load_images(DEMO, cache_dir=root.parent / "decoded")
    for label, name in enumerate(("FAKE", "REAL")):
        for i in np.flatnonzero(demo.labels == label)[: images // 2]:
            cv2.imwrite(str(root / name / f"{i}.png"), cv2.cvtColor(np.asarray(demo.images[i]), cv2.COLOR_RGB2BGR))
    return root


def unpack(root: str | Path, paths: set[str], folder: Path) -> None:
    """Writes the files of those paths, as ``test/FAKE/1.jpg``, below ``folder``; TensorFlow reads no zip."""
    source = cifake(root)
    if missing := paths - {entry.path for entry in source.entries}:
        raise UserError(f"{root}: {len(missing)} of the files asked for are not in it, first {min(missing)}")
    for path in sorted(paths):
        target = folder / path
        if not target.is_file():
            write_whole(target, source.read(path))


def traced_once(model: Any) -> Any:
    """Makes a compiled model's optimizer and metrics the variables that its first step would make, all of them zeros.

    TensorFlow traces a step that makes variables twice, and a ResNet50's for the first time with a condition around
    each of them: most of the time that a short training takes.
    """
    model.optimizer.build(model.trainable_variables)
    model.compute_metrics(None, *2 * [np.zeros((1, 1), np.float32)])
    model.reset_metrics()
    return model


def train_reference(folder: Path, images: int = 640, epochs: int = 2) -> ReferenceRun:
    """``tf_reference fit --protocol clean``, a quarter of a minute."""
    from tf_reference import train

    data, run = write_folder(folder / "images", images), folder / "run"
    asked = ["--data.root", data, "--weights", "none", "--epochs", epochs, "--seed", 0, "--output", run]
    compiled = train.compile_model
    with patch.object(train, "compile_model", lambda *given: traced_once(compiled(*given))):
        printed = tf_reference("fit", *asked, "--protocol", "clean", "--decoder", "accurate").stdout
    return ReferenceRun(data, run, printed)
