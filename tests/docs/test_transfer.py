"""docs/networks.md: a trained network learns a difference that it has never seen, by the page's own lines."""

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

from lightning_cifake.checkpoint import read_checkpoint
from lightning_cifake.commands.main import main
from tests.docs.blocks import ROOT, blocks, commands, ours

PLAIN = ["--trainer.logger", "false", "--trainer.max_epochs"]


def _script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_transfer", ROOT / "docs" / "transfer" / "measure.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def made(module_folder: Callable[[str], Path], demo_cache: Path) -> Path:
    """A folder of best.ckpt, of a network that has learnt the demo's difference, and photos/ with another one."""
    folder = module_folder("transfer")
    start = ["--config", "demo", "--data.sample", "600", "--model.network", "custom_cnn", "--test_at_end", "false"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIGHTNING_CIFAKE_CACHE", str(demo_cache))
        patch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
        assert main(["fit", *start, *PLAIN, "2", "--output_dir", str(folder / "start")]) == 0
    _script().make_images(folder / "photos", most=200, window=7)  # a difference that is learnt at once
    return folder


@pytest.fixture
def desk(made: Path, workplace: Path) -> Path:
    shutil.copy(made / "start" / "best.ckpt", "best.ckpt")
    Path("photos").symlink_to(made / "photos")
    return workplace


def lines() -> list[list[str]]:
    page = [block for block in blocks() if block.page == "docs/networks.md" and not block.language]
    found = [ours(words) for block in page for words in commands(block)]
    return [line for line in found if line is not None and "photos/" in line]


def test_the_pages_lines_teach_a_trained_network_another_difference(
    desk: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    test, head, whole = lines()
    assert (test[0], head[0], whole[0]) == ("test", "fit", "fit")
    assert main([*test, "--output_dir", "before"]) == 0
    accuracies = [json.loads((desk / "before" / "metrics.json").read_text())["accuracy"]]
    for folder, line in (("head", head), ("whole", whole)):
        assert main([*line, *PLAIN, "6", "--output_dir", folder]) == 0
        accuracies.append(json.loads((desk / folder / "metrics.json").read_text())["accuracy"])
    assert "model.weights: best.ckpt, all that it has of a CustomCNN" in caplog.text
    assert "model.freeze_backbone: 65 of 141,345 weights train, the head's" in caplog.text
    assert min(accuracies[1:]) > accuracies[0]
    start, trained = (read_checkpoint(Path(name))["state_dict"] for name in ("best.ckpt", "head/best.ckpt"))
    changed = {name for name, value in start.items() if not torch.equal(value, trained[name])}
    assert changed == {"network.head.weight", "network.head.bias"}


def test_weights_that_do_not_fit_are_refused_in_one_line(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, head, _ = lines()
    Path("model.onnx").write_bytes(b"an exported model")
    capsys.readouterr()
    for asked, says in (
        (["--model.network", "meso4"], "best.ckpt is of lightning_cifake.networks.CustomCNN, and the network is Meso4"),
        (
            ["--model.weights", "model.onnx"],
            "model.onnx is an exported model: expected a checkpoint, which this makes of it",
        ),
    ):
        assert main([*head, *asked, "--output_dir", "no"]) == 2
        (said,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert says in said and not Path("no").exists()


def test_the_record_is_of_one_set_of_test_images() -> None:
    figures = json.loads((ROOT / "docs" / "transfer" / "transfer.json").read_text())["figures"]
    assert [*figures] == ["before", *_script().RECIPES] and len({each["images"] for each in figures.values()}) == 1
