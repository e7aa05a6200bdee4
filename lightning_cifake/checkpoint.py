"""Files that torch wrote, read without trusting them: no code is run, every byte is checked, sizes are bounded.

The one reader of checkpoints and of files of weights, for every command.
"""

import logging
import re
import sys
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from lightning_cifake.errors import UserError
from lightning_cifake.files import sha256_of
from lightning_cifake.hub import SAFETENSORS
from lightning_cifake.model_kinds import what_is_wrong, what_takes
from lightning_cifake.pretrained import read_pretrained, read_tensors
from lightning_cifake.text import printable, reason_of

log = logging.getLogger(__name__)

MAX_PICKLE_BYTES = 256 * 2**20  # what describes the tensors; a last.ckpt of ours has 100 KB
_FOLDER = 0x10  # of a zip member's attributes, as MS-DOS has them
_DIGEST_IN_NAME = re.compile(r"-([0-9a-f]{8,64})$")  # torchvision's resnet50-11ad3fa6.pth begins its SHA-256 so


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a checkpoint, onto the CPU, without running code from it, after checking every byte and every weight.

    torch's own loader takes a flipped byte silently; the CRC-32s that its writer puts beside each tensor do not.

    Raises:
        UserError: no such file, an address instead of a file, damaged, not a checkpoint of this kind, NaN weights.
    """
    shown = printable(path)
    if "://" in str(path) or str(path).startswith(("http:/", "https:/")):
        raise UserError(f"checkpoints are read from files only, and {shown} is an address: download it first")
    if not path.is_file():
        raise UserError(
            f"{shown} is a folder: expected a .ckpt file" if path.is_dir() else f"there is no checkpoint {shown}"
        )
    if path.suffix == SAFETENSORS:  # weights as the Hub keeps them, and what builds their network
        checkpoint = read_pretrained(path)
        _refuse_non_finite(checkpoint["state_dict"], shown)
        return checkpoint
    try:
        checkpoint = _load_zip(path)
    except _DamagedMember as error:
        raise UserError(f"the checkpoint {shown} is damaged: the checksum of {error} does not fit") from error
    except Exception as error:  # zipfile, torch and pickle raise a dozen kinds here
        if other := what_takes(path, "checkpoint"):
            raise UserError(f"{shown} is no checkpoint: {other}") from error
        if not zipfile.is_zipfile(path) and (why := what_is_wrong(path)):
            raise UserError(why) from error
        raise UserError(f"{shown} is no checkpoint that can be read safely ({reason_of(error)})") from error
    state = checkpoint.get("state_dict") if isinstance(checkpoint, dict) else None
    if not _is_state(state):
        raise UserError(f"{shown} is no Lightning checkpoint: expected a state_dict in it")
    _refuse_non_finite(state, f"the checkpoint {shown}")
    return checkpoint


def read_weights(path: Path) -> dict[str, Tensor]:
    """The ``state_dict`` in a checkpoint or a file of weights alone (``.pt``, ``.pth``), checked like a checkpoint.

    Where the file carries no checksums (torch's format before 1.6), the digest in its name is checked, as torchvision
    gives it; without one a warning says that it is unchecked.

    Raises:
        UserError: no such file, damaged, no weights, NaN weights.
    """
    shown = printable(path)
    if not path.is_file():
        raise UserError(f"weights: expected none, imagenet or a file, and {shown} is not a file")
    try:
        if path.suffix == SAFETENSORS:
            content: Any = read_tensors(path)
        else:
            content = _load_zip(path) if zipfile.is_zipfile(path) else _load_legacy(path)
    except _DamagedMember as error:
        raise UserError(f"{shown} is damaged: the checksum of {error} does not fit") from error
    except UserError:
        raise
    except Exception as error:  # torch raises half a dozen kinds here, pickle's among them
        raise UserError(
            f"{shown} holds no weights that can be read without running code from it ({reason_of(error)})"
        ) from error
    state = content.get("state_dict", content) if isinstance(content, dict) else content
    if not _is_state(state) or not state:
        raise UserError(f"{shown} holds no state_dict: expected names and tensors, got {type(state).__name__}")
    _refuse_non_finite(state, shown)
    return state


def network_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The network's part of a checkpoint's ``state_dict``, by the network's own names; one of a network as it is."""
    own = {name.removeprefix("network."): value for name, value in state.items() if name.startswith("network.")}
    return own or dict(state)


def load_strictly(target: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Every entry, of the same shape, or none.

    Raises:
        UserError: names the first that do not fit.
    """
    expected = target.state_dict()
    problems = [f"missing {name}" for name in expected if name not in state]
    problems += [f"unexpected {printable(name)[:80]}" for name in state if name not in expected]
    problems += [
        f"{name} expected {tuple(value.shape)}, got {tuple(state[name].shape)}"
        for name, value in expected.items()
        if name in state and state[name].shape != value.shape
    ]
    if problems:
        shown = "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
        raise UserError(f"{source} is not of this network: {shown}")
    target.load_state_dict(state, strict=True)


def check_training_state(checkpoint: Mapping[str, Any], trained: Sequence[Tensor]) -> None:
    """Refuses what torch would take, or choke on, when training resumes: moments of other shapes, NaN, no history.

    Args:
        checkpoint: what was read.
        trained: the parameters that are trained, in the optimizer's order.

    Raises:
        UserError: says what is wrong with which part of the checkpoint.
    """
    history = checkpoint.get("history", [])
    if not isinstance(history, list) or not all(_is_epoch(epoch) for epoch in history):
        raise _broken("its history", "expected a list of epochs with names and numbers")
    sums = checkpoint.get("train_sums", torch.zeros(3))
    if not isinstance(sums, Tensor) or sums.shape != (3,) or not _is_finite(sums):
        raise _broken("its train_sums", "expected three numbers")
    _filled(checkpoint, "lr_schedulers")
    for optimizer in _filled(checkpoint, "optimizer_states"):
        states = optimizer.get("state") if isinstance(optimizer, dict) else None
        if not isinstance(states, dict) or not isinstance(groups := optimizer.get("param_groups"), list):
            raise _broken("its optimizer's state", f"expected one for each weight, got {type(states).__name__}")
        adam = any(isinstance(group, dict) and "betas" in group for group in groups)
        if adam and not states and checkpoint.get("global_step"):
            raise _broken(
                "its optimizer's state", f"expected moments after {checkpoint['global_step']} steps, got none"
            )
        of_one_shape = any(isinstance(group, dict) and {"betas", "momentum"} & group.keys() for group in groups)
        for number, state in states.items():
            _check_moments(number, state, trained, of_one_shape)


def _filled(checkpoint: Mapping[str, Any], name: str) -> list[Any]:
    found = checkpoint.get(name)
    if not isinstance(found, list) or not found:  # with none, Lightning would continue with a new one
        got = "none" if not found else type(found).__name__
        raise _broken(f"its {name}", f"expected a list of at least one, got {got}")
    return found


def _check_moments(number: Any, state: Any, trained: Sequence[Tensor], of_one_shape: bool) -> None:
    if type(number) is not int or not 0 <= number < len(trained) or not isinstance(state, dict):
        raise _broken(
            "its optimizer's state", f"expected {len(trained)} numbered weights, got {printable(number)[:40]}"
        )
    for name, value in state.items():
        if not isinstance(value, Tensor):
            continue
        if of_one_shape and value.numel() != 1 and value.shape != trained[number].shape:
            shapes = f"{tuple(trained[number].shape)}, got {tuple(value.shape)}"
            raise _broken("its optimizer's state", f"expected {printable(name)[:40]} of weight {number} as {shapes}")
        if value.is_floating_point() and not _is_finite(value):
            raise _broken("its optimizer's state", f"{printable(name)[:40]} of weight {number} is NaN or infinite")


def _is_epoch(epoch: Any) -> bool:
    return (
        isinstance(epoch, dict)
        and type(epoch.get("epoch")) is int
        and all(isinstance(name, str) and isinstance(value, int | float) for name, value in epoch.items())
    )


def _broken(part: str, reason: str) -> UserError:
    return UserError(f"the checkpoint cannot be resumed: {part} is not what this program writes ({reason})")


class _DamagedMember(Exception):
    """A part of the file is not what its checksum says."""


def _load_zip(path: Path) -> Any:
    """What ``torch.save`` wrote, after its checksums; zip files are all that it writes since torch 1.6."""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        _refuse_inflation(members, path.stat().st_size)
        _refuse_folders(members)
        damaged = archive.testzip()
        if damaged is not None:
            raise _DamagedMember(printable(damaged))
        _refuse_foreign_order(archive)
    content = torch.load(path, map_location="cpu", weights_only=True)
    sizes = Counter(member.file_size for member in members)
    for tensor in _tensors(content):
        _refuse_unbacked(tensor)
    # a storage that claims more bytes than its member has would be read past its end
    for size, count in _storage_sizes(content).items():
        if size and count > sizes[size]:
            raise ValueError(f"a tensor's storage of {size:,} bytes is not in the file")
    return content


def _refuse_folders(members: list[zipfile.ZipInfo]) -> None:
    """A flag that calls a member a folder: torch leaves such a tensor unread, and whatever was in memory is in it."""
    for member in members:
        if member.is_dir() or member.external_attr & _FOLDER:
            raise ValueError(f"{printable(member.filename)} is called a folder")


def _refuse_inflation(members: list[zipfile.ZipInfo], size: int) -> None:
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise ValueError("its parts are compressed, as torch does not write them")
    if sum(member.file_size for member in members) > size:
        raise ValueError("its parts are larger than the file")
    for member in members:
        if member.filename.endswith(".pkl") and member.file_size > MAX_PICKLE_BYTES:
            raise ValueError(f"{printable(member.filename)} has {member.file_size:,} bytes")


def _refuse_foreign_order(archive: zipfile.ZipFile) -> None:
    """Of the bytes in a number: torch would swap them in place, by the sizes that the file claims."""
    for name in archive.namelist():
        if name.endswith("/byteorder") and (order := archive.read(name)) != sys.byteorder.encode():
            raise ValueError(f"its numbers are in {printable(order.decode('latin-1'))[:20]} byte order")


def _load_legacy(path: Path) -> Any:
    """torch's format before 1.6, which carries no checksums."""
    named = _DIGEST_IN_NAME.search(path.stem)
    if named is not None:
        if not sha256_of(path).startswith(named[1]):
            raise UserError(f"{printable(path)} is damaged: its SHA-256 does not begin as its name says")
    else:
        log.warning("%s carries no checksums (an old format of torch): taken unchecked", printable(path))
    content = torch.load(path, map_location="cpu", weights_only=True)
    for tensor in _tensors(content):
        _refuse_unbacked(tensor)
    if sum(size * count for size, count in _storage_sizes(content).items()) > path.stat().st_size:
        raise ValueError("its tensors are larger than the file")
    return content


def _tensors(content: Any) -> Iterator[Tensor]:
    """Every tensor in nested containers, each container once: shared ones can be nested to any size."""
    pending, met = [content], set()
    while pending:
        value = pending.pop()
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, dict | list | tuple | set) and id(value) not in met:
            met.add(id(value))
            pending += [*value.keys(), *value.values()] if isinstance(value, dict) else value


def _refuse_unbacked(tensor: Tensor) -> None:
    """A tensor that claims more values than the file holds for it: terabytes, once something computes with it."""
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
        raise ValueError(f"a tensor that is {tensor.layout}, on {tensor.device}: expected a plain one")
    held = tensor.untyped_storage().nbytes()
    if tensor.numel() * tensor.element_size() > held:
        raise ValueError(f"a tensor of shape {tuple(tensor.shape)} for which the file holds {held:,} bytes")


def _storage_sizes(content: Any) -> Counter[int]:
    """How many storages of each size in bytes; several tensors may share one."""
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in _tensors(content)}
    return Counter(storages.values())


def _is_state(state: Any) -> TypeGuard[dict[str, Tensor]]:
    return isinstance(state, dict) and all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()
    )


def _refuse_non_finite(state: dict[str, Tensor], shown: str) -> None:
    broken = [name for name, value in state.items() if value.is_floating_point() and not _is_finite(value)]
    if broken:
        raise UserError(f"{shown} holds NaN or infinite weights, first {printable(broken[0])} ({len(broken)} tensors)")


def _is_finite(value: Tensor) -> bool:
    # float8 knows no isfinite
    return bool(torch.isfinite(value.float() if value.element_size() == 1 else value).all())
