"""The classifier's history, decisions, metrics and learning rate."""

from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from sklearn import metrics as sk
from torch.nn import functional as F

from lightning_cifake.checkpoint import read_checkpoint
from lightning_cifake.data.datamodule import Batch, CIFAKEDataModule
from lightning_cifake.errors import UserError
from lightning_cifake.training.callbacks import default_callbacks
from lightning_cifake.training.checkpoints import SafeCheckpointIO
from lightning_cifake.training.classifier import FakeImageClassifier
from lightning_cifake.training.measured_module import is_real

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers", "ignore:Checkpoint directory .* exists", "ignore:.*LeafSpec.*is deprecated"
)


class Record(L.Callback):
    """What each training step gave: its loss, its right decisions, its size; and each epoch's learning rate."""

    def __init__(self) -> None:
        self.steps: dict[int, list[tuple[float, int, int]]] = {}
        self.rates: dict[int, set[float]] = {}
        self.outputs: list[tuple[dict[str, float], Any]] = []

    def on_fit_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        original = module.forward

        def forward(images: torch.Tensor) -> torch.Tensor:
            self.logits = original(images)
            return self.logits

        module.forward = forward  # type: ignore[method-assign]

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, outputs: Any, batch: Batch, index: int) -> None:
        logits = self.logits.detach()
        loss = F.binary_cross_entropy(logits.sigmoid(), batch.labels).item()
        right = int(((logits > 0) == (batch.labels > 0.5)).sum())
        self.labels = batch.labels
        self.steps.setdefault(trainer.current_epoch, []).append((loss, right, len(logits)))

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        self.rates.setdefault(trainer.current_epoch, set()).add(trainer.optimizers[0].param_groups[0]["lr"])

    def on_validation_end(self, trainer: L.Trainer, module: FakeImageClassifier) -> None:  # type: ignore[override]
        logged = {name: value.item() for name, value in trainer.callback_metrics.items() if name.startswith("val_")}
        self.outputs.append((logged, module.outputs))


@pytest.fixture
def fit(tmp_path: Path, demo_cache: Path, tiny_network: type) -> Any:
    def run(epochs: int, **data: Any) -> tuple[FakeImageClassifier, Record, Path]:
        torch.manual_seed(3)
        model, record = FakeImageClassifier(tiny_network(dropout=0.25), learning_rate=0.01, lr_decay=0.9), Record()
        trainer = L.Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            precision="64-true",
            callbacks=[*default_callbacks(tmp_path), record],
            plugins=[SafeCheckpointIO()],
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
        trainer.fit(model, CIFAKEDataModule(root="demo", sample=128, batch_size=16, cache_dir=str(demo_cache), **data))
        return model, record, tmp_path

    return run


@pytest.fixture
def fitted(fit: Any) -> tuple[FakeImageClassifier, Record, Path]:
    return fit(3)


def assert_weighted(model: FakeImageClassifier, record: Record) -> None:
    for epoch in model.history:
        loss, right, count = np.array(record.steps[epoch["epoch"]]).T
        assert count.min() < count.max() == 16  # else a plain mean would do
        assert epoch["train_loss"] == pytest.approx((loss * count).sum() / count.sum(), rel=1e-12)
        assert epoch["train_accuracy"] == right.sum() / count.sum()


def test_an_epochs_loss_and_accuracy_are_the_steps_weighted_by_their_size(fitted: Any) -> None:
    model, record, _ = fitted
    assert_weighted(model, record)


def test_mixed_labels_are_learnt_as_shares_and_count_as_the_class_that_weighs_more(fit: Any) -> None:
    model, record, _ = fit(1, mixup=1.0)
    assert ((record.labels > 0) & (record.labels < 1)).any()
    assert_weighted(model, record)


def test_the_learning_rate_is_decayed_before_every_epoch_the_first_included(fitted: Any) -> None:
    model, record, _ = fitted
    for number, epoch in enumerate(model.history):
        (rate,) = record.rates[number]
        assert rate == pytest.approx(0.01 * 0.9 ** (number + 1), rel=1e-12)
        assert epoch["lr"] == pytest.approx(0.01 * 0.9 ** (number + 1), rel=1e-12)


def test_validation_metrics_are_scikit_learns(fitted: Any) -> None:
    model, record, _ = fitted
    assert len(record.outputs) == 3
    for (logged, outputs), epoch in zip(record.outputs, model.history, strict=True):
        prob, labels = outputs.prob_real, outputs.labels
        called = prob > 0.5
        expected = {
            "val_loss": sk.log_loss(labels, 1 / (1 + np.exp(-outputs.logits))),
            "val_accuracy": sk.accuracy_score(labels, called),
            "val_precision": sk.precision_score(labels, called, zero_division=0),
            "val_recall": sk.recall_score(labels, called),
            "val_f1": sk.f1_score(labels, called),
            "val_auroc": sk.roc_auc_score(labels, prob),
            "val_average_precision": sk.average_precision_score(labels, prob),
        }
        assert logged == pytest.approx(expected, abs=1e-6)  # Lightning logs in float32
        assert {name: epoch[name] for name in expected} == pytest.approx(expected, abs=1e-6)


def test_the_best_epochs_weights_come_back_though_it_never_stopped_early(fitted: Any) -> None:
    model, _, folder = fitted
    best = read_checkpoint(folder / "best.ckpt")
    assert best["epoch"] == min(model.history, key=lambda epoch: np.float32(epoch["val_loss"]))["epoch"]
    for name, value in model.state_dict().items():
        assert torch.equal(value, best["state_dict"][name])


def test_checkpoints_hold_the_history_and_the_hyper_parameters(fitted: Any) -> None:
    model, _, folder = fitted
    last = read_checkpoint(folder / "last.ckpt")
    assert last["history"] == model.history
    assert last["hyper_parameters"] == dict(model.hparams)
    assert (last["hyper_parameters"]["learning_rate"], last["hyper_parameters"]["lr_decay"]) == (0.01, 0.9)
    assert "optimizer_states" not in read_checkpoint(folder / "best.ckpt")


def test_exactly_one_half_is_fake() -> None:
    logits = torch.tensor([0.0, 1e-9, -1e-9, 1e-3, -1e-3, float("nan")])
    assert is_real(logits).tolist() == [False, False, False, True, False, False]  # 1e-9: 0.5 in float32
    assert is_real(logits.double()).tolist() == [False, False, False, True, False, False]


@pytest.mark.parametrize(
    "wrong",
    [{"learning_rate": 0.0}, {"learning_rate": float("nan")}, {"lr_decay": 0.0}, {"lr_decay": 1.1}],
)
def test_values_that_cannot_train_are_refused(tiny_network: type, wrong: dict[str, float]) -> None:
    with pytest.raises(UserError, match=r"expected model\.learning_rate > 0.*got"):
        FakeImageClassifier(tiny_network(), **wrong)  # type: ignore[arg-type]


def test_going_on_from_a_checkpoint_does_not_look_for_the_weights_it_once_started_from(
    tmp_path: Path, demo_cache: Path, tiny_network: type
) -> None:
    def fit(epochs: int, checkpoint: Path | None = None) -> None:
        trainer = L.Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            callbacks=default_callbacks(tmp_path / "run"),
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        data = CIFAKEDataModule(root="demo", sample=128, cache_dir=str(demo_cache))
        trainer.fit(FakeImageClassifier(tiny_network(), weights=str(tmp_path / "start.pt")), data, ckpt_path=checkpoint)

    started_from: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        loading = "lightning_cifake.training.classifier.load_weights"
        patch.setattr(loading, lambda network, name: started_from.append(name))
        fit(1)
        assert started_from == [str(tmp_path / "start.pt")]
        fit(2, tmp_path / "run" / "last.ckpt")
        assert len(started_from) == 1


@pytest.mark.parametrize(("layout", "alone", "synced"), [("keras", 1, None), ("torchvision", 2, 1)])
def test_lightnings_synced_norms_are_torchvisions_alone(
    tiny_network: type, layout: str, alone: int, synced: int | None
) -> None:
    model = FakeImageClassifier(tiny_network(layout))
    assert model.min_images_per_rank == alone
    model.network = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model.network)
    model._trainer = type("Trainer", (), {"is_global_zero": True, "ckpt_path": None})()
    if synced is None:
        with pytest.raises(
            UserError, match=r"trainer\.sync_batchnorm: expected false with a network of Keras's batch norm"
        ):
            model.on_fit_start()
    else:
        model.on_fit_start()
        assert model.min_images_per_rank == synced


@pytest.mark.filterwarnings("default")  # of torch's exporter and what it is built on
def test_lightnings_own_to_onnx_exports_what_the_model_answers_in_eval_mode(tiny_network: type, tmp_path: Path) -> None:
    import onnxruntime

    model = FakeImageClassifier(tiny_network(dropout=0.9))
    model.train()
    model.to_onnx(tmp_path / "model.onnx", verbose=False)
    assert model.training
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    images = torch.rand(5, 3, 32, 32)
    (logits,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    with torch.inference_mode():
        expected = model.eval()(images).numpy()
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5)
