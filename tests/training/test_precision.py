"""The precision that is chosen for a machine."""

import pytest
import torch

from lightning_cifake.training.precision import best_precision


def machine(
    patch: pytest.MonkeyPatch,
    *,
    cuda: tuple[int, int] | None = None,
    mps: bool = False,
    bf16: bool = False,
    amx: bool = False,
) -> None:
    patch.setattr(torch.cuda, "is_available", lambda: cuda is not None)
    # below is_bf16_supported, so that torch's own reading of the capability is in the test
    patch.setattr(torch.cuda, "get_device_properties", lambda *_: type("P", (), {"major": (cuda or (0, 0))[0]})())
    patch.setattr(torch.cuda, "current_device", lambda: 0)
    patch.setattr(torch.version, "cuda", "12.8")
    patch.setattr(torch.version, "hip", None)
    patch.setattr(torch.backends.mps, "is_available", lambda: mps)
    patch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bf16)
    patch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)


@pytest.mark.parametrize(
    ("capability", "chosen"),
    [((7, 5), "16-mixed"), ((7, 0), "16-mixed"), ((8, 0), "bf16-mixed"), ((9, 0), "bf16-mixed")],
)
@pytest.mark.parametrize("accelerator", ["auto", "gpu", "cuda"])
def test_a_gpu_gets_bf16_from_capability_8_and_fp16_below(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], chosen: str, accelerator: str
) -> None:
    machine(monkeypatch, cuda=capability)
    assert best_precision(accelerator) == chosen


def test_the_cpu_of_a_machine_with_a_gpu_is_asked_when_it_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, cuda=(7, 5), mps=True)
    assert best_precision("cpu") == "32-true"
    machine(monkeypatch, cuda=(7, 5), bf16=True)
    assert best_precision("cpu") == "bf16-mixed"


@pytest.mark.parametrize(
    ("bf16", "amx", "chosen"),
    [(False, False, "32-true"), (True, False, "bf16-mixed"), (False, True, "bf16-mixed"), (True, True, "bf16-mixed")],
)
def test_a_cpu_gets_bf16_where_it_has_the_instructions(
    monkeypatch: pytest.MonkeyPatch, bf16: bool, amx: bool, chosen: str
) -> None:
    machine(monkeypatch, bf16=bf16, amx=amx)
    assert best_precision("auto") == best_precision("cpu") == chosen


def test_apple_gets_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, mps=True, bf16=True)
    assert best_precision("auto") == best_precision("mps") == best_precision("gpu") == "32-true"
