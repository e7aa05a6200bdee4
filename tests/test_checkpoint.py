"""Every file that torch wrote goes through one reader: damaged, foreign, hostile or boundless ones are refused."""

import io
import random
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_cifake.checkpoint import read_checkpoint, read_weights
from lightning_cifake.errors import UserError

STATE = {"layer.weight": torch.arange(2048.0).reshape(32, 64), "layer.count": torch.tensor(3)}
READERS: dict[str, Callable[[Path], Any]] = {"checkpoint": read_checkpoint, "weights": read_weights}


@pytest.fixture(params=list(READERS))
def reader(request: pytest.FixtureRequest) -> Callable[[Path], Any]:
    return READERS[request.param]


def saved(path: Path, state: Any, **more: Any) -> Path:
    torch.save({"state_dict": state, **more}, path)
    return path


def refused(reader: Callable[[Path], Any], path: Path, match: str = "") -> str:
    with pytest.raises(UserError, match=match) as error:
        reader(path)
    assert "\n" not in str(error.value) and path.name in str(error.value)
    return str(error.value)


def test_what_was_written_is_read(tmp_path: Path, reader: Callable[[Path], Any]) -> None:
    content = reader(saved(tmp_path / "x.ckpt", STATE))
    state = content.get("state_dict", content)
    assert all(torch.equal(state[name], value) for name, value in STATE.items())


@pytest.mark.parametrize("seed", range(4))
def test_a_flipped_byte_is_refused_or_changes_nothing(tmp_path: Path, reader: Callable[[Path], Any], seed: int) -> None:
    """What no checksum covers are names, paddings and the zip's own fields: the weights stay what they were."""
    whole = saved(tmp_path / "x.ckpt", STATE).read_bytes()
    rng = random.Random(seed)
    for _ in range(50):
        damaged = bytearray(whole)
        damaged[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        (tmp_path / "x.ckpt").write_bytes(damaged)
        try:
            content = reader(tmp_path / "x.ckpt")
        except UserError as error:
            assert "\n" not in str(error)
        else:
            state = content.get("state_dict", content)
            assert state.keys() == STATE.keys()
            assert all(torch.equal(state[name], value) for name, value in STATE.items())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_weights_that_are_no_numbers_are_refused(
    tmp_path: Path, reader: Callable[[Path], Any], value: float, dtype: torch.dtype
) -> None:
    path = saved(tmp_path / "x.ckpt", {"good": torch.ones(2), "bad": torch.tensor([1.0, value], dtype=dtype)})
    refused(reader, path, r"NaN or infinite weights, first bad \(1 tensors\)")


@pytest.mark.parametrize(
    ("hostile", "says"),
    [
        (
            torch.ones(1).expand(2**20, 2**20),
            r"a tensor of shape \(1048576, 1048576\) for which the file holds 4 bytes",
        ),
        (torch.empty(2**20, 2**20, device="meta"), "meta"),
        (torch.sparse_coo_tensor(torch.zeros(1, 1).long(), torch.ones(1), (2**40,), check_invariants=True), "sparse"),
    ],
    ids=["expanded", "meta", "sparse"],
)
@pytest.mark.parametrize("place", ["weights", "elsewhere"])
def test_tensors_that_claim_terabytes_are_refused(
    tmp_path: Path, reader: Callable[[Path], Any], hostile: torch.Tensor, says: str, place: str
) -> None:
    if place == "weights":
        path = saved(tmp_path / "x.ckpt", {**STATE, "bad": hostile})
    else:
        path = saved(tmp_path / "x.ckpt", STATE, optimizer_states=[{"state": {0: {"exp_avg": hostile}}}])
    refused(reader, path, says)


def rewritten(path: Path, change: Callable[[str, bytes], bytes], method: int = zipfile.ZIP_STORED) -> None:
    """The same members, changed, with checksums that fit."""
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, change(name, content))


def test_a_storage_that_claims_more_than_its_part_of_the_file_is_refused(
    tmp_path: Path, reader: Callable[[Path], Any]
) -> None:
    """Older versions of torch take the claim, and read what lies behind it in memory."""
    path = saved(tmp_path / "x.ckpt", {"weight": torch.ones(3000)})

    def claim_more(name: str, content: bytes) -> bytes:
        wanted, got = struct.pack("<BH", ord("M"), 3000), struct.pack("<BH", ord("M"), 30000)
        if name.endswith(".pkl"):
            assert content.count(wanted) == 2  # the storage's count and the shape
            return content.replace(wanted, got)
        return content

    rewritten(path, claim_more)
    refused(reader, path, "storage of 120,000 bytes is not in the file|record size .* does not match")


def test_parts_that_are_compressed_are_refused_before_they_are_inflated(
    tmp_path: Path, reader: Callable[[Path], Any]
) -> None:
    path = saved(tmp_path / "x.ckpt", STATE)
    rewritten(path, lambda name, content: content, zipfile.ZIP_DEFLATED)
    refused(reader, path, "compressed")


def test_bytes_in_another_order_are_refused(tmp_path: Path, reader: Callable[[Path], Any]) -> None:
    path = saved(tmp_path / "x.ckpt", STATE)
    rewritten(path, lambda name, content: b"big" if name.endswith("byteorder") else content)
    refused(reader, path, "byte order")


def test_containers_nested_to_any_size_end_soon(tmp_path: Path, reader: Callable[[Path], Any]) -> None:
    nested: Any = [torch.ones(1)]
    for _ in range(60):
        nested = [nested, nested]
    reader(saved(tmp_path / "x.ckpt", STATE, more=nested))


def old_format(path: Path, content: Any) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=False)
    return path


def test_weights_without_checksums_are_said_to_be_unchecked(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    state = read_weights(old_format(tmp_path / "old.pth", STATE))
    assert torch.equal(state["layer.weight"], STATE["layer.weight"])
    assert "old.pth carries no checksums" in caplog.text and "unchecked" in caplog.text


def test_weights_whose_name_gives_their_digest_are_held_against_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import hashlib

    buffer = io.BytesIO()
    torch.save(STATE, buffer, _use_new_zipfile_serialization=False)
    path = tmp_path / f"resnet50-{hashlib.sha256(buffer.getvalue()).hexdigest()[:8]}.pth"
    path.write_bytes(buffer.getvalue())
    assert read_weights(path).keys() == STATE.keys()
    assert "unchecked" not in caplog.text
    path.write_bytes(buffer.getvalue()[:-1] + b"\x01")
    refused(read_weights, path, "SHA-256 does not begin as its name says")


def test_a_name_from_a_stranger_does_not_reach_the_terminal(tmp_path: Path, reader: Callable[[Path], Any]) -> None:
    path = tmp_path / "\x1b[31m.ckpt"
    path.write_bytes(b"no zip")
    with pytest.raises(UserError, match=r"\\x1b\[31m") as error:
        reader(path)
    assert "\x1b" not in str(error.value)
