"""--model.teacher: its answers are learnt, it is no part of the student, and a resumed run keeps it."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import lightning as L
import pytest
import torch
from pair import Pair
from tiny import SmallNetwork, TinyNetwork
from torch.nn.functional import binary_cross_entropy_with_logits as bce

from lightning_cifake.checkpoint import read_checkpoint
from lightning_cifake.data.datamodule import CIFAKEDataModule, to_float
from lightning_cifake.data.decode import load_images
from lightning_cifake.data.trained_on import unknown_entry
from lightning_cifake.deploy.predict import load_classifier
from lightning_cifake.errors import UserError
from lightning_cifake.training.checkpoints import ExactResume, SafeCheckpointIO
from lightning_cifake.training.classifier import FakeImageClassifier
from lightning_cifake.training.distillation import Distillation
from lightning_cifake.training.loss import mean_loss, summed_loss

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers", "ignore:Checkpoint directory .* exists", "ignore:.*LeafSpec.*is deprecated"
)


def write_teacher(path: Path, seed: int = 0, network: Any = None, **content: Any) -> Path:
    """A checkpoint of a random small network, whose logits are of about +-3."""
    torch.manual_seed(seed)
    model = FakeImageClassifier(network or SmallNetwork())
    whole = {"state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams), **content}
    SafeCheckpointIO().save_checkpoint({**whole, "pytorch-lightning_version": "2.6.6"}, path)
    return path


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    return write_teacher(tmp_path / "teacher.ckpt", trained_on=[unknown_entry("the teacher's images")])


@pytest.fixture
def fit(demo_cache: Path) -> Callable[..., FakeImageClassifier]:
    """Trains a tiny network in float64; ``steps`` of an epoch's six ends it there, as a stop would."""

    def run(
        teacher: Path | None, epochs: int = 1, steps: int = -1, resume: Path | None = None, seed: int = 1, **model: Any
    ) -> FakeImageClassifier:
        torch.manual_seed(seed)
        given = {} if teacher is None else {"teacher": str(teacher)}
        made = FakeImageClassifier(TinyNetwork("torchvision", dropout=0.0), **given, **model)
        data = CIFAKEDataModule(root="demo", sample=128, batch_size=16, cache_dir=str(demo_cache))
        trainer = L.Trainer(
            accelerator="cpu", devices=1, callbacks=[ExactResume()], plugins=[SafeCheckpointIO()], logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
            precision="64-true", max_epochs=epochs, max_steps=steps,
        )  # fmt: skip
        trainer.fit(made, data, ckpt_path=resume)
        return made

    return run


@pytest.mark.parametrize("reduced", [mean_loss, summed_loss])
def test_the_loss_is_the_labels_and_the_softened_teacher_s_in_shares(teacher: Path, reduced: Any) -> None:
    taught = Distillation(str(teacher), share=0.3, temperature=4.0)
    taught.begin(torch.nn.Linear(1, 1).double(), 32)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(5, 3, 32, 32, generator=generator, dtype=torch.float64)
    logits = torch.randn(5, generator=generator, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 1, 1, 0, 1], dtype=torch.float64)
    network = SmallNetwork().eval()
    state = read_checkpoint(teacher)["state_dict"]
    network.load_state_dict({name.removeprefix("network."): value for name, value in state.items()})
    expected_targets = torch.sigmoid(network.double()(images) / 4).detach()
    word = "mean" if reduced is mean_loss else "sum"
    expected = 0.7 * bce(logits, labels, reduction=word) + 0.3 * 16 * bce(logits / 4, expected_targets, reduction=word)
    own = reduced(torch.nn.BCEWithLogitsLoss(), logits, labels)
    found = taught.loss(own, reduced, logits, images)
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)
    assert torch.allclose(*(torch.autograd.grad(each, logits)[0] for each in (found, expected)), rtol=1e-12)


def test_the_teacher_computes_as_its_student_does_and_the_loss_in_float32(teacher: Path) -> None:
    taught, kinds, found = Distillation(str(teacher), share=1.0), [], []
    taught.begin(torch.nn.Linear(1, 1), 32)
    taught._network.register_forward_hook(lambda *given: kinds.append(given[2].dtype))  # type: ignore[union-attr]
    images, logits = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.linspace(-2, 2, 8)
    for precision in (torch.float32, torch.bfloat16):
        with torch.autocast("cpu", torch.bfloat16, enabled=precision is torch.bfloat16):
            found.append(taught.loss(torch.zeros(()), mean_loss, logits.to(precision), images))
    assert kinds == [torch.float32, torch.bfloat16] and [each.dtype for each in found] == [torch.float32] * 2
    assert found[1].item() == pytest.approx(found[0].item(), rel=0.02)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_is_not_waited_for(teacher: Path) -> None:
    taught = Distillation(str(teacher))
    taught.begin(torch.nn.Linear(1, 1).cuda(), 32, channels_last=True)
    images, logits = torch.rand(8, 3, 32, 32, device="cuda"), torch.zeros(8, device="cuda")
    taught.loss(logits.sum(), mean_loss, logits, images)  # what is made once
    torch.cuda.set_sync_debug_mode("error")
    try:
        with torch.autocast("cuda", torch.bfloat16):
            assert taught.loss(logits.sum(), mean_loss, logits, images).is_cuda
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_student_comes_closer_to_its_teacher_than_one_of_the_labels_alone(
    teacher: Path, fit: Callable[..., FakeImageClassifier], demo_cache: Path
) -> None:
    expected = FakeImageClassifier(SmallNetwork()).eval()
    expected.load_state_dict(read_checkpoint(teacher)["state_dict"])
    images = to_float(torch.from_numpy(load_images("demo", cache_dir=demo_cache).images[:200].copy()))

    @torch.no_grad()
    def distance(model: FakeImageClassifier) -> float:
        return float((model.eval().float()(images).sigmoid() - expected(images).sigmoid()).abs().mean())

    untaught = fit(None, epochs=4, learning_rate=0.01)
    taught = fit(teacher, epochs=4, learning_rate=0.01, teacher_share=1.0)
    assert distance(taught) < 0.5 * distance(untaught)


def test_the_teacher_is_no_part_of_the_student_and_stays_as_it_was(
    teacher: Path, fit: Callable[..., FakeImageClassifier], tmp_path: Path
) -> None:
    plain, taught = fit(None, steps=1), fit(teacher, steps=1)
    assert list(taught.state_dict()) == list(plain.state_dict())
    assert len(list(taught.parameters())) == len(list(plain.parameters()))
    network = taught._distillation._network
    assert network is not None and not network.training and not any(p.requires_grad for p in network.parameters())
    state = read_checkpoint(teacher)["state_dict"]
    assert all(torch.equal(value.to(state[f"network.{name}"].dtype), state[f"network.{name}"])
               for name, value in network.state_dict().items())  # fmt: skip
    taught.trainer.save_checkpoint(tmp_path / "last.ckpt")
    saved = read_checkpoint(tmp_path / "last.ckpt")
    assert saved["state_dict"].keys() == plain.state_dict().keys()
    assert "the teacher's images" in [entry["unknown"] for entry in saved["trained_on"]]
    assert len(saved["trained_on"]) == 2  # the teacher's, and the student's own
    teacher.unlink()  # answering and measuring need it no more
    assert load_classifier(tmp_path / "last.ckpt").hparams["teacher"] == str(teacher)


def test_a_resumed_student_is_the_uninterrupted_one_to_the_bit(
    teacher: Path, fit: Callable[..., FakeImageClassifier], tmp_path: Path
) -> None:
    whole = fit(teacher, epochs=2)
    fit(teacher, epochs=1).trainer.save_checkpoint(tmp_path / "last.ckpt")
    moved = teacher.rename(tmp_path / "moved.ckpt")
    resumed = fit(moved, epochs=2, resume=tmp_path / "last.ckpt", seed=77)
    assert [epoch["train_loss"] for epoch in resumed.history] == [epoch["train_loss"] for epoch in whole.history]
    assert all(torch.equal(resumed.state_dict()[name], value) for name, value in whole.state_dict().items())


def test_a_resumed_run_with_another_teacher_or_none_is_refused(
    teacher: Path, fit: Callable[..., FakeImageClassifier], tmp_path: Path
) -> None:
    fit(teacher, steps=1).trainer.save_checkpoint(tmp_path / "last.ckpt")
    for other in (write_teacher(tmp_path / "other.ckpt", seed=5), None):
        with pytest.raises(
            UserError, match=r"model\.teacher: a resumed run keeps its teacher: expected SHA-256 \w{12}"
        ):
            fit(other, resume=tmp_path / "last.ckpt")


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ({"teacher_share": 1.5}, "expected model.teacher_share from 0 to 1"),
        ({"teacher_temperature": 0.0}, "model.teacher_temperature above 0, got 0.5 and 0.0"),
        ({"teacher_share": 0.9}, "expected with --model.teacher CKPT"),
    ],
)
def test_arguments_that_make_no_teacher_are_refused(model: dict[str, float], says: str) -> None:
    with pytest.raises(UserError, match=says):
        FakeImageClassifier(TinyNetwork(), **model)  # type: ignore[arg-type]


def test_a_teacher_of_other_images_or_that_is_damaged_is_refused(
    teacher: Path, fit: Callable[..., FakeImageClassifier], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.ckpt"
    broken.write_bytes(teacher.read_bytes()[:-100])
    larger = write_teacher(tmp_path / "larger.ckpt", network=SmallNetwork(image_size=40))
    for given, says in (
        (broken, "broken.ckpt is damaged, or cut off"),
        (larger, r"larger\.ckpt takes images of 40, got data\.image_size 32"),
    ):
        with pytest.raises(UserError, match=says):
            fit(given)


def test_a_teacher_that_is_not_there_is_one_line_and_leaves_nothing(
    tiny_command: Callable[..., Any], workplace: Path
) -> None:
    done = tiny_command("fit", "--data.sample", "128", "--model.teacher", "nowhere.ckpt")
    assert done.returncode == 2 and "there is no checkpoint nowhere.ckpt" in done.stderr.splitlines()[-1], done.stderr
    assert "Traceback" not in done.stderr and not (workplace / "checkpoints").exists()


def test_two_processes_are_taught_as_one_is(warm: Any, teacher: Path, demo_cache: Path, tmp_path: Path) -> None:
    import tiny

    arguments = ("fit", "--data.sample", "128", "--data.batch_size", "16", "--trainer.max_epochs", "1",
                 "--trainer.accelerator", "cpu", "--trainer.precision", "64-true", "--trainer.logger", "false",
                 "--test_at_end", "false", "--model.network.layout", "keras", "--model.learning_rate", "0.02",
                 "--model.teacher", str(teacher), "--model.teacher_share", "0.7", "--output_dir")  # fmt: skip
    environment = {"LIGHTNING_CIFAKE_CACHE": str(demo_cache), "JSONARGPARSE_DEPRECATION_WARNINGS": "off"}
    with contextlib.chdir(tmp_path), patch.dict(os.environ, environment):
        assert tiny.run([*arguments, "one"]) == 0
    ran = Pair(warm).run(tmp_path, *arguments, "two", **environment)
    assert [process.returncode for process in ran] == [0, 0], ran
    one, two = (read_checkpoint(tmp_path / name / "last.ckpt") for name in ("one", "two"))
    torch.testing.assert_close(two["state_dict"], one["state_dict"], rtol=1e-9, atol=1e-9)
    assert two["history"][0]["train_loss"] == pytest.approx(one["history"][0]["train_loss"], rel=1e-9)
