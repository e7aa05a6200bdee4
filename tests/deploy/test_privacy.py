"""Nothing is sent, and nothing is left under the home folder: asking about images concerns nobody else."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lightning_cifake.shipped import released_model

ROOT = Path(__file__).parents[2]
COMMANDS = {
    "predict": ["-m", "lightning_cifake", "predict", "--model", "model.onnx", "a.png"],
    "Detector": ["-c", "from lightning_cifake import Detector; print(Detector('model.onnx').predict('a.png'))"],
    "verify": ["-m", "lightning_cifake", "verify", str(released_model())],
}


@pytest.fixture
def home(workplace: Path, make_model: Callable[..., Path]) -> Path:
    """An empty home folder inside the current one, which has model.onnx and a.png."""
    make_model()
    Image.fromarray(np.full((32, 32, 3), 200, np.uint8)).save(workplace / "a.png")
    (workplace / "home").mkdir()
    return workplace / "home"


def run(home: Path, command: list[str], *before: str) -> subprocess.CompletedProcess[str]:
    unset = ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "LIGHTNING_CIFAKE_CACHE")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    ran = subprocess.run(
        [*before, sys.executable, *command],
        cwd=home.parent,
        env={**environment, "HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr
    return ran


def connections(trace: str) -> list[str]:
    """The lines of strace's log that reach out of this machine, or ask where another one is.

    The system asks nscd's local socket who this user is, too; a look-up that it does not answer goes on by AF_INET.
    """
    return [line for line in trace.splitlines() if re.search(r"AF_INET|systemd/resolve", line)]


def outside_the_cache(home: Path) -> list[Path]:
    """Files below home but those in this project's cache, and matplotlib's list of this machine's fonts in its own."""
    caches = {home / ".cache" / "lightning_cifake", home / ".cache" / "matplotlib"}
    return [path for path in home.rglob("*") if path.is_file() and not caches & set(path.parents)]


def test_an_empty_home_stays_empty(home: Path) -> None:
    for command in ("predict", "Detector"):
        run(home, COMMANDS[command])
        assert list(home.rglob("*")) == []
    run(home, COMMANDS["verify"])  # it decodes the demo's images
    assert outside_the_cache(home) == []


@pytest.mark.parametrize("command", COMMANDS)
def test_no_socket_is_opened_to_anybody(home: Path, command: str) -> None:
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed: it sees what native libraries do, which Python's own audit does not")
    log = home.parent / "trace"
    traced = ("strace", "-f", "-qq", "-e", "trace=network", "-o", str(log))
    if subprocess.run([*traced, "true"], capture_output=True).returncode:
        pytest.skip("strace may not trace here")
    run(home, COMMANDS[command], *traced)
    assert connections(log.read_text()) == []


def test_the_check_sees_a_socket(home: Path) -> None:
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    log = home.parent / "trace"
    traced = ("strace", "-f", "-qq", "-e", "trace=network", "-o", str(log))
    if subprocess.run([*traced, "true"], capture_output=True).returncode:
        pytest.skip("strace may not trace here")
    run(
        home,
        ["-c", "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(('127.0.0.1', 9))"],
        *traced,
    )
    assert connections(log.read_text())


def test_what_the_user_has_set_stays(home: Path) -> None:
    script = "import os, lightning_cifake; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    assert run(home, ["-c", script]).stdout == "1\n"
    environment = {**os.environ, "ORT_DISABLE_TELEMETRY": "0"}
    ran = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert ran.stdout == "0\n"


def traced_where_possible(log: Path) -> tuple[str, ...]:
    traced = ("strace", "-f", "-qq", "-e", "trace=connect,sendto,sendmsg", "-o", str(log))
    if shutil.which("strace") is None or subprocess.run([*traced, "true"], capture_output=True).returncode:
        return ()
    return traced


@pytest.mark.long
def test_training_and_its_checkpoint_leave_below_home_nothing_but_caches_and_send_nothing(home: Path) -> None:
    tiny, log = str(ROOT / "tests" / "tiny.py"), home.parent / "trace"
    for command in (
        ["fit", "--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2"],
        ["predict", "--ckpt_path", "checkpoints/demo/1/best.ckpt", "a.png"],
        ["test"],
    ):
        traced = traced_where_possible(log)
        run(home, [tiny, *command], *traced)
        assert outside_the_cache(home) == []
        assert not traced or connections(log.read_text()) == []


@pytest.mark.long
def test_export_leaves_below_home_nothing_but_caches_and_sends_nothing(home: Path) -> None:
    from lightning_cifake.training.checkpoints import SafeCheckpointIO
    from lightning_cifake.training.classifier import FakeImageClassifier

    model = FakeImageClassifier()
    content = {"state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams)}
    SafeCheckpointIO().save_checkpoint({**content, "pytorch-lightning_version": "2.6.6"}, home.parent / "best.ckpt")
    log = home.parent / "trace"
    traced = traced_where_possible(log)
    run(home, ["-m", "lightning_cifake", "export", "--ckpt_path", "best.ckpt", "--output", "exported.onnx"], *traced)
    assert outside_the_cache(home) == []
    assert not traced or connections(log.read_text()) == []
