"""Two processes under Lightning's DDP (gloo) give the figures of one with the same batch, in float64 to rounding.

Augmentation, dropout and Keras's batch norm are on, and nothing divides evenly: 89 training images in batches of 16
(the last of 9: 4 and 5), 26 validation images in batches of 5 (a last one would be left over), 13 test images.
"""

import contextlib
import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from pair import Pair

from lightning_cifake.checkpoint import read_checkpoint
from lightning_cifake.data.decode import load_images
from lightning_cifake.data.protocols import read_split

TESTS = Path(__file__).parents[1]
FIT = ("fit", "--data.sample", "128", "--data.batch_size", "16", "--data.eval_batch_size", "5",
       "--model.network.layout", "keras", "--model.network.dropout", "0.3", "--model.learning_rate", "0.02",
       "--trainer.max_epochs", "6", "--patience", "2", "--trainer.accelerator", "cpu",
       "--trainer.precision", "64-true", "--trainer.logger", "false")  # fmt: skip
STEPS, EPOCHS = 6, 3  # steps an epoch; val_loss only rises, so that patience 2 ends the run behind the third

# Sums over two halves round otherwise than over the whole, by 1e-16. A bias under batch norm has no gradient but that
# rounding, which Adam divides by 1e-7: in 18 steps it is off by DISTANCE (measured). A wrong draw, count or variance
# shows at 1e-3 and more.
ROUNDING = {"rtol": 1e-9, "atol": 1e-9}


def figures(run: Path) -> list[dict[str, float]]:
    with (run / "history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    clock = ("train_seconds", "images_per_second")
    return [{name: float(value) for name, value in row.items() if name not in clock} for row in rows]


def assert_close(run: Path, other: Path) -> None:
    """History, weights, optimizer, predictions and figures of the test."""
    assert len(figures(run)) == len(figures(other))
    for ours, theirs in zip(figures(run), figures(other), strict=True):
        assert ours == pytest.approx(theirs, rel=ROUNDING["rtol"], abs=ROUNDING["atol"])
    for name in ("last.ckpt", "best.ckpt"):
        one, two = read_checkpoint(run / name), read_checkpoint(other / name)
        assert one["epoch"] == two["epoch"] and one["global_step"] == two["global_step"]
        torch.testing.assert_close(one["state_dict"], two["state_dict"], **ROUNDING)
    torch.testing.assert_close(
        *(read_checkpoint(folder / "last.ckpt")["optimizer_states"][0]["state"] for folder in (run, other)), **ROUNDING
    )
    assert predictions(run) == predictions(other)
    facts = [json.loads((folder / "metrics.json").read_text()) for folder in (run, other)]
    for name in ("accuracy", "auroc", "images", "confusion_matrix", "epochs", "best_epoch", "split_sizes"):
        assert facts[0][name] == pytest.approx(facts[1][name]) if name == "auroc" else facts[0][name] == facts[1][name]
    assert facts[0]["loss"] == pytest.approx(facts[1]["loss"], rel=1e-6)  # logged in float32


def predictions(run: Path) -> list[tuple[str, str]]:
    """(path, prediction) in the order of the file."""
    with (run / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [(row["path"], f"{float(row['prob_real']):.5f}") for row in rows]


@pytest.fixture(scope="module")
def environment(demo_cache: Path) -> dict[str, str]:
    return {"LIGHTNING_CIFAKE_CACHE": str(demo_cache), "JSONARGPARSE_DEPRECATION_WARNINGS": "off"}


@pytest.fixture(scope="module")
def pair(warm: Any) -> Pair:
    return Pair(warm)


def one_process(folder: Path, environment: dict[str, str], *arguments: str, **more: str) -> int:
    """In the tests' own process, which has Lightning imported."""
    import tiny

    with contextlib.chdir(folder), patch.dict(os.environ, {**environment, **more}):
        return tiny.run(list(arguments))


@pytest.fixture(scope="module")
def alone(module_folder: Callable[[str], Path], environment: dict[str, str], pair: Any) -> Path:
    """The run of one process."""
    folder = module_folder("alone")
    assert one_process(folder, environment, *FIT) == 0
    return folder / "checkpoints" / "demo" / "1"


@pytest.fixture(scope="module")
def together(module_folder: Callable[[str], Path], environment: dict[str, str], pair: Any) -> dict[str, Any]:
    """The run of two, and what they printed; the decoded images are not there yet."""
    folder = module_folder("together")
    fresh = {**environment, "LIGHTNING_CIFAKE_CACHE": str(folder / "cache"), "TINY_DECODED": str(folder / "decoded")}
    ran = pair.run(folder, *FIT, **fresh)
    assert [process.returncode for process in ran] == [0, 0], ran
    return {"folder": folder, "run": folder / "checkpoints" / "demo" / "1", "ran": ran}


def test_two_processes_give_the_figures_and_weights_of_one(alone: Path, together: dict[str, Any]) -> None:
    assert len(figures(alone)) == EPOCHS  # both stopped early, at the same epoch
    assert_close(together["run"], alone)


def test_all_draws_are_those_of_one_process(alone: Path, together: dict[str, Any]) -> None:
    ours, theirs = (read_checkpoint(run / "last.ckpt")["generators"] for run in (together["run"], alone))
    assert torch.equal(ours["torch"], theirs["torch"])
    assert ours["python"] == theirs["python"]
    assert torch.equal(ours["numpy"][1], theirs["numpy"][1]) and ours["numpy"][2:] == theirs["numpy"][2:]


def test_recipes_with_mixed_and_degraded_images_give_the_figures_of_one_process(
    pair: Any, tmp_path: Path, environment: dict[str, str]
) -> None:
    """Each image is mixed with the one before it, which for a shard's first is the other process's."""
    options = (*FIT, "--trainer.max_epochs", "1", "--data.mixup", "0.5", "--data.crop", "2", "--data.cutout", "6",
               "--data.degrade", "0.5", "--data.flips", "horizontal", "--model.test_flips", "true",
               "--model.ema_decay", "0.9", "--model.scheduler", "OneCycle", "--model.loss", "SmoothedBCE",
               "--model.optimizer", "lightning_cifake.training.optimizers.Muon",
               "--model.optimizer.rest", "sgd")  # fmt: skip
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    assert one_process(folders[0], environment, *options) == 0
    ran = pair.run(folders[1], *options, **environment)
    assert [process.returncode for process in ran] == [0, 0], ran
    assert_close(*(folder / "checkpoints" / "demo" / "1" for folder in folders))


def test_the_test_is_over_exactly_the_test_set_in_the_order_of_one_process(
    together: dict[str, Any], demo_cache: Path
) -> None:
    images = load_images("demo", cache_dir=demo_cache)
    split = read_split(together["run"] / "split.json", images)
    assert [path for path, _ in predictions(together["run"])] == [images.paths[i] for i in split.test]
    assert json.loads((together["run"] / "metrics.json").read_text())["images"] == len(split.test) == 13


def test_the_images_are_decoded_once(together: dict[str, Any]) -> None:
    assert (together["folder"] / "decoded").read_text() == "decoded\n"


def test_one_process_tells_and_one_folder_is_made(together: dict[str, Any]) -> None:
    first, second = together["ran"]
    assert first.stdout.count("epoch 1/6") == 1 and first.stdout.count("test of") == 1
    assert (second.stdout, second.stderr) == ("", "")
    assert len(first.stderr.splitlines()) == 3, first.stderr  # the configuration, the data, the run folder; no warning
    assert [path.name for path in (together["folder"] / "checkpoints" / "demo").iterdir()] == ["1"]
    left = {path.name for path in together["run"].iterdir()}
    assert {"best.ckpt", "last.ckpt", "config.yaml", "split.json", "history.csv", "metrics.json"} <= left
    assert not [name for name in left if name.startswith(".")]


def test_measuring_on_two_is_measuring_on_one(
    pair: Any, environment: dict[str, str], alone: Path, tmp_path: Path
) -> None:
    measured = pair.run(
        tmp_path, "validate", "--ckpt_path", str(alone / "last.ckpt"), "--output_dir", "validated",
        "--trainer.accelerator", "cpu", "--trainer.precision", "64-true", **environment,
    )  # fmt: skip
    assert [process.returncode for process in measured] == [0, 0], measured
    assert measured[1].stdout == "" and measured[0].stdout.count("26 images") == 1
    facts, last = json.loads((tmp_path / "validated" / "metrics.json").read_text()), figures(alone)[-1]
    assert facts["images"] == 26 and facts["accuracy"] == last["val_accuracy"]
    assert facts["loss"] == pytest.approx(last["val_loss"], rel=1e-6)  # logged in float32


def test_a_checkpoint_of_one_process_goes_on_in_two(
    pair: Any, environment: dict[str, str], alone: Path, tmp_path: Path
) -> None:
    assert one_process(tmp_path, environment, *FIT, TINY_SIGNAL=f"SIGTERM@train:{STEPS + 3}") == 143
    ran = pair.run(tmp_path, "fit", "--ckpt_path", "checkpoints/demo/1/last.ckpt", **environment)
    assert [process.returncode for process in ran] == [0, 0], ran
    assert_close(tmp_path / "checkpoints" / "demo" / "1", alone)


@pytest.fixture(scope="module")
def stopped(module_folder: Callable[[str], Path], environment: dict[str, str], warm: Any) -> dict[str, Any]:
    """Two processes that Lightning has started; the second one alone gets SIGTERM in the middle of an epoch."""
    folder = module_folder("stopped")
    asked = {**os.environ, **environment, "TINY_SIGNAL": f"SIGTERM@train:{STEPS + 3}:1"}
    two = ("--trainer.devices", "2", "--trainer.strategy", "ddp")
    done = warm.run(*FIT, *two, folder=folder, environment=asked, timeout=120)
    return {"folder": folder, "run": folder / "checkpoints" / "demo" / "1", "done": done}


def test_a_signal_to_one_process_ends_both_behind_the_same_step(stopped: dict[str, Any]) -> None:
    done = stopped["done"]
    assert done.returncode == 143, done.stderr
    assert done.stderr.count("stopped by SIGTERM after step 9. Resume with:") == 1 and "Traceback" not in done.stderr
    last = read_checkpoint(stopped["run"] / "last.ckpt")
    assert last["global_step"] == STEPS + 3
    assert [path.name for path in (stopped["folder"] / "checkpoints" / "demo").iterdir()] == ["1"]


def test_two_processes_that_were_stopped_go_on_to_the_same_bits(
    stopped: dict[str, Any], together: dict[str, Any], pair: Any, environment: dict[str, str]
) -> None:
    ran = pair.run(stopped["folder"], "fit", "--ckpt_path", "checkpoints/demo/1/last.ckpt", **environment)
    assert [process.returncode for process in ran] == [0, 0], ran
    assert figures(stopped["run"]) == figures(together["run"])
    ours, theirs = (read_checkpoint(run / "last.ckpt")["state_dict"] for run in (stopped["run"], together["run"]))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_nan_in_one_process_ends_both_with_one_line_that_names_the_whole_batch(
    pair: Any, environment: dict[str, str], tmp_path: Path
) -> None:
    ran = pair.run(tmp_path, *FIT, **environment, TINY_NAN=str(STEPS + 2))
    assert [process.returncode for process in ran] == [2, 0], ran
    errors = [line for process in ran for line in process.stderr.splitlines() if "error" in line]
    assert len(errors) == 1 and "the loss became nan at step 8 (epoch 1)" in errors[0], ran
    assert errors[0].count(".png") == 16
    assert read_checkpoint(tmp_path / "checkpoints/demo/1/last.ckpt")["global_step"] == STEPS


def test_with_norms_of_its_own_in_each_process_what_is_measured_is_what_is_saved(
    pair: Any, environment: dict[str, str], tmp_path: Path, tiny_network: type
) -> None:
    ran = pair.run(
        tmp_path, *FIT, "--model.network.layout", "torchvision", "--trainer.max_epochs", "1", "--test_at_end", "false",
        **environment,
    )  # fmt: skip
    assert [process.returncode for process in ran] == [0, 0], ran
    run = tmp_path / "checkpoints" / "demo" / "1"
    assert validation_loss(run, Path(environment["LIGHTNING_CIFAKE_CACHE"]), tiny_network) == pytest.approx(
        figures(run)[0]["val_loss"], rel=1e-12
    )


def validation_loss(run: Path, cache: Path, tiny_network: type) -> float:
    """Of last.ckpt, in this process, without Lightning."""
    from lightning_cifake.data.datamodule import to_float
    from lightning_cifake.training.classifier import FakeImageClassifier

    checkpoint, images = read_checkpoint(run / "last.ckpt"), load_images("demo", cache_dir=cache)
    model = FakeImageClassifier(tiny_network("torchvision")).double().eval()
    model.load_state_dict(checkpoint["state_dict"])
    index = read_split(run / "split.json", images).val
    labels = torch.from_numpy(images.labels[index]).double()
    with torch.no_grad():
        logits = model(to_float(torch.from_numpy(images.images[index]), torch.float64))
    return torch.nn.functional.binary_cross_entropy_with_logits(logits, labels).item()


@pytest.mark.long  # a larger network of the norms that the tiny one has, whose figures and weights are those of one
def test_a_step_of_the_real_network_on_two_processes_is_that_of_one(pair: Any, tmp_path: Path) -> None:
    ran = pair.run(tmp_path, call="resnet_step")
    assert [process.returncode for process in ran] == [0, 0], ran
    distances = json.loads(ran[0].stdout)
    # 53 norms over a batch of 9, most of them of 1x1 maps, divide by deviations that rounding has moved: 2e-11
    assert len(distances) > 250 and max(distances.values()) < 1e-9, max(distances.items(), key=lambda item: item[1])


def test_lightnings_synced_norms_are_refused_in_one_line_with_keras_norms(
    environment: dict[str, str], tmp_path: Path, pair: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    assert one_process(tmp_path, environment, *FIT, "--trainer.sync_batchnorm", "true") == 2
    (error,) = [line for line in capfd.readouterr().err.splitlines() if "error" in line]
    assert error.startswith("error: trainer.sync_batchnorm: expected false with a network of Keras's batch norm")
    assert not list(tmp_path.iterdir())


LAUNCHERS = {
    "torchrun": ["-m", "torch.distributed.run", "--nproc_per_node", "2", str(TESTS / "tiny.py")],
    "lightning": [str(TESTS / "tiny.py")],
}


@pytest.mark.long
@pytest.mark.parametrize(
    ("launcher", "number", "to_all"),
    [
        ("torchrun", signal.SIGINT, True),
        ("torchrun", signal.SIGTERM, False),
        ("lightning", signal.SIGINT, True),  # Ctrl-C reaches a terminal's whole group
        ("lightning", signal.SIGTERM, False),
    ],
)
def test_a_run_that_is_interrupted_leaves_a_checkpoint_and_no_process(
    environment: dict[str, str], tmp_path: Path, launcher: str, number: signal.Signals, to_all: bool
) -> None:
    command = [sys.executable, *LAUNCHERS[launcher], *FIT, "--trainer.devices", "2", "--trainer.limit_val_batches", "0"]
    running = subprocess.Popen(
        [*command, "--trainer.max_epochs", "100000"],
        cwd=tmp_path,
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    last = tmp_path / "checkpoints" / "demo" / "1" / "last.ckpt"
    wait_until(last.is_file)
    before = read_checkpoint(last)["global_step"]
    if to_all:
        os.killpg(running.pid, number)
    else:
        running.send_signal(number)
    _, errors = running.communicate(timeout=60)
    assert errors.count(f"stopped by {number.name} after step".encode()) == 1, errors
    assert b'tiny.py", line' not in errors  # no traceback of ours; torchrun shows one of its own
    assert read_checkpoint(last)["global_step"] >= before
    assert not running_in(tmp_path)


def wait_until(there: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not there():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def running_in(folder: Path) -> list[str]:
    """Processes whose current folder this is."""
    found = []
    for link in Path("/proc").glob("[0-9]*/cwd"):
        try:
            if link.readlink() == folder:
                found.append(link.parent.name)
        except OSError:
            continue
    return found
