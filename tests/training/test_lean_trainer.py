import os

import lightning as L
import pytest
import torch
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.profilers import PassThroughProfiler, Profiler, SimpleProfiler

from lightning_cifake.training.lean_trainer import GPU_CHECK, NothingProfiled, make_lean


@pytest.fixture(autouse=True)
def as_lightning_leaves_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(GPU_CHECK, "1")


def trainer(**arguments: object) -> L.Trainer:
    return L.Trainer(
        accelerator="cpu",
        max_steps=3,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **arguments,
    )


def weights_after(lean: bool) -> list[torch.Tensor]:
    torch.manual_seed(0)
    made, model = trainer(), BoringModel()
    if lean:
        make_lean(made)
    made.fit(model)
    return [weight.detach() for weight in model.parameters()]


def test_a_lean_trainer_trains_to_the_same_bits() -> None:
    assert all(torch.equal(*pair) for pair in zip(weights_after(True), weights_after(False), strict=True))


def test_no_hook_of_a_lean_trainer_goes_through_lightnings_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(self: object, action_name: str) -> None:
        raise AssertionError(action_name)

    made = trainer()
    make_lean(made)
    monkeypatch.setattr(Profiler, "profile", asked)
    made.fit(BoringModel())


def test_a_profiler_that_the_user_named_stays() -> None:
    named = SimpleProfiler()
    made = trainer(profiler=named)
    make_lean(made)
    assert made.profiler is named


def test_a_profiler_of_the_users_own_that_notes_nothing_stays_too() -> None:
    class Own(PassThroughProfiler):
        pass

    own = Own()
    made = trainer(profiler=own)
    make_lean(made)
    assert made.profiler is own


def test_on_a_cpu_torch_loads_no_library_to_look_for_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def loaded(*args: object) -> int:
        raise AssertionError("asked NVIDIA's management library")

    made = trainer()
    make_lean(made)
    assert isinstance(made.profiler, NothingProfiled)
    assert os.environ[GPU_CHECK] == "0"
    monkeypatch.setattr(torch.cuda, "_device_count_nvml", loaded)
    assert torch.cuda.is_available() in (True, False)
