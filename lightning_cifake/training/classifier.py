"""FakeImageClassifier: the loss, the metrics and the optimizer around the network, as the paper trains it."""

import time
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_cifake.checkpoint import check_training_state, read_checkpoint
from lightning_cifake.data import trained_on
from lightning_cifake.data.datamodule import Batch, CIFAKEDataModule
from lightning_cifake.distributed import all_reduce_sum, gather, use_shard
from lightning_cifake.errors import UserError
from lightning_cifake.evaluation.metrics import binary_metrics
from lightning_cifake.files import expand_user
from lightning_cifake.keras_io.files import is_keras_file
from lightning_cifake.networks.batch_norm import KerasBatchNorm1d, KerasBatchNorm2d
from lightning_cifake.networks.head import PUBLISHED_HEAD
from lightning_cifake.networks.pixels import DEFAULT
from lightning_cifake.networks.resnet50 import DROPOUT, Layout, ResNet50Detector, Stem
from lightning_cifake.training.initial_weights import load_weights
from lightning_cifake.training.keras_adam import KerasAdam

SYNC_REFUSED = (
    "trainer.sync_batchnorm: expected false with model.layout keras, whose batch norm always goes over the batch of "
    "all processes, got true"
)


IMAGE_SIZE = 32  # CIFAKE's


class Outputs(NamedTuple):
    """What a whole validation or test gave.

    logits (N,) float32 (float64 in 64-true), labels (N,) int64, index (N,) int64 into the source.
    """

    logits: np.ndarray
    labels: np.ndarray
    index: np.ndarray  # type: ignore[assignment]  # hides tuple.index

    @property
    def prob_real(self) -> np.ndarray:
        """(N,) float32 in [0, 1]."""
        return torch.from_numpy(self.logits).sigmoid().float().numpy()


class FakeImageClassifier(L.LightningModule):
    """ResNet50 with a head, trained as published: Adam as Keras computes it, x0.95 an epoch, BCE on logits.

    In several processes (Lightning's DDP) it gives the figures of one process with the same batch. Layout torchvision
    does so with ``trainer.sync_batchnorm``, on GPUs; without it each process normalises by its own shard of the batch,
    and the first one's running statistics are measured and saved: DDP hands its buffers on before each step.

    Args:
        layout: ``keras``, the network of keras.applications as in the paper, or ``torchvision`` (stride on the 3x3
            convolution, torch's batch-norm constants and initialisation).
        weights: what training starts from: ``none`` (random), ``imagenet`` (with layout keras keras.applications' own,
            as in the paper, else torchvision's), or a file: torchvision's or Keras's ResNet50 weights, a Keras model,
            or a checkpoint of this project.
        stem: ``imagenet``, the 7x7 stride-2 convolution and max-pool of the paper, or ``small``, a 3x3 of stride 1 for
            small images: slower by about eight times, and more accurate.
        freeze_backbone: trains the head alone.
        image_size: height and width of the images; taken from data.image_size.
        learning_rate: Adam's, before the first decay: the first epoch already trains at 0.95 of it, as in Keras.
        lr_decay: factor on the learning rate at the start of every epoch, the first included.
        dropout: share of features dropped in the head, where ``head`` gives its dropout no rate.
        channels_last: keeps the kernels channels last in memory, as the images are: what fp16 and bf16 on a GPU like.
        head: what follows the backbone: ``flatten`` or ``avgpool``, then any of ``dense UNITS [ACTIVATION] [nobias]``,
            ``batchnorm [eps E] [momentum M]``, ``dropout [RATE]`` or an activation, then ``dense 1``.
        pixels: what the network is fed of the images: ``0-1``, as published, ``0-255``, ``-1-1`` or ``caffe``
            (keras.applications.resnet50.preprocess_input), and what it does with it before its first convolution.
            It sees to that itself: images come in as they are.
    """

    train_sums: Tensor

    def __init__(
        self,
        layout: Layout = "keras",
        weights: str = "none",
        stem: Stem = "imagenet",
        freeze_backbone: bool = False,
        image_size: int = IMAGE_SIZE,
        learning_rate: float = 1e-3,
        lr_decay: float = 0.95,
        dropout: float = DROPOUT,
        channels_last: bool = False,
        head: str = PUBLISHED_HEAD,
        pixels: str = DEFAULT,
    ) -> None:
        super().__init__()
        if not learning_rate > 0 or not 0 < lr_decay <= 1 or not 0 <= dropout < 1:
            raise UserError(
                "expected model.learning_rate > 0, 0 < model.lr_decay <= 1 and 0 <= model.dropout < 1, "
                f"got {learning_rate}, {lr_decay} and {dropout}"
            )
        self.save_hyperparameters()
        self.network = ResNet50Detector(layout, stem, freeze_backbone, image_size, dropout, head, pixels)
        if channels_last:
            self.network.to(memory_format=torch.channels_last)
        self.history: list[dict[str, Any]] = []
        """One dict an epoch, as Keras's ``History``: epoch (from 0), lr, train_loss, train_accuracy, val_*, seconds."""
        self.trained_on: trained_on.Record = []
        """What these weights were ever trained on; see :mod:`lightning_cifake.data.trained_on`."""
        self.outputs: Outputs | None = None
        """Of the last validation or test that ran to its end."""
        # loss times images, right decisions, images: of the epoch so far, of all processes: DDP lays the first one's
        # buffers over the others', and a checkpoint holds the first one's
        self.register_buffer("train_sums", torch.zeros(3), persistent=False)
        self._parts: list[tuple[Tensor, Tensor, Tensor]] = []
        self._val_metrics: dict[str, Any] = {}
        self._timed: dict[str, float] = {}  # of the epoch so far: when it started, images and seconds of training

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, S, S) float in [0, 1] -> (N,) logits of P(REAL)."""
        return self.network(images)

    def to_onnx(self, file_path: Any = None, input_sample: Any = None, **kwargs: Any) -> Any:
        """Lightning's own: the bare network, (N, 3, S, S) float32 in [0, 1] -> (N,) logits, of any N.

        In eval mode, whatever mode the model is in. For use, ``python -m lightning_cifake export`` is the way: its file
        takes bytes of any size, is checked against this model, and is what Detector opens.

        Args:
            file_path: where to; None writes nothing.
            input_sample: what it is traced with; by default two black images of its size.
            **kwargs: for torch.onnx.export.
        """
        if input_sample is None:
            size = self.hparams["image_size"]
            input_sample = next(self.network.parameters()).new_zeros(2, 3, size, size)
            if "dynamic_axes" not in kwargs:
                kwargs.setdefault("dynamic_shapes", ({0: torch.export.Dim("batch")},))
        training = self.training
        self.eval()  # Lightning does not: its file would have training's dropout, and the statistics of the sample
        try:
            return super().to_onnx(file_path, input_sample, **kwargs)
        finally:
            self.train(training)

    def setup(self, stage: str) -> None:
        # Lightning does this only after it has loaded a checkpoint, which would round float64 weights to float32
        self.trainer.precision_plugin.convert_module(self)

    def on_fit_start(self) -> None:
        self._refuse_other_norms()
        # not earlier: only here is it known whether this goes on from a checkpoint, which needs no ImageNet weights,
        # nor the file they came from
        if self.trainer.ckpt_path is None:
            load_weights(self.network, self.hparams["weights"])
            self.trained_on = _record_of_weights(self.hparams["weights"])

    def on_train_start(self) -> None:
        data = getattr(self.trainer, "datamodule", None)
        # the first process writes the checkpoints
        if self.trainer.is_global_zero and isinstance(data, CIFAKEDataModule) and data.split is not None:
            entry = trained_on.entry_of(data)
            trained_on.warn_of_seen([each for each in self.trained_on if each["split"] != entry["split"]], data)
            self.trained_on = trained_on.grown(self.trained_on, entry)

    def _refuse_other_norms(self) -> None:
        """Lightning's sync_batchnorm has taken the place of Keras's norms by now, with the unbiased variance."""
        if self.hparams["layout"] == "keras" and any(isinstance(m, nn.SyncBatchNorm) for m in self.network.modules()):
            error = UserError(SYNC_REFUSED)
            error.reported_by_rank_zero = not self.trainer.is_global_zero
            raise error

    @property
    def min_images_per_rank(self) -> int:
        """Images that a process needs in training: 2 where a batch norm sees that process's shard alone."""
        norms = (m for m in self.network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))
        together = (KerasBatchNorm1d, KerasBatchNorm2d, nn.SyncBatchNorm)
        return 1 if all(isinstance(norm, together) for norm in norms) else 2

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        with use_shard(batch.shard):
            logits = self(batch.images)
        right = (is_real(logits) == (batch.labels > 0.5)).sum()
        if batch.shard is None:
            count, loss = len(logits), F.binary_cross_entropy_with_logits(logits, batch.labels)
        else:
            count = batch.shard.whole
            mine = F.binary_cross_entropy_with_logits(logits, batch.labels, reduction="sum")
            total, right = all_reduce_sum(torch.stack([mine.detach(), right.to(mine.dtype)]))
            # the value is the whole batch's mean; the gradient this shard's share of it, times the processes, as DDP
            # takes the mean over them
            loss = total / count + (mine - mine.detach()) * (len(batch.shard.sizes) / count)
        with torch.no_grad():  # as Keras: in train mode, before the update, weighted by the batch's size
            self.train_sums += torch.stack([loss.detach() * count, right.to(loss.dtype), loss.new_tensor(count)])
        self.log("loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        logits = self(batch.images)
        logits = logits if logits.dtype == torch.float64 else logits.float()
        self._parts.append((logits, batch.labels, batch.index))

    test_step = validation_step

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """(N,) float32 probabilities of REAL."""
        return self(batch.images).float().sigmoid()

    def on_train_epoch_start(self) -> None:
        self.train_sums.zero_()

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        if not self._timed:
            self._timed = {"start": time.monotonic(), "images": 0, "seconds": 0.0}
        # before the step: at an epoch's end the scheduler may have stepped, or not where the epoch is cut short
        self._timed["lr"] = self.optimizers().param_groups[0]["lr"]  # type: ignore[union-attr]

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        self._timed["images"] += len(batch.labels) if batch.shard is None else batch.shard.whole
        self._timed["seconds"] = time.monotonic() - self._timed["start"]

    def on_train_epoch_end(self) -> None:
        loss, right, count = self.train_sums.tolist()
        epoch = {
            "epoch": self.current_epoch,
            "lr": self._timed["lr"],  # what its last step trained at
            "train_loss": loss / count,
            "train_accuracy": right / count,
            **self._val_metrics,
            "train_seconds": self._timed["seconds"],
            "images_per_second": self._timed["images"] / max(self._timed["seconds"], 1e-9),
        }
        if self.history and self.history[-1]["epoch"] == epoch["epoch"]:  # it had been cut short, and went on
            self.history.pop()
        self.history.append(epoch)
        self.log_dict({"train_loss": epoch["train_loss"], "train_accuracy": epoch["train_accuracy"]}, prog_bar=True)
        self._timed, self._val_metrics = {}, {}

    def on_validation_epoch_start(self) -> None:
        self._parts = []

    on_test_epoch_start = on_validation_epoch_start

    def on_validation_epoch_end(self) -> None:
        loss, metrics = self._evaluate()
        values = {"val_loss": loss, **{f"val_{name}": metrics[name] for name in _LOGGED if metrics[name] is not None}}
        self._val_metrics = {} if self.trainer.sanity_checking else values
        for name, value in values.items():
            self.log(name, value, prog_bar=name in ("val_loss", "val_accuracy"))

    def on_test_epoch_end(self) -> None:
        loss, metrics = self._evaluate()
        self.log_dict({"test_loss": loss, **{f"test_{n}": metrics[n] for n in _LOGGED if metrics[n] is not None}})

    def _evaluate(self) -> tuple[float, dict[str, Any]]:
        """Loss and metrics over everything that was seen since the epoch began, computed once, at its end.

        Each process computes them over the parts of all, in the order of one process.
        """
        parts = [(logits.cpu(), labels.cpu(), index.cpu()) for logits, labels, index in self._parts]
        self._parts = []
        if self.trainer.world_size > 1:
            parts = [part for batch in zip(*gather(parts), strict=True) for part in batch]
        logits, labels, index = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        self.outputs = Outputs(logits.numpy(), labels.long().numpy(), index.numpy())
        loss = F.binary_cross_entropy_with_logits(logits.double(), labels.double()).item()
        if not np.isfinite(loss):
            return float("nan"), dict.fromkeys(_LOGGED)
        return loss, binary_metrics(self.outputs.prob_real, self.outputs.labels)

    def configure_optimizers(self) -> Any:
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        optimizer = KerasAdam(trained, lr=self.hparams["learning_rate"])
        decay = self.hparams["lr_decay"]
        # Keras's LearningRateScheduler runs as an epoch begins, so the first epoch is already decayed once
        return [optimizer], [torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: decay ** (epoch + 1))]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["history"] = self.history
        checkpoint["train_sums"] = self.train_sums.clone()
        if self.trained_on:
            checkpoint[trained_on.KEY] = self.trained_on

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        trainer = self._trainer
        if trainer is not None and trainer.training:
            check_training_state(checkpoint, [p for p in self.parameters() if p.requires_grad])
            self._take_schedule(checkpoint)
        self.history = checkpoint.get("history", [])
        if "train_sums" in checkpoint:
            self.train_sums.copy_(checkpoint["train_sums"])
        if trained_on.KEY in checkpoint:
            self.trained_on = trained_on.checked(checkpoint[trained_on.KEY])
        elif trainer is not None and trainer.ckpt_path:
            self.trained_on = trained_on.record_of(checkpoint, Path(trainer.ckpt_path))

    def _take_schedule(self, checkpoint: dict[str, Any]) -> None:
        """Puts the learning rate and decay that were asked for now into the state that training goes on from.

        Torch keeps both in the states of the optimizer and of the scheduler, and restores them from there. The rate is
        what it would be at this epoch had the run begun with them.
        """
        before = checkpoint.get("hyper_parameters", {})
        rate, decay = self.hparams["learning_rate"], self.hparams["lr_decay"]
        if (before.get("learning_rate", rate), before.get("lr_decay", decay)) == (rate, decay):
            return
        for schedule, optimizer in zip(checkpoint["lr_schedulers"], checkpoint["optimizer_states"], strict=True):
            groups = optimizer["param_groups"]
            now = rate * decay ** (schedule["last_epoch"] + 1)
            schedule |= {"base_lrs": [rate] * len(groups), "_last_lr": [now] * len(groups)}
            for group in groups:
                group |= {"lr": now, "initial_lr": rate}


def _record_of_weights(weights: str) -> trained_on.Record:
    """What weights to start from were trained on; ImageNet's are not of any data here."""
    if weights in ("none", "imagenet"):
        return []
    path = expand_user(weights)
    if not is_keras_file(path):
        try:
            return trained_on.record_of(read_checkpoint(path), path)
        except UserError:  # weights alone: they have been read already
            pass
    return [trained_on.unknown_entry(path.name)]


_LOGGED = ("accuracy", "precision", "recall", "f1", "auroc", "average_precision")


def is_real(logits: Tensor) -> Tensor:
    """(N,) bool: P(REAL) > 0.5, strictly, on the float32 probability, as Keras decides."""
    return logits.detach().float().sigmoid() > 0.5
