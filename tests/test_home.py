"""The home folder: ``~`` in every path that a command takes, and users who have none. Names that are words too."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from lightning_cifake.commands.configurations import find_config, note_hidden
from lightning_cifake.commands.main import _with_home, main
from lightning_cifake.networks.resnet50 import ResNet50Detector
from lightning_cifake.training.initial_weights import load_weights

TINY = Path(__file__).with_name("tiny.py")
COMMANDS = [
    ["fit", "--data.root=~/nowhere"],
    ["fit", "--data.root=demo", "--data.split_file=~/nowhere"],
    ["fit", "--ckpt_path=~/nowhere"],
    ["test", "--ckpt_path=~/nowhere"],
    ["predict", "--model=~/nowhere", "x.jpg"],
    ["predict", "--ckpt_path=~/nowhere", "x.jpg"],
    ["predict", "~/nowhere", "--model", "x.onnx"],
    ["export", "--ckpt_path=~/nowhere", "--output", "m.onnx"],
    ["verify", "~/nowhere"],
    ["convert", "~/nowhere", "a.ckpt"],
    ["ensemble", "~/nowhere", "~/other", "--output", "a.ckpt"],
    ["audit", "--data.root=~/nowhere"],
    ["download", "--source=~/nowhere", "--output=~/data"],
]


@pytest.mark.parametrize("arguments", COMMANDS, ids=lambda arguments: " ".join(arguments[:2]))
def test_every_command_takes_a_tilde_for_the_home_folder(
    arguments: list[str], workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = workplace / "home"
    home.mkdir()
    (workplace / "x.jpg").touch()
    monkeypatch.setenv("HOME", str(home))
    assert main(arguments) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    if arguments[-1] != "x.onnx":
        assert str(home / "nowhere") in message, message
    assert "~" not in message and not (workplace / "~").exists()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("~/a", "HOME/a"),
        ("--x=~/a", "HOME/a"),
        ("~", "HOME"),
        ("--x=a~/b", None),
        ("a=~/b", None),
        ("~a.jpg", None),
        ("--data.classes=fake=~a,real=b", None),
        ("--", None),
        ("", None),
    ],
)
def test_only_what_begins_with_a_tilde_is_expanded(
    given: str, expected: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    got = _with_home(given)
    assert got == (given if expected is None else given.partition("~")[0] + expected.replace("HOME", str(tmp_path)))


def test_a_configuration_may_say_tilde_for_what_it_reads_and_writes(
    tiny_command: Callable[..., "subprocess.CompletedProcess[str]"], workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = workplace / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    config = {"output_dir": "~/run", "data": {"sample": 128, "batch_size": 16}, "trainer": {"max_epochs": 1}}
    (workplace / "c.yaml").write_text(yaml.safe_dump(config))
    ended = tiny_command("fit", "--config", "demo", "--config", "c.yaml", "--test_at_end", "false")
    assert ended.returncode == 0, ended.stderr
    assert (home / "run" / "last.ckpt").is_file() and not (workplace / "~").exists()


@pytest.mark.parametrize("home", [pytest.param(None, marks=pytest.mark.long), "/nonexistent"])
def test_a_user_without_a_home_trains_and_nothing_is_left_but_the_run_and_the_cache(
    workplace: Path, home: str | None
) -> None:
    """As ``docker run -u 12345``: the system knows no such user."""
    temporary = workplace / "tmp"
    temporary.mkdir()
    script = (
        "import os, pwd, runpy, sys\n"
        "def unknown(*_): raise KeyError('no such user')\n"
        "pwd.getpwuid = unknown\n"
        "access = os.access\n"  # the tests may run as root, who may write anywhere
        f"own = {str(workplace)!r}\n"
        "os.access = lambda at, mode: access(at, mode) and not (mode & os.W_OK and not str(at).startswith(own))\n"
        "from lightning_cifake.data import cache_dir\n"
        # as main does; tiny.py imports the libraries before that
        "cache_dir.work_without_home(); cache_dir._say.cache_clear()\n"
        "sys.argv = sys.argv[1:]; sys.path.insert(0, os.path.dirname(sys.argv[0]))  # as a script has it\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    fit = ["fit", "--data.sample", "64", "--data.batch_size", "16", "--trainer.max_epochs", "1"]
    kept = ("PATH", "OMP_NUM_THREADS", "OMP_WAIT_POLICY", "JSONARGPARSE_DEPRECATION_WARNINGS")
    environment = {name: os.environ[name] for name in kept if name in os.environ}
    environment |= {"TMPDIR": str(temporary), **({"HOME": home} if home else {})}
    ended = subprocess.run(
        [sys.executable, "-c", script, str(TINY), *fit],
        cwd=workplace, env=environment, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stderr and "Matplotlib" not in ended.stderr
    cache = temporary / f"lightning_cifake-{os.getuid()}"
    assert ended.stderr.count(str(cache)) == 1 and cache.stat().st_mode & 0o777 == 0o700
    assert {path.name for path in workplace.iterdir()} == {"tmp", "checkpoints"}


def test_a_file_called_like_a_shipped_configuration_is_said_to_be_taken(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert find_config("clean").suffix == ".yaml" and not capsys.readouterr().err
    (workplace / "clean").write_text("data: {sample: 128}\n")
    assert find_config("clean") == Path("clean")
    note_hidden("clean")
    assert "the file clean that is here, not the shipped configuration" in capsys.readouterr().err


def test_a_file_called_like_a_word_for_weights_is_said_not_to_be_taken(
    workplace: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "lightning_cifake")
    load_weights(ResNet50Detector(), "none")
    assert not caplog.messages
    (workplace / "none").touch()
    load_weights(ResNet50Detector(), "none")
    assert caplog.messages == ["weights: none is a word of its own, not the file of that name here; that one is ./none"]
