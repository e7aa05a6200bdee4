"""SIGTERM and Ctrl-C at any point of fit, test and validate: one line, 143 or 130, never a success."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from lightning_cifake.data.decode import load_images

FIT = ["fit", "--data.sample", "128", "--data.batch_size", "16", "--trainer.max_epochs", "1", "--trainer.precision",
       "32-true", "--trainer.accelerator", "cpu", "--trainer.logger", "false"]  # fmt: skip
RUN = "checkpoints/demo/1"


class End(NamedTuple):
    code: int
    said: list[str]


@pytest.fixture(scope="module")
def runner(module_folder: Callable[[str], Path], demo_cache: Path, warm: Any) -> Any:
    folder = module_folder("ends")
    load_images("demo", cache_dir=demo_cache)  # else, beside another worker, a command may say that it waits for it
    environment = {
        **os.environ,
        "LIGHTNING_CIFAKE_CACHE": str(demo_cache),
        "JSONARGPARSE_DEPRECATION_WARNINGS": "off",
    }

    def run(arguments: list[str], signum: int = 0, place: str = "") -> End:
        send = (signum, place) if place else None
        ended = warm.run(*arguments, folder=folder, environment=environment, send=send)
        said = [line for line in ended.stderr.splitlines() if not line.startswith(("config: ", "data: ", "run f"))]
        return End(ended.returncode, said)

    run.folder = folder  # type: ignore[attr-defined]
    assert run([*FIT, "--trainer.max_epochs", "1"]) == (0, [])
    return run


CLASSIFIER = "lightning_cifake.training.classifier:FakeImageClassifier"
COMMAND = "lightning_cifake.commands.lightning_cli"
DATA = "lightning_cifake.data.datamodule"
MEASURE = {
    "startup": f"{COMMAND}.run",
    "decoding": f"{DATA}.load_images",
    "images": "{step}",
    "figures": f"{CLASSIFIER}._evaluate",
    "report": "lightning_cifake.training.run_report.write_evaluation",
}
NAMES = {15: ("SIGTERM", 143), 2: ("SIGINT", 130)}


@pytest.mark.parametrize("signum", NAMES)
@pytest.mark.parametrize("phase", MEASURE)
@pytest.mark.parametrize(("command", "step"), [("test", "test_step"), ("validate", "validation_step")])
def test_a_measurement_that_is_stopped_says_so_and_is_no_success(
    runner: Any, command: str, step: str, phase: str, signum: int
) -> None:
    if command == "validate" and (signum == 2 or phase in ("startup", "decoding")):
        pytest.skip("the same code as test's")
    name, code = NAMES[signum]
    place = MEASURE[phase].format(step=f"{CLASSIFIER}.{step}")
    end = runner([command, "--ckpt_path", f"{RUN}/best.ckpt", "--output_dir", "measured"], signum, place)
    assert end == (code, [f"stopped by {name}"])
    assert not (runner.folder / "measured" / "metrics.json").exists()


@pytest.mark.parametrize("signum", NAMES)
@pytest.mark.parametrize("phase", ["startup", "decoding", "claim"])
def test_a_fit_that_is_stopped_before_its_first_step_leaves_no_folder(runner: Any, phase: str, signum: int) -> None:
    name, code = NAMES[signum]
    places = {**MEASURE, "claim": f"{CLASSIFIER}.on_fit_start"}
    assert runner([*FIT, "--output_dir", "never"], signum, places[phase]) == (code, [f"stopped by {name}"])
    assert not (runner.folder / "never").exists()


@pytest.mark.parametrize("signum", NAMES)
@pytest.mark.parametrize(
    "place",
    [
        f"{CLASSIFIER}.test_step",
        "lightning_cifake.training.early_stopping:RestoreBestWeights.on_fit_end",  # behind training's own handler
        "lightning_cifake.training.run_report.write_evaluation",
    ],
)
def test_a_fit_that_is_stopped_behind_its_training_says_how_to_test(runner: Any, place: str, signum: int) -> None:
    name, code = NAMES[signum]
    folder = f"late-{signum}-{place.rpartition('.')[2]}"
    end = runner([*FIT, "--output_dir", folder], signum, place)
    assert end == (
        code,
        [f"stopped by {name}: training has ended, its test has not. Test with: python -m lightning_cifake fit "
         f"--ckpt_path {folder}/last.ckpt"],
    )  # fmt: skip
    assert not (runner.folder / folder / "metrics.json").exists()
    if signum == 15:
        assert runner(["fit", "--ckpt_path", f"{folder}/last.ckpt"]).code == 0
        assert json.loads((runner.folder / folder / "metrics.json").read_text())["stage"] == "test"
