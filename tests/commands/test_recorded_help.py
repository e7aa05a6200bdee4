"""The recorded help is the parsers' own, and what it refuses they refuse."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_cifake.commands import recorded_help
from lightning_cifake.commands.lightning_about import ABOUT
from lightning_cifake.commands.main import main
from lightning_cifake.commands.recorded_help import FILE, check_flags, help_of, versions
from lightning_cifake.errors import UserError

AGAIN = "an argument or its help has changed: run python -m lightning_cifake.commands.recorded_help"

same_versions = pytest.mark.skipif(
    json.loads(FILE.read_text())["versions"] != versions() or sys.version_info[:2] != (3, 11),
    reason="recorded with other versions of the packages that the arguments come from, or of Python",
)


@same_versions
@pytest.mark.parametrize("command", ABOUT)
def test_the_recorded_help_and_flags_are_the_parsers(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lightning_cifake.commands.lightning_arguments import TrainingParser

    flags: list[list[str]] = []
    print_help = TrainingParser.print_help

    def noted(self: TrainingParser, *args: object) -> None:
        flags.append([*self._option_string_actions])
        print_help(self, *args)

    monkeypatch.setattr(TrainingParser, "print_help", noted)
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit):
        main([command, "--help"])
    said = capsys.readouterr().out
    monkeypatch.setattr(recorded_help, "recorded", lambda: None)
    with pytest.raises(SystemExit):
        main([command, "--help"])
    assert _ordered(said) == _ordered(capsys.readouterr().out), AGAIN
    assert flags == [json.loads(FILE.read_text())["flags"][command]], AGAIN


def _ordered(text: str) -> str:
    """With the kinds of a union by name: typing keeps the order in which a process wrote that union first."""
    text = re.sub(r"\s+", " ", text)  # the lines are broken elsewhere then
    return re.sub(r"Union\[([\w, ]+)\]", lambda found: f"Union[{', '.join(sorted(found[1].split(', ')))}]", text)


@same_versions
def test_help_and_what_arguments_alone_tell_need_no_torch(tmp_path: Path) -> None:
    script = """
import sys
from lightning_cifake.commands.main import main
for name in ("fit", "validate", "test"):
    try:
        main([name, "--help"])
    except SystemExit as end:
        assert not end.code
codes = [main(arguments) for arguments in (
    ["fit", "--data.batch_sise", "3"],
    ["fit", "--trainer.max_epochs", "0"],
    ["fit", "--config", "nowhere.yaml"],
    ["fit", "--data.root", "nowhere"],
    ["test"],
)]
print(codes, sorted({"torch", "lightning", "matplotlib", "cv2"} & set(sys.modules)))
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert ran.stdout.splitlines()[-1] == "[2, 2, 2, 2, 2] []", ran.stderr
    refused = [line for line in ran.stderr.splitlines() if not line.startswith("config: ")]
    assert len(refused) == 5 and all(line.startswith("error: ") for line in refused)
    assert refused[0] == "error: no such flag: --data.batch_sise; did you mean --data.batch_size?"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--model.network.width", "3", "--model.optimizer.init_args.lr=3", "--model.loss.help", "SmoothedBCE"],
        ["--trainer.logger.save_dir", "x", "--trainer.callbacks+=a", "--trainer.callbacks.patience", "3"],
        ["--model.network", "meso4", "-c", "demo", "--print_config", "--model.layout", "keras", "--", "--what"],
    ],
)
def test_flags_of_a_class_that_a_flag_names_are_left_to_the_parser(arguments: list[str]) -> None:
    check_flags("fit", arguments)


@same_versions
@pytest.mark.parametrize("flag", ["--data.bogus", "--trainer.bogus", "--model.bogus", "--bogus.x", "--network"])
def test_other_flags_are_refused(flag: str) -> None:
    with pytest.raises(UserError, match=f"no such flag: {flag}"):
        check_flags("fit", ["--data.root", "demo", f"{flag}=3"])


def test_of_other_versions_the_parsers_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorded_help, "versions", lambda: {"lightning": "1"})
    recorded_help.recorded.cache_clear()
    try:
        assert help_of("fit") is None
        check_flags("fit", ["--bogus"])
    finally:
        recorded_help.recorded.cache_clear()
