"""TensorFlow imported before this package used to end the process: exit code 139, and not a word."""

import subprocess
import sys
from importlib.util import find_spec

import pytest

from lightning_cifake.beside_tensorflow import keep_triton_out

SCRIPT = """
import os
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import tensorflow
from lightning_cifake import CIFAKEDataModule, Detector, FakeImageClassifier, load_classifier
import torch, torchvision
import torch._dynamo
import lightning_cifake.commands.lightning_cli
classifier = FakeImageClassifier(weights="none")
assert classifier(torch.zeros(2, 3, 32, 32)).shape == (2,)
assert tensorflow.constant([1.0]).numpy() == [1.0]
print("both work")
"""


@pytest.mark.skipif(find_spec("tensorflow") is None, reason="needs TensorFlow")
def test_the_package_works_behind_tensorflow() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (0, "both work\n"), done.stderr[-2000:]


@pytest.mark.parametrize(
    ("loaded", "kept_out"),
    [((), False), (("tensorflow",), True), (("tensorflow", "triton"), False), (("triton",), False)],
)
def test_triton_is_kept_out_where_tensorflow_came_first_alone(
    monkeypatch: pytest.MonkeyPatch, loaded: tuple[str, ...], kept_out: bool
) -> None:
    modules = {name: module for name, module in sys.modules.items() if name not in ("tensorflow", "triton")}
    modules |= dict.fromkeys(loaded, sys)
    monkeypatch.setattr("lightning_cifake.beside_tensorflow.sys.modules", modules)
    keep_triton_out()
    keep_triton_out()
    assert modules.get("triton", "absent") == (None if kept_out else sys if "triton" in loaded else "absent")
