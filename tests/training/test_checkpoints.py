"""A checkpoint is written whole or not at all, and a damaged or foreign one is refused with one line."""

import errno
import os
import pickle
import signal
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_cifake.checkpoint import read_checkpoint, read_weights
from lightning_cifake.errors import UserError
from lightning_cifake.training.checkpoints import LastCheckpoint, SafeCheckpointIO
from lightning_cifake.training.resume import open_checkpoint

CONTENT = {"state_dict": {"weight": torch.arange(4096.0), "count": torch.tensor(3)}, "epoch": 2}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "last.ckpt"
    SafeCheckpointIO().save_checkpoint(CONTENT, path)
    return path


def refused(path: Path | str, match: str) -> None:
    with pytest.raises(UserError, match=match) as error:
        read_checkpoint(Path(path))
    assert "\n" not in str(error.value)


def test_what_was_written_is_read(checkpoint: Path) -> None:
    content = SafeCheckpointIO().load_checkpoint(checkpoint)
    assert torch.equal(content["state_dict"]["weight"], torch.arange(4096.0))
    assert content["epoch"] == 2
    assert os.listdir(checkpoint.parent) == ["last.ckpt"]  # noqa: PTH208 - hidden files too


def no_space(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def half_written(content: Any, file: Any) -> None:
    file.write(b"PK half of it")
    raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")


def as_torch_says_it(content: Any, file: Any) -> None:
    """Seen on a full disk: the writer's destructor complains of a position, over the system's error."""
    try:
        no_space()
    except OSError:
        raise RuntimeError("[enforce fail at inline_container.cc] . unexpected pos 165014848 vs 165014740")  # noqa: B904


@pytest.mark.parametrize(
    ("name", "failure", "says"),
    [
        ("torch.save", no_space, "No space left on device"),
        ("torch.save", as_torch_says_it, r"\(No space left on device\)"),
        ("torch.save", half_written, r"file write failed; [\d,]+ MiB are free"),
        ("os.fsync", no_space, "No space left on device"),
        ("pathlib.Path.replace", no_space, "No space left on device"),
    ],
)
def test_a_full_disk_leaves_the_old_checkpoint_as_it_was(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, name: str, failure: Any, says: str
) -> None:
    before = checkpoint.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(name, failure)
        with pytest.raises(UserError, match=f"could not write .*{says}.*untouched") as error:
            SafeCheckpointIO().save_checkpoint({**CONTENT, "epoch": 3}, checkpoint)
    assert "\n" not in str(error.value)
    assert checkpoint.read_bytes() == before
    assert os.listdir(checkpoint.parent) == ["last.ckpt"]  # noqa: PTH208


def test_weights_that_are_no_numbers_never_replace_a_checkpoint(checkpoint: Path) -> None:
    before = checkpoint.read_bytes()
    with pytest.raises(UserError, match=r"was not written.*NaN or infinite.*weight"):
        SafeCheckpointIO().save_checkpoint({"state_dict": {"weight": torch.tensor([1.0, float("nan")])}}, checkpoint)
    assert checkpoint.read_bytes() == before
    assert os.listdir(checkpoint.parent) == ["last.ckpt"]  # noqa: PTH208


def test_every_flipped_byte_inside_a_tensor_is_refused(checkpoint: Path) -> None:
    whole = checkpoint.read_bytes()
    tensor = whole.find(struct.pack("<3f", 1, 2, 3))
    assert tensor > 0
    for offset in (0, 5, 1000, 4 * 4000):
        damaged = bytearray(whole)
        damaged[tensor + offset] ^= 1
        checkpoint.write_bytes(damaged)
        refused(checkpoint, "last.ckpt is damaged: the checksum of .* does not fit|no checkpoint that can be read")


@pytest.mark.parametrize(
    ("kept", "says"),
    [
        (0, "last.ckpt is empty: expected a checkpoint"),
        (1, "last.ckpt is named as a checkpoint is, and is none"),
        (100, "last.ckpt is damaged, or cut off"),
        (0.5, "last.ckpt is damaged, or cut off"),
        (0.99, "last.ckpt is damaged, or cut off"),
    ],
)
def test_a_truncated_or_empty_file_is_refused(checkpoint: Path, kept: float, says: str) -> None:
    whole = checkpoint.read_bytes()
    checkpoint.write_bytes(whole[: int(kept * len(whole)) if isinstance(kept, float) else kept])
    refused(checkpoint, says)


class Code:
    def __reduce__(self) -> Any:
        return (os.mkdir, ("ran",))


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_checkpoint_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zipped: bool) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "evil.ckpt"
    if zipped:
        torch.save({"state_dict": {"weight": Code()}}, path)
    else:
        path.write_bytes(pickle.dumps({"state_dict": Code()}))
    refused(path, "is no checkpoint that can be read safely" if zipped else "is named as a checkpoint is, and is none")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(tmp_path: Path, value: float) -> None:
    torch.save({"state_dict": {"good": torch.ones(2), "bad": torch.tensor([1.0, value])}}, tmp_path / "x.ckpt")
    refused(tmp_path / "x.ckpt", r"NaN or infinite weights, first bad \(1 tensors\)")


@pytest.mark.parametrize(
    "content", [{"model": 1}, [1, 2], {"state_dict": [1]}, {"state_dict": {"weight": 1}}, {"state_dict": None}]
)
def test_other_contents_are_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "x.ckpt")
    refused(tmp_path / "x.ckpt", "is no Lightning checkpoint: expected a state_dict")


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    refused("https://example.org/model.ckpt", "read from files only, and https?:/+example.org/model.ckpt is an address")
    refused(tmp_path, "is a folder|there is no checkpoint")
    refused(tmp_path / "none.ckpt", "there is no checkpoint .*none.ckpt")


def test_a_tensor_that_one_flipped_bit_calls_a_folder_is_refused_and_not_what_was_in_memory(checkpoint: Path) -> None:
    damaged = bytearray(checkpoint.read_bytes())
    with zipfile.ZipFile(checkpoint) as archive:
        name = next(each.filename for each in archive.infolist() if "/data/" in each.filename).encode()
    entry = damaged.rindex(name) - 46  # in the zip's directory, whose fixed part is so long
    assert damaged[entry : entry + 4] == b"PK\x01\x02"
    damaged[entry + 38] ^= 0x10
    checkpoint.write_bytes(damaged)
    refused(checkpoint, r"no checkpoint that can be read safely \(.*/data/0 is called a folder\)")
    with pytest.raises(UserError, match="/data/0 is called a folder"):
        read_weights(checkpoint)


def test_a_zip_of_something_else_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.ckpt", "w") as archive:
        archive.writestr("readme.txt", "hello")
    refused(tmp_path / "x.ckpt", "is no checkpoint that can be read safely")


def test_training_does_not_go_on_from_weights_alone(checkpoint: Path) -> None:
    with pytest.raises(UserError, match=r"holds weights only: resume from the last\.ckpt beside it"):
        open_checkpoint(checkpoint, to_train=True)


def test_a_second_signal_stops_at_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    last = LastCheckpoint(tmp_path)
    last._on_signal(signal.SIGTERM, None)
    assert "stopping: finishing this step" in capfd.readouterr().err
    with pytest.raises(SystemExit) as stop:
        last._on_signal(signal.SIGINT, None)
    assert stop.value.code == 130
