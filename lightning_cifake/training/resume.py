"""Resuming a checkpoint: what of a run may change, and what it has to stay."""

import inspect
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_cifake.checkpoint import read_checkpoint
from lightning_cifake.class_paths import Spec, import_class, normal_spec, with_defaults
from lightning_cifake.data import trained_on
from lightning_cifake.errors import UserError
from lightning_cifake.files import sha256_of
from lightning_cifake.migration import migrate_model
from lightning_cifake.model_kinds import model_kind
from lightning_cifake.networks.registry import check_spec, network_class
from lightning_cifake.run_folder import LAST_FILE
from lightning_cifake.text import printable, reason_of
from lightning_cifake.training.classifier import FakeImageClassifier, image_size_of
from lightning_cifake.training.optimization import RUN_STEPS, SCHEDULER, is_published, refuse_other_rate

log = logging.getLogger(__name__)

FREE = ("learning_rate", "lr_decay", "channels_last", "teacher", "test_flips", "compile", "cuda_graphs")
"""Arguments of the model that take effect when a run is resumed; every other one is part of what was trained.

A teacher's file may have moved: that it is the same is checked by its digest.

Of a network's, those that its ``may_change`` says.
"""
EITHER_WAY = ("test_flips",)
"""Arguments of the model that a checkpoint is measured with as asked, whatever its run had."""
FOLLOWS_DATA = "image_size"
NETWORK = "network"
OF_THE_MODEL = ("lr", "lr_decay", RUN_STEPS)  # arguments of an optimizer and a schedule that the model gives them
PARTS = (NETWORK, "optimizer", "scheduler", "loss")
"""Arguments that name a class."""


class Resumed(NamedTuple):
    """What is known of a checkpoint before anything is built.

    Attributes:
        path: the checkpoint.
        sha256: of the file, as it was read.
        model: the arguments that its model was made with, those of its classes filled up with their defaults.
        image_size: of its images.
        shapes: of its weights.
        record: what it was trained on; see :mod:`trained_on`.
        epoch, mid_epoch: how many epochs are behind it; whether it stands in the middle of one.
    """

    path: Path
    sha256: str
    model: dict[str, Any]
    image_size: int
    shapes: dict[str, tuple[int, ...]]
    record: trained_on.Record
    epoch: int
    mid_epoch: bool

    def learning_rate(self, asked: Mapping[str, Any]) -> float | None:
        """Of the epoch that is trained next, or resumed; None where the schedule is not the published one."""
        if not is_published(self.model["scheduler"], SCHEDULER):
            return None
        epochs = self.epoch + (1 if self.mid_epoch else 2)  # the first epoch is already decayed once
        return asked["learning_rate"] * asked["lr_decay"] ** epochs

    def defaults(self) -> dict[str, Any]:
        """What a command takes where nothing else is asked for, in the form of a configuration."""
        network = self.model[NETWORK]
        own = {name: value for name, value in network["init_args"].items() if name != FOLLOWS_DATA}
        model = {**self.model, NETWORK: {**network, "init_args": own}}
        return {"model": model, "data": {FOLLOWS_DATA: self.image_size}}


def open_checkpoint(path: Path, to_train: bool) -> Resumed:
    """Reads a checkpoint and checks all that can be checked without a model.

    Raises:
        UserError: damaged, of another model, or, to train on, weights only.
    """
    sha256 = sha256_of(path) if path.is_file() else ""  # before it is read: what takes its place is noticed
    content = read_checkpoint(path)
    if to_train and "optimizer_states" not in content:
        shown = printable(path)
        raise UserError(
            f"{shown} holds weights only: resume from the {LAST_FILE} beside it, or start a new run from these "
            f"weights with --model.weights {shown}"
        )
    shapes = {name: tuple(value.shape) for name, value in content["state_dict"].items()}
    loops = content.get("loops")
    try:
        batches = loops["fit_loop"]["epoch_loop.batch_progress"]  # type: ignore[index]
        mid_epoch, epoch = not batches["is_last_batch"], int(content.get("epoch", 0))
    except (TypeError, KeyError, ValueError, IndexError) as error:
        if to_train:
            raise UserError(f"{printable(path)} cannot be resumed: its place in the epoch is not in it") from error
        mid_epoch, epoch = False, 0
    record = trained_on.record_of(content, path) if to_train else []
    model = model_arguments(content, path)
    for name in PARTS:
        if model[name] is None:
            raise _of_another_model(
                path, f"its {name} was given as an object that no class path names: resume it from Python"
            )
        model[name] = _filled_up(model[name], f"model.{name}")
    size = model[NETWORK]["init_args"].get(FOLLOWS_DATA, image_size_of(content))
    return Resumed(path, sha256, model, size, shapes, record, epoch, mid_epoch)


def defaults_of_weights(path: Path) -> dict[str, Any] | None:
    """What a new run from a checkpoint's weights takes where nothing else is asked for; None of other files.

    In the form of a configuration: its network and the size of its images. Whether a backbone was frozen says nothing
    about the weights, and is left out.
    """
    if model_kind(path) != "checkpoint":
        return None
    try:
        content = read_checkpoint(path)
        network = model_arguments(content, path)[NETWORK]
    except UserError:  # weights alone, or of a network that is not here: what is wrong is said as they are loaded
        return None
    if network is None:
        return None
    size = network["init_args"].get(FOLLOWS_DATA, image_size_of(content))
    own = {k: value for k, value in network["init_args"].items() if k not in (FOLLOWS_DATA, "freeze_backbone")}
    return {"model": {NETWORK: {**network, "init_args": own}}, "data": {FOLLOWS_DATA: size}}


def _class_of(spec: Spec, key: str) -> type:
    return (
        network_class(spec["class_path"])
        if key == f"model.{NETWORK}"
        else import_class(spec["class_path"], key, object)
    )


def _filled_up(spec: Spec, key: str) -> Spec:
    """With the defaults of its class."""
    arguments = with_defaults(_class_of(spec, key), spec["init_args"])
    return {
        "class_path": spec["class_path"],
        "init_args": {name: value for name, value in arguments.items() if name not in OF_THE_MODEL},
    }


def model_arguments(checkpoint: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The arguments of :class:`FakeImageClassifier` that a checkpoint holds, of 0.1.0 or of now, each checked.

    What names a class is in plain values, or None where it was given as an object that no class path names.

    Raises:
        UserError: of another model.
    """
    given = checkpoint.get("hyper_parameters")
    if not isinstance(given, dict):
        raise _of_another_model(path, f"expected its hyper_parameters by name, got {type(given).__name__}")
    # LightningCLI adds notes of its own, which begin with an underscore
    given = migrate_model({str(name): value for name, value in given.items() if not str(name).startswith("_")})
    known = {
        name: parameter.default
        for name, parameter in inspect.signature(FakeImageClassifier.__init__).parameters.items()
        if parameter.default is not parameter.empty
    }
    for name, value in given.items():
        if name not in known:
            raise _of_another_model(path, f"its hyper-parameter {printable(name)[:60]} is not one of this version's")
        if name in PARTS:
            continue
        expected = type(known[name])
        fits = isinstance(value, expected) and isinstance(value, bool) == (expected is bool)
        if not fits and not (expected is float and type(value) is int):
            raise _of_another_model(
                path,
                f"expected a {expected.__name__} for its hyper-parameter {name}, got {printable(repr(value))[:60]}",
            )
    found = {**known, **given}
    try:
        for name in PARTS:
            if found[name] is not None:
                found[name] = check_spec(found[name]) if name == NETWORK else normal_spec(found[name], f"model.{name}")
    except UserError as error:
        raise _of_another_model(path, str(error)) from error
    return found


def restored(content: Mapping[str, Any], path: Path, **given: Any) -> FakeImageClassifier:
    """The model of a checkpoint that has been read, in eval mode, to ask and not to train.

    Args:
        content: of :func:`read_checkpoint`.
        path: for the messages.
        **given: arguments of :class:`FakeImageClassifier` that take the place of the checkpoint's.

    Raises:
        UserError: of another model.
    """
    arguments = model_arguments(content, path)
    for name in PARTS[1:]:  # they train; a module of the user's own that holds one need not be there to ask
        del arguments[name]
    arguments |= given
    if arguments[NETWORK] is None:
        raise _of_another_model(path, "its network was given as an object that no class path names: load it in Python")
    state = {name: value for name, value in content["state_dict"].items() if not name.startswith("loss.")}
    try:
        try:
            with torch.device("meta"):  # nothing is allocated before it is known that the weights are there
                expected = FakeImageClassifier(**arguments).state_dict()
        except (RuntimeError, UserError):  # a network that looks at values as it is made
            expected = FakeImageClassifier(**arguments).state_dict()
        check_shapes(path, {name: tuple(value.shape) for name, value in state.items()}, expected)
        classifier = FakeImageClassifier(**arguments)
        classifier.load_state_dict(state, strict=True)
        classifier.take_image_size(content)
        classifier.trained_on = trained_on.checked(content.get(trained_on.KEY, []), path)
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{printable(path)} is of another model: {reason_of(error)}") from error
    return classifier.eval()


def _of_another_model(path: Path, reason: str) -> UserError:
    return UserError(f"{printable(path)} is of another model: {reason}")


def check_shapes(path: Path, shapes: Mapping[str, tuple[int, ...]], expected: Mapping[str, Tensor]) -> None:
    """Refuses a checkpoint whose weights are not those of a model.

    Args:
        path: the checkpoint.
        shapes: of its weights.
        expected: the model's ``state_dict``.

    Raises:
        UserError: names the first that differ.
    """
    problems = [f"missing {name}" for name in expected if name not in shapes]
    problems += [f"unexpected {printable(name)[:80]}" for name in shapes if name not in expected]
    problems += [
        f"{name} expected {tuple(value.shape)}, got {shapes[name]}"
        for name, value in expected.items()
        if name in shapes and shapes[name] != tuple(value.shape)
    ]
    if problems:
        more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise _of_another_model(path, "; ".join(problems[:3]) + more)


def changed_arguments(resumed: Resumed, asked: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Arguments of the model that differ from the checkpoint's: name -> (there, asked for).

    Those of a class by their own names, as ``network.dropout``; where the class is another one, that alone.
    """
    changed: dict[str, tuple[Any, Any]] = {}
    for name, was in resumed.model.items():
        if name not in PARTS:
            if name in asked and asked[name] != was:
                changed[name] = (was, asked[name])
            continue
        if name not in asked:
            continue
        now = _filled_up(asked[name], f"model.{name}")
        if _class_of(now, f"model.{name}") is not _class_of(was, f"model.{name}"):
            changed[name] = (was["class_path"], now["class_path"])
            continue
        for argument in dict.fromkeys((*was["init_args"], *now["init_args"])):
            pair = was["init_args"].get(argument), now["init_args"].get(argument)
            follows = name == NETWORK and argument == FOLLOWS_DATA
            if not follows and _as_lists(pair[0]) != _as_lists(pair[1]):
                changed[f"{name}.{argument}"] = pair
    return changed


def _as_lists(value: Any) -> Any:
    """YAML knows no tuples."""
    if isinstance(value, list | tuple):
        return [_as_lists(each) for each in value]
    return {name: _as_lists(each) for name, each in value.items()} if isinstance(value, dict) else value


def refuse_other_model(resumed: Resumed, asked: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The arguments that changed and take effect when training resumes.

    Raises:
        UserError: one that cannot; named, in one line.
    """
    changed = changed_arguments(resumed, asked)
    may_change = getattr(network_class(resumed.model[NETWORK]["class_path"]), "may_change", None)
    refused = {}
    for name, values in changed.items():
        section, _, argument = name.partition(".")
        free = section == NETWORK and argument and callable(may_change) and may_change(argument, *values)
        if name not in FREE and not free:
            refused[name] = values
    if refused:
        shown = printable(resumed.path)
        listed = "; ".join(f"model.{name}: {was} in the checkpoint, got {now}" for name, (was, now) in refused.items())
        raise UserError(
            f"a resumed run keeps the model it has: {printable(listed)}. Leave it out, or start a new run from these "
            f"weights with --model.weights {shown} where they fit"
        )
    if "learning_rate" in changed:
        refuse_other_rate(resumed.model["scheduler"], *changed["learning_rate"])
    return changed


def refuse_other_data(resumed: Resumed, entry: Mapping[str, Any], new_data: bool) -> bool:
    """Whether a run is resumed with other images than it has been training on; ``new_data`` asks for it.

    Args:
        resumed: the checkpoint.
        entry: of the data that was asked for.

    Raises:
        UserError: without being asked for; or in the middle of an epoch.
    """
    last = next((each for each in reversed(resumed.record) if each["split"]), None)
    if last is None:
        return False
    shown = printable(resumed.path)
    changes = _changes(last["asked"], entry["asked"])
    if last["split"] == entry["split"]:
        moved = [change for change in changes if change.split(":")[0].removeprefix("data.") in trained_on.OF_THE_EPOCH]
        if resumed.mid_epoch and moved:
            raise UserError(
                f"{'; '.join(moved)}: {shown} stands in the middle of epoch {resumed.epoch + 1}, which continues with "
                "the batches it has; leave it out, or start a new run from these weights with --model.weights"
            )
        return False
    what = f" ({'; '.join(changes)})" if changes else ""
    if not new_data:
        raise UserError(
            f"{shown} was trained on other images than were asked for{what}: of the images to validate and test on, "
            "some may have been trained on. Leave it out, or give --new_data to resume with these all the same (what "
            "was ever trained on stays recorded)"
        )
    if resumed.mid_epoch:
        raise UserError(
            f"--new_data: {shown} stands in the middle of epoch {resumed.epoch + 1}, whose images are other "
            f"ones{what}: resume with its own to the epoch's end first (--trainer.max_epochs {resumed.epoch + 1})"
        )
    return True


def _changes(was: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return [
        printable(f"data.{name}: {was[name]} before, got {now[name]}")
        for name in dict.fromkeys((*trained_on.CHOOSING, *trained_on.OF_THE_EPOCH))
        if name in was and name in now and was[name] != now[name]
    ]
