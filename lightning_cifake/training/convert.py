"""The command ``convert``: a Keras file to a Lightning checkpoint that training resumes from, and back."""

import logging
import math
import sys
import warnings
from pathlib import Path
from typing import Any, NamedTuple, cast

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from lightning_cifake.checkpoint import read_checkpoint
from lightning_cifake.errors import UserError
from lightning_cifake.keras_io.exporter import Exported, write_keras
from lightning_cifake.keras_io.files import is_keras_file
from lightning_cifake.keras_io.importer import Imported, import_keras
from lightning_cifake.keras_io.optimizer import Adam
from lightning_cifake.model_kinds import what_takes
from lightning_cifake.networks.pixels import Pixels, parse_pixels
from lightning_cifake.networks.resnet50 import ResNet50Detector
from lightning_cifake.text import printable, reason_of
from lightning_cifake.training.checkpoints import SafeCheckpointIO
from lightning_cifake.training.classifier import FakeImageClassifier
from lightning_cifake.training.resume import check_shapes, model_arguments

LEARNING_RATE, LR_DECAY = 1e-3, 0.95  # the published schedule
EPOCH_TOLERANCE = 1e-6  # relative; Keras multiplies its learning rate in float32, epoch by epoch
LARGEST_EPOCH = 1000
LARGEST_RATE = 1e3  # of a learning rate before its decay


class Options(NamedTuple):
    """What a Keras file does not always tell; see the command's help."""

    epoch: int | None = None
    lr_decay: float = LR_DECAY
    head: str | None = None
    image_size: int | None = None
    overwrite: bool = False
    pixels: str | None = None
    real_class: int | None = None


class Report(NamedTuple):
    line: str
    notes: list[str]


def convert(source: Path, target: Path, options: Options) -> Report:
    """Converts a file, written whole or not at all.

    Raises:
        UserError: the two names do not fit, the target exists, or the source cannot be taken.
    """
    from_keras, to_keras = is_keras_file(source), is_keras_file(target)
    if from_keras == to_keras or (target if from_keras else source).suffix != ".ckpt":
        other = what_takes(source, "Keras" if target.suffix == ".ckpt" else "checkpoint")
        raise UserError(
            "convert: expected a Keras file (.keras, .h5, .weights.h5) and a .ckpt, in either order, "
            f"got {printable(source)} {printable(target)}" + (f"; {printable(source.name)}: {other}" if other else "")
        )
    check_target(target, options.overwrite)
    if to_keras:
        given = {
            "--epoch": options.epoch,
            "--head": options.head,
            "--image_size": options.image_size,
            "--pixels": options.pixels,
            "--real_class": options.real_class,
        }
        if any(value is not None for value in given.values()):
            names = ", ".join(name for name, value in given.items() if value is not None)
            raise UserError(f"{names}: a checkpoint tells this itself; it is for Keras files that do not")
        return _to_keras(source, target)
    return _to_checkpoint(source, target, options)


def check_target(target: Path, overwrite: bool) -> None:
    """Before anything is read.

    Raises:
        UserError: it is a folder, or exists and is not to be replaced.
    """
    if target.is_dir():
        raise UserError(f"{printable(target)} is a folder: expected the name of a file to write")
    if target.exists() and not overwrite:
        raise UserError(f"{printable(target)} exists already: give --overwrite to replace it, or another name")


def _to_checkpoint(source: Path, target: Path, options: Options) -> Report:
    imported = import_keras(source, options.head, options.image_size, options.pixels, options.real_class)
    notes = list(imported.notes)
    adam = imported.adam
    epoch, learning_rate = _epoch_and_rate(adam, options, notes)
    if epoch is None:
        adam = None
    classifier = make_classifier(imported, learning_rate, options.lr_decay)
    save_checkpoint(classifier, target, adam, epoch or 0)
    if imported.head is None:
        notes.append(f"it is a backbone alone: its head, '{_head_of(classifier)}', is new and untrained")
    dtype = str(next(iter(imported.state.values())).dtype).removeprefix("torch.")
    return Report(
        f"{printable(source)} -> {printable(target)}: {imported.weights} weights, {imported.values:,} values in "
        f"{dtype}, head '{_head_of(classifier)}'; " + _state_line(None if adam is None else adam.iterations, epoch),
        notes,
    )


def _head_of(classifier: FakeImageClassifier) -> str:
    return str(cast(ResNet50Detector, classifier.network).init_args["head"])


def _state_line(iterations: int | None, epoch: int | None) -> str:
    return "no optimizer state" if iterations is None else f"Adam after {iterations:,} steps, epochs done: {epoch}"


def _epoch_and_rate(adam: Adam | None, options: Options, notes: list[str]) -> tuple[int | None, float]:
    """The number of epochs done, and the learning rate before the first decay.

    Keras keeps no epoch, but the published schedule leaves 1e-3 * 0.95**E behind E of them.
    """
    if not 0 < options.lr_decay <= 1:
        raise UserError(f"--lr_decay: expected above 0, up to 1, got {options.lr_decay}")
    if options.epoch is not None and not 1 <= options.epoch < LARGEST_EPOCH:
        raise UserError(
            f"--epoch: expected at least 1 epoch that is done, and fewer than {LARGEST_EPOCH}, got {options.epoch}"
        )
    if adam is None:
        if options.epoch is not None:
            raise UserError("--epoch: there is no optimizer state in the file that could resume from an epoch")
        return None, LEARNING_RATE
    if options.epoch is not None:
        rate = adam.learning_rate / max(options.lr_decay**options.epoch, sys.float_info.min)
        if not rate <= LARGEST_RATE:
            raise UserError(
                f"--epoch {options.epoch}, --lr_decay {options.lr_decay}: no learning rate decays to "
                f"{adam.learning_rate:.9g} like this"
            )
        published = math.isclose(rate, LEARNING_RATE, rel_tol=EPOCH_TOLERANCE)
        return options.epoch, LEARNING_RATE if published else rate
    for epoch in range(1, LARGEST_EPOCH):  # not 0: as an epoch begins, its learning rate is already decayed
        if math.isclose(adam.learning_rate, LEARNING_RATE * options.lr_decay**epoch, rel_tol=EPOCH_TOLERANCE):
            return (epoch, LEARNING_RATE) if options.lr_decay < 1 else _no_epoch(adam, options, notes)
    return _no_epoch(adam, options, notes)


def _no_epoch(adam: Adam, options: Options, notes: list[str]) -> tuple[None, float]:
    notes.append(
        f"the optimizer state is left out: Keras keeps no epoch, and a learning rate of {adam.learning_rate:.9g} after "
        f"{adam.iterations:,} steps is not {LEARNING_RATE} * {options.lr_decay}**E of a whole number E from 1: give "
        "--epoch N, the number of epochs done, to take it along (and --lr_decay 1 where the rate stays as it is)"
    )
    return None, LEARNING_RATE


def make_classifier(imported: Imported, learning_rate: float, lr_decay: float) -> FakeImageClassifier:
    """A classifier with the file's weights, in their precision; a head that the file lacks is drawn from seed 0."""
    arguments: dict[str, Any] = {
        "image_size": imported.image_size,
        "dropout": imported.dropout,
        "freeze_backbone": imported.freeze_backbone,
        "pixels": imported.pixels,
    }
    if imported.head is not None:
        arguments["head"] = imported.head
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        classifier = FakeImageClassifier(ResNet50Detector(**arguments), learning_rate=learning_rate, lr_decay=lr_decay)
    # the widest, where a file mixes them: none is rounded
    dtype = max((v.dtype for v in imported.state.values() if v.is_floating_point()), key=lambda kind: kind.itemsize)
    classifier.to(dtype)
    own = classifier.network.state_dict()
    classifier.network.load_state_dict({**own, **imported.state}, strict=True)
    return classifier


def save_checkpoint(classifier: FakeImageClassifier, path: Path, adam: Adam | None, epochs: int) -> None:
    """Writes what a Trainer writes behind the last batch of an epoch; weights alone without an optimizer's state."""
    quiet = logging.getLogger("lightning.pytorch")  # of the devices that are not used
    level = quiet.level
    quiet.setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*LeafSpec.*is deprecated.*")
        trainer = L.Trainer(
            accelerator="cpu",
            plugins=[SafeCheckpointIO()],
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
            max_epochs=epochs,
        )
    quiet.setLevel(level)
    trainer.strategy.connect(classifier)
    classifier.trainer = trainer
    if adam is not None:
        trainer.state.fn = TrainerFn.FITTING
        trainer.strategy.setup_optimizers(trainer)
        _set_adam(trainer.optimizers[0], classifier, adam)
        scheduler = trainer.lr_scheduler_configs[0].scheduler
        _set_schedule(scheduler, epochs)
        _set_progress(trainer.fit_loop, adam.iterations, epochs)
    trainer.save_checkpoint(path, weights_only=adam is None)


def _set_adam(optimizer: Any, classifier: FakeImageClassifier, adam: Adam) -> None:
    names = {id(parameter): name for name, parameter in classifier.network.named_parameters()}
    state = {}
    for number, parameter in enumerate(optimizer.param_groups[0]["params"]):
        name = names[id(parameter)]
        step = torch.tensor(float(adam.iterations))
        state[number] = {"step": step, "exp_avg": adam.exp_avg[name], "exp_avg_sq": adam.exp_avg_sq[name]}
    assert len(state) == len(adam.exp_avg) == len(adam.exp_avg_sq)
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _set_schedule(scheduler: Any, epochs: int) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*lr_scheduler.step.*before.*optimizer.step.*")
        for _ in range(epochs):
            scheduler.step()


def _set_progress(loop: Any, steps: int, epochs: int) -> None:
    """As Lightning's fit loop counts when an epoch's last batch is done and its checkpoint is written."""
    last = steps // epochs  # batches of the last epoch, where all had as many
    for progress, number in ((loop.epoch_progress.total, epochs), (loop.epoch_progress.current, epochs)):
        progress.ready = progress.started = progress.processed = number
        progress.completed = number - 1
    batches = loop.epoch_loop.batch_progress
    batches.is_last_batch = True
    stepping = loop.epoch_loop.automatic_optimization.optim_progress.optimizer
    for part, number in (("total", steps), ("current", last)):
        for progress in (getattr(batches, part), getattr(stepping.step, part), getattr(stepping.zero_grad, part)):
            progress.ready = progress.completed = number
        getattr(batches, part).started = getattr(batches, part).processed = number
        getattr(stepping.zero_grad, part).started = number
    schedules = loop.epoch_loop.scheduler_progress
    schedules.total.ready = schedules.total.completed = epochs
    schedules.current.ready = schedules.current.completed = 1
    loop.epoch_loop.val_loop.batch_progress.is_last_batch = True
    loop.epoch_loop._batches_that_stepped = steps


def _to_keras(source: Path, target: Path) -> Report:
    checkpoint = read_checkpoint(source)
    notes: list[str] = []
    exported = read_exported(checkpoint, source, notes)
    written = write_keras(exported, target)
    fed = parse_pixels(exported.pixels)
    if fed != Pixels():
        feed = "preprocess_input(images)" if fed.base == "caffe" else f"RGB from {_FED[fed.base]}"
        notes.append(f"it is to be fed {feed}, as the model that it was trained as")
    if target.name.endswith(".weights.h5"):
        notes.append("a file of weights does not tell the head's layers: keep the head's line, or write a .keras")
    return Report(
        f"{printable(source)} -> {printable(target)}: {written.weights} weights, {written.values:,} values in "
        f"{exported.dtype}, head '{exported.head}'; {_state_line(exported.iterations, exported.epoch)}",
        notes,
    )


_FED = {"0-1": "0 to 1", "0-255": "0 to 255", "-1-1": "-1 to 1"}


def read_exported(checkpoint: dict[str, Any], source: Path, notes: list[str]) -> Exported:
    """What goes into a Keras file: the network, and the optimizer where the checkpoint holds one.

    Raises:
        UserError: a checkpoint of another model, or of a network that Keras's ResNet50 is not.
    """
    arguments = model_arguments(checkpoint, source)
    try:
        with torch.device("meta"):
            classifier = FakeImageClassifier(**arguments)
        shapes = {name: tuple(value.shape) for name, value in checkpoint["state_dict"].items()}
        check_shapes(source, shapes, classifier.state_dict())
        classifier.load_state_dict(checkpoint["state_dict"], strict=True, assign=True)
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{printable(source)} is of another model: {reason_of(error)}") from error
    if not isinstance(classifier.network, ResNet50Detector):
        raise UserError(
            f"{printable(source)}: expected a resnet50, which Keras's files are written of, got "
            f"{type(classifier.network).__name__}"
        )
    given = {**classifier.hparams, **classifier.network.init_args}
    if given["layout"] != "keras" or given["stem"] != "imagenet" or given["image_size"] < 32:
        raise UserError(
            f"{printable(source)}: keras.applications' ResNet50 has layout: keras, stem: imagenet and image_size: "
            f"32 or more, got layout: {given['layout']}, stem: {given['stem']}, image_size: {given['image_size']}"
        )
    try:
        moments, iterations, epoch = _read_adam(checkpoint, classifier, notes)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{printable(source)}: its optimizer's state is not as Lightning writes it ({type(error).__name__}: "
            f"{reason_of(error)})"
        ) from error
    return Exported(
        state=classifier.network.state_dict(),
        head=given["head"],
        dropout=given["dropout"],
        image_size=given["image_size"],
        freeze_backbone=given["freeze_backbone"],
        learning_rate=given["learning_rate"] * given["lr_decay"] ** (epoch or 0),
        moments=moments,
        iterations=iterations,
        epoch=epoch,
        pixels=given["pixels"],
    )


def _read_adam(
    checkpoint: dict[str, Any], classifier: FakeImageClassifier, notes: list[str]
) -> tuple[dict[str, tuple[Tensor, Tensor]] | None, int | None, int | None]:
    """Moments by parameter, the number of updates, and of epochs done; None for weights alone."""
    if not checkpoint.get("optimizer_states"):
        return None, None, None
    saved = checkpoint["optimizer_states"][0]
    names = [name for name, value in classifier.network.named_parameters() if value.requires_grad]
    numbers = saved["param_groups"][0]["params"]
    if not saved["state"] or len(saved["param_groups"]) != 1 or len(numbers) != len(names):
        notes.append("the optimizer state is left out: it is not of one group of all trained weights")
        return None, None, None
    if tuple(saved["param_groups"][0]["betas"]) != (0.9, 0.999):
        notes.append("the optimizer state is left out: its betas are not 0.9 and 0.999")
        return None, None, None
    states = {name: saved["state"][number] for name, number in zip(names, numbers, strict=True)}
    steps = max(int(state["step"]) for state in states.values())
    epoch = checkpoint["lr_schedulers"][0]["last_epoch"]
    batches = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    if not batches["is_last_batch"]:
        notes.append(
            f"it was saved within epoch {epoch + 1}, after {batches['current']['completed']} of its batches: "
            "Keras begins that epoch anew"
        )
    moments = {
        name: (state["exp_avg"].contiguous(), state["exp_avg_sq"].contiguous()) for name, state in states.items()
    }
    return moments, steps, epoch
