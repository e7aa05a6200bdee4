"""The command convert without TensorFlow: the checkpoint it makes, that training resumes from it, what it refuses."""

import builtins
import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import shrunk as few
import torch
from tiny import TinyNetwork

from lightning_cifake.checkpoint import read_checkpoint
from lightning_cifake.commands.main import main
from lightning_cifake.data.datamodule import CIFAKEDataModule
from lightning_cifake.errors import UserError
from lightning_cifake.keras_io import importer
from lightning_cifake.keras_io.importer import Adam, Imported, import_keras
from lightning_cifake.networks import ResNet50Detector
from lightning_cifake.training import convert as converting
from lightning_cifake.training.callbacks import default_callbacks
from lightning_cifake.training.checkpoints import SafeCheckpointIO
from lightning_cifake.training.classifier import FakeImageClassifier
from lightning_cifake.training.convert import Options, convert, make_classifier, save_checkpoint
from lightning_cifake.training.resume import open_checkpoint

SPEC = importlib.util.spec_from_file_location("keras_form", Path(__file__).parents[1] / "keras_io" / "keras_form.py")
assert SPEC is not None and SPEC.loader is not None
form = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(form)

LINE = "avgpool, dense 1"  # a small head; the backbone is what it is
STEPS = 40


def adam(**values: Any) -> dict[str, Any]:
    return {"class_name": "Adam", "config": {"learning_rate": 1e-3, "beta_1": 0.9, "beta_2": 0.999, **values}}


def moment(weight: np.ndarray, slot: int) -> np.ndarray:
    """Numbers of its own: of any sign in the first, of none below 0 in the second, which are mean squares."""
    return np.abs(weight) * 3 if slot else weight * 2


def trained_file(path: Path, rate: float, optimizer: dict[str, Any], shrunk: bool = False) -> Path:
    """A compiled model that was trained for some steps; its moments are numbers of their own.

    ``shrunk``: for the fixture, where it need not have 280 MB.
    """
    weights = form.small_weights(LINE) if shrunk else form.random_weights(LINE)
    model = form.sequential(
        form.input_layer("input_1"),
        form.resnet(),
        form.layer("GlobalAveragePooling2D", {"name": "pool"}),
        form.layer("Dense", {"name": "out", "units": 1, "activation": "sigmoid"}),
    )
    datasets = form.paths(weights, {"logit": "dense"})
    variables = {"optimizer/vars/0": np.int64(STEPS), "optimizer/vars/1": np.float32(rate)}
    owners = [each.name for each in form.expected_layers() if each.kind in form.SNAKE] + ["logit"]
    trained = [
        f"{owner}/{name}"
        for owner in owners
        for name in ("kernel", "bias", "gamma", "beta")
        if f"{owner}/{name}" in weights
    ]
    for at, name in enumerate(trained):
        for slot in (0, 1):
            variables[f"optimizer/vars/{2 + 2 * at + slot}"] = moment(weights[name], slot)
    return form.write_keras(path, model, {**datasets, **variables}, optimizer)


@pytest.fixture
def shrunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are read, and checkpoints are written, of a network with two numbers a side in each array."""
    monkeypatch.setattr(importer, "_like", few.expected)
    monkeypatch.setattr(converting, "ResNet50Detector", few.network)


@pytest.fixture
def shrunk_source(shrunk: None, module_folder: Callable[[str], Path]) -> Path:
    return trained_file(module_folder("keras") / "model.keras", 1e-3 * 0.95**4, adam(), shrunk=True)


@pytest.fixture(scope="module")
def source(module_folder: Callable[[str], Path]) -> Path:
    return trained_file(module_folder("keras") / "model.keras", 1e-3 * 0.95**4, adam())


@pytest.fixture(scope="module")
def converted(source: Path) -> Path:
    assert main(["convert", str(source), str(source.with_suffix(".ckpt"))]) == 0
    return source.with_suffix(".ckpt")


def test_the_optimizers_state_goes_along_in_our_order_and_axes(source: Path, converted: Path) -> None:
    content = read_checkpoint(converted)
    weights = form.random_weights(LINE)
    open_checkpoint(converted, to_train=True)
    (saved,) = content["optimizer_states"]
    classifier = FakeImageClassifier(**content["hyper_parameters"])
    names = [name for name, _ in classifier.network.named_parameters()]
    assert len(saved["state"]) == len(names) == 161
    states = {name: saved["state"][number] for number, name in enumerate(names)}
    assert {int(state["step"]) for state in states.values()} == {STEPS}
    for slot, name in enumerate(("exp_avg", "exp_avg_sq")):
        ours = states["backbone.layer1.0.conv2.weight"][name].numpy().transpose(2, 3, 1, 0)
        np.testing.assert_array_equal(ours, moment(weights["conv2_block1_2_conv/kernel"], slot))
        ours = states["backbone.layer3.0.downsample.1.bias"][name].numpy()
        np.testing.assert_array_equal(ours, moment(weights["conv4_block1_0_bn/beta"], slot))
        ours = states["head.logit.weight"][name].numpy().T
        np.testing.assert_array_equal(ours, moment(weights["logit/kernel"], slot))


def test_the_epoch_is_told_by_the_learning_rate(converted: Path) -> None:
    content = read_checkpoint(converted)
    assert (content["epoch"], content["global_step"]) == (3, STEPS)
    assert content["lr_schedulers"][0]["last_epoch"] == 4
    assert content["hyper_parameters"]["learning_rate"] == 1e-3
    assert content["optimizer_states"][0]["param_groups"][0]["lr"] == pytest.approx(1e-3 * 0.95**5, rel=1e-12)


class Watch(L.Callback):
    """What each epoch trained at."""

    def __init__(self) -> None:
        self.rates: dict[int, float] = {}

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        self.rates[trainer.current_epoch] = trainer.optimizers[0].param_groups[0]["lr"]


def fit(folder: Path, cache: Path, epochs: int, checkpoint: Path | None) -> tuple[L.Trainer, Watch]:
    watch = Watch()
    trainer = L.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=[*default_callbacks(folder), watch],
        plugins=[SafeCheckpointIO()],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    data = CIFAKEDataModule(root="demo", sample=128, batch_size=16, cache_dir=str(cache))
    trainer.fit(FakeImageClassifier(TinyNetwork()), data, ckpt_path=checkpoint)
    return trainer, watch


@pytest.mark.filterwarnings(
    "ignore:.*does not have many workers", "ignore:Checkpoint directory .* exists", "ignore:.*LeafSpec.*is deprecated"
)
def test_training_goes_on_at_the_next_epoch_and_its_learning_rate(
    tmp_path: Path, demo_cache: Path, tiny_network: type
) -> None:
    classifier = FakeImageClassifier(tiny_network())
    # apart: two moments in one memory, which no file of Keras's has, end in the root of a negative number
    first, second = (
        {name: torch.zeros_like(value) for name, value in classifier.network.named_parameters()} for _ in range(2)
    )
    made = tmp_path / "made" / "last.ckpt"
    save_checkpoint(classifier, made, Adam(18, 1e-3 * 0.95**3, first, second), epochs=3)
    trainer, watch = fit(tmp_path / "run", demo_cache, 5, made)
    assert watch.rates == pytest.approx({3: 1e-3 * 0.95**4, 4: 1e-3 * 0.95**5}, rel=1e-12)
    assert trainer.global_step == 18 + 2 * 6
    last = read_checkpoint(tmp_path / "run" / "last.ckpt")
    assert [epoch["epoch"] for epoch in last["history"]] == [3, 4]
    # and it was counted as by a run that was never anywhere else
    fit(tmp_path / "whole", demo_cache, 3, None)
    own, lightnings = (read_checkpoint(path)["loops"]["fit_loop"] for path in (made, tmp_path / "whole" / "last.ckpt"))
    assert own.keys() == lightnings.keys()
    of_the_data = {"state_dict", "epoch_loop.val_loop.batch_progress"}
    for name in own.keys() - of_the_data:
        assert own[name] == lightnings[name], name


@pytest.mark.parametrize(
    ("rate", "optimizer", "said"),
    [
        (2e-3, adam(), r"learning rate of 0.00200000009 after 40 steps is not .* give --epoch N"),
        (1e-3, adam(), "give --epoch N"),  # no epoch's: the first already trains at 0.95 of it
        (9.5e-4, adam(amsgrad=True), "its amsgrad is True, and here False"),
        (9.5e-4, adam(epsilon=1e-8), "its epsilon is 1e-08, and here 1e-07"),
        (9.5e-4, adam(learning_rate={"class_name": "ExponentialDecay"}), "follows a schedule of steps"),
        (9.5e-4, {"class_name": "AdamW", "config": {}}, "it is of AdamW, and training here continues with"),
    ],
)  # fmt: skip
def test_an_optimizer_that_cannot_go_along_is_left_out_with_the_reason(
    tmp_path: Path, rate: float, optimizer: dict[str, Any], said: str, shrunk: None
) -> None:
    path = trained_file(tmp_path / "model.keras", rate, optimizer, shrunk=True)
    report = convert(path, tmp_path / "model.ckpt", Options())
    assert "no optimizer state" in report.line
    assert any(note.startswith("the optimizer state is left out: ") and re.search(said, note) for note in report.notes)
    assert "optimizer_states" not in read_checkpoint(tmp_path / "model.ckpt")


def test_the_epoch_can_be_given_and_the_learning_rate_follows(shrunk_source: Path, tmp_path: Path) -> None:
    path = trained_file(tmp_path / "model.keras", 2e-3, adam(), shrunk=True)
    convert(path, tmp_path / "constant.ckpt", Options(epoch=3, lr_decay=1.0))
    content = read_checkpoint(tmp_path / "constant.ckpt")
    assert content["epoch"] == 2
    assert content["optimizer_states"][0]["param_groups"][0]["lr"] == pytest.approx(2e-3, rel=1e-6)
    convert(shrunk_source, tmp_path / "given.ckpt", Options(epoch=4))
    assert read_checkpoint(tmp_path / "given.ckpt")["hyper_parameters"]["learning_rate"] == 1e-3


def test_float64_stays_float64(shrunk: None, tmp_path: Path) -> None:
    weights = form.small_weights(head=None, dtype=np.float64)
    path = form.write_legacy_weights(tmp_path / "notop.h5", weights)
    report = convert(path, tmp_path / "backbone.ckpt", Options())
    assert any("backbone alone: its head" in note for note in report.notes)
    state = read_checkpoint(tmp_path / "backbone.ckpt")["state_dict"]
    assert {value.dtype for value in state.values()} == {torch.float64, torch.int64}
    convert(path, tmp_path / "again.ckpt", Options())
    again = read_checkpoint(tmp_path / "again.ckpt")["state_dict"]
    assert all(torch.equal(again[name], value) for name, value in state.items())  # the new head as well


def test_a_target_that_exists_is_replaced_only_when_asked(
    shrunk_source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "there.ckpt"
    target.write_text("mine")
    assert main(["convert", str(shrunk_source), str(target)]) == 2
    assert "exists already: give --overwrite" in capsys.readouterr().err
    assert target.read_text() == "mine"
    assert main(["convert", str(shrunk_source), str(target), "--overwrite"]) == 0
    line = capsys.readouterr().out
    assert line.count("\n") == 1
    assert "Adam after 40 steps, epochs done: 4" in line
    read_checkpoint(target)


def test_nothing_is_written_where_the_source_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "broken.keras").write_bytes(b"PK\3\4 and no more")
    assert main(["convert", str(tmp_path / "broken.keras"), str(tmp_path / "out" / "target.ckpt")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["a.keras", "b.h5"], "expected a Keras file .* and a .ckpt, in either order, got a.keras b.h5"),
        (["a.ckpt", "b.ckpt"], "in either order"),
        (["a.pt", "b.keras"], "in either order"),
        (["a.keras", "b.ckpt"], "there is no file a.keras"),
        (["a.ckpt", "b.keras"], "there is no checkpoint a.ckpt"),
        (["a.ckpt", "b.keras", "--epoch", "3"], "--epoch: a checkpoint tells this itself"),
        (["a.keras", "b.ckpt", "--image_size", "0"], "--image_size: expected at least 1, got 0"),
        (["a.keras", "b.ckpt", "--pixels", "0-256"], "--pixels: expected one of 0-1, 0-255, -1-1, caffe, got 0-256"),
        (["a.ckpt", "b.keras", "--pixels", "0-255"], "--pixels: a checkpoint tells this itself"),
        (["a.ckpt", "b.keras", "--real_class", "0"], "--real_class: a checkpoint tells this itself"),
    ],
)
def test_wrong_arguments_are_one_line(
    arguments: list[str], said: str, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["convert", *arguments]) == 2
    error = capsys.readouterr().err
    assert re.search(said, error), error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (Options(epoch=0), "--epoch: expected at least 1"),
        (Options(lr_decay=0.0), "--lr_decay: expected above 0, up to 1, got 0.0"),
        (Options(head="flatten, dense 1"), "--head is for files of weights alone"),
        (Options(image_size=64), "--image_size: model.keras takes images of 32, got 64"),
    ],
)
def test_options_that_contradict_the_file_are_refused(
    shrunk_source: Path, tmp_path: Path, options: Options, said: str
) -> None:
    with pytest.raises(UserError, match=said):
        convert(shrunk_source, tmp_path / "target.ckpt", options)
    assert not list(tmp_path.iterdir())


def test_what_the_model_was_fed_and_its_classes_go_into_the_checkpoint(
    shrunk_source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = str(shrunk_source), str(tmp_path / "turned.ckpt")
    assert main(["convert", source, target, "--pixels", "-1-1", "--real_class", "0"]) == 0
    assert "taken for granted" not in capsys.readouterr().err
    assert main(["convert", source, str(tmp_path / "assumed.ckpt")]) == 0
    notes = capsys.readouterr().err.splitlines()
    assert [note.split(":")[1].strip() for note in notes] == ["taken for granted"] * 2
    content, plain = read_checkpoint(Path(target)), read_checkpoint(tmp_path / "assumed.ckpt")
    assert content["hyper_parameters"]["network"]["init_args"]["pixels"] == "-1-1"
    assert plain["hyper_parameters"]["network"]["init_args"]["pixels"] == "0-1"
    with torch.device("meta"):
        classifier = FakeImageClassifier(**content["hyper_parameters"])
    number = [name for name, _ in classifier.named_parameters()].index("network.head.logit.weight")
    turned, straight = (each["optimizer_states"][0]["state"][number] for each in (content, plain))
    for name, value in plain["state_dict"].items():
        assert torch.equal(content["state_dict"][name], -value if "head.logit" in name else value), name
    assert torch.equal(turned["exp_avg"], -straight["exp_avg"])
    assert torch.equal(turned["exp_avg_sq"], straight["exp_avg_sq"])


@pytest.mark.parametrize("epoch", [999, 100_000])
def test_an_epoch_that_no_learning_rate_decays_to_is_refused(shrunk_source: Path, tmp_path: Path, epoch: int) -> None:
    with pytest.raises(UserError, match=r"--epoch"):
        convert(shrunk_source, tmp_path / "target.ckpt", Options(epoch=epoch, lr_decay=0.1))
    assert not list(tmp_path.iterdir())


def test_without_tensorflow_writing_a_keras_file_says_what_to_install(
    converted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = builtins.__import__

    def without(name: str, *arguments: Any, **keywords: Any) -> Any:
        if name.partition(".")[0] in ("keras", "tensorflow"):
            raise ModuleNotFoundError(f"No module named '{name}'")
        return original(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"needs TensorFlow, which is missing .*pip install 'lightning_cifake\[tf\]'"):
        convert(converted, tmp_path / "model.keras", Options())
    assert not list(tmp_path.iterdir())


def test_weights_of_two_precisions_are_kept_in_the_wider() -> None:
    state = {name: value for name, value in ResNet50Detector(head=LINE).state_dict().items()}
    first = next(iter(state))
    state[first] = state[first].half()
    made = make_classifier(Imported(state, LINE, 0.5, 32, False, None, 0, 0, []), 1e-3, 0.95).network.state_dict()
    assert all(value.dtype != torch.float16 for value in made.values())
    assert all(torch.equal(made[name], value.to(made[name].dtype)) for name, value in state.items())


class FullDisk:
    """A Keras model that is half written when the disk is full."""

    def save(self, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    save_weights = save


@pytest.mark.parametrize("name", ["model.keras", "model.h5", "model.weights.h5"])
def test_a_keras_file_is_written_whole_or_the_old_one_stays(tmp_path: Path, name: str) -> None:
    from lightning_cifake.keras_io.exporter import _save

    target = tmp_path / name
    target.write_bytes(b"old")
    with pytest.raises(UserError, match=rf"cannot write .*{name}: No space left on device"):
        _save(FullDisk(), target)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert target.read_bytes() == b"old"


@pytest.mark.parametrize("arguments", [{"layout": "torchvision"}, {"stem": "small"}, {"image_size": 16}])
def test_networks_that_keras_does_not_have_are_not_written(tmp_path: Path, arguments: dict[str, Any]) -> None:
    with torch.device("meta"):
        classifier = FakeImageClassifier(ResNet50Detector(head=LINE, **arguments))
    classifier.to_empty(device="cpu").load_state_dict({n: v.zero_() for n, v in classifier.state_dict().items()})
    save_checkpoint(classifier, tmp_path / "own.ckpt", None, 0)
    with pytest.raises(UserError, match="ResNet50 has layout: keras, stem: imagenet and image_size: 32 or more, got"):
        convert(tmp_path / "own.ckpt", tmp_path / "model.keras", Options())


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["convert", "--help"])
    text = capsys.readouterr().out
    for part in (
        "examples:",
        "--overwrite",
        "--epoch N",
        "--head LINE",
        "--pixels",
        "--real_class",
        "pip install 'lightning_cifake[tf]'",
    ):
        assert part in text
    assert main(["--help"]) == 0
    assert re.search(r"^  convert +turn a Keras file into a checkpoint", capsys.readouterr().out, re.MULTILINE)


def test_reading_imports_no_tensorflow(source: Path, tmp_path: Path, warm: Any) -> None:
    asked = {"arguments": [str(source)], "folder": str(tmp_path), "call": "read_keras_without_keras"}
    (done,) = warm.together(asked)
    assert done.returncode == 0, done.stderr
    assert import_keras(source).adam is not None
