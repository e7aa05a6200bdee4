"""FakeImageClassifier: the loss, the metrics and the optimizer around the network, as the paper trains it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_cifake.checkpoint import check_training_state
from lightning_cifake.data import trained_on
from lightning_cifake.data.datamodule import Batch, CIFAKEDataModule
from lightning_cifake.distributed import all_reduce_sum, use_shard
from lightning_cifake.errors import UserError
from lightning_cifake.limits import LARGEST_IMAGE
from lightning_cifake.migration import network_of_0_1_0
from lightning_cifake.networks.batch_norm import KerasBatchNorm1d, KerasBatchNorm2d
from lightning_cifake.networks.contract import check_logits
from lightning_cifake.networks.flips import MeanOfFlips
from lightning_cifake.networks.freezing import freeze_backbone as freeze
from lightning_cifake.networks.freezing import keep_frozen
from lightning_cifake.networks.registry import build_network, network_spec
from lightning_cifake.training.averaging import RAW, WeightAverage, resume
from lightning_cifake.training.cuda_graphs import GraphedTraining, check_graphs
from lightning_cifake.training.distillation import NO_TEACHER, SHARE, TEMPERATURE, Distillation
from lightning_cifake.training.epoch_history import EpochHistory
from lightning_cifake.training.fitting import Collected, check_fitting, is_fitted, no_gradient
from lightning_cifake.training.hub_mixin import HubMixin
from lightning_cifake.training.initial_weights import load_weights, record_of_weights, say_what_trains
from lightning_cifake.training.loss import BCE, mean_loss, summed_loss
from lightning_cifake.training.measured_module import is_real
from lightning_cifake.training.objects import ObjectTarget
from lightning_cifake.training.optimization import (
    OPTIMIZER,
    RUN_STEPS,
    SCHEDULER,
    Given,
    configuration,
    made_loss,
    optimizer_maker,
    run_steps,
    scheduler_maker,
    take_schedule,
)

SYNC_REFUSED = (
    "trainer.sync_batchnorm: expected false with a network of Keras's batch norm (meso4, resnet50 with layout keras, "
    "...), which always goes over the batch of all processes, got true"
)


IMAGE_SIZE = 32  # CIFAKE's; of a network that takes any, before it has seen data


class FakeImageClassifier(HubMixin, EpochHistory):
    """A network, trained as published: Adam as Keras computes it, x0.95 an epoch, BCE on logits.

    In several processes (Lightning's DDP) it gives the figures of one process with the same batch, where the network's
    batch norms are :class:`~lightning_cifake.networks.batch_norm.KerasBatchNorm2d`'s, or none. Others do so with
    ``trainer.sync_batchnorm``, on GPUs; without it each process normalises by its own part of the batch, and the first
    one's running statistics are measured and saved: DDP hands its buffers on before each step.

    Args:
        network: any ``nn.Module`` that maps (N, 3, S, S) float in [0, 1] to (N,) logits of P(REAL): an object, a short
            name (``resnet50``), a class path, or class_path and init_args.
        weights: what training starts from: ``none`` (random), a file of the same network's weights, or a checkpoint of
            this project. ``resnet50`` takes ``imagenet`` too (with layout keras keras.applications' own, as in the
            paper, else torchvision's), torchvision's or Keras's ResNet50 weights, and a Keras model.
        learning_rate: the optimizer's, before the schedule: the first epoch already trains at 0.95 of it, as in Keras.
        lr_decay: factor on the learning rate at the start of every epoch, the first included; for a schedule that takes
            ``lr_decay``, as the published one does.
        optimizer: a class path, class_path and init_args, a class, or a function of (parameters, lr=...).
        scheduler: likewise, of (optimizer); it steps once an epoch, or with the optimizer where it takes ``run_steps``,
            the steps of the whole run. ReduceLROnPlateau watches val_loss.
        loss: likewise, or a loss itself, of logits (N,) float and labels (N,) float (0 FAKE, 1 REAL). It gives a loss
            for each image, (N,), or their mean, a scalar; in several processes it sees the images of one, and their
            losses are added up: one that compares the images of a batch with each other is another loss there.
        freeze_backbone: trains the network's head alone: its ``head`` where it has one, else its last linear layer. The
            rest stays as ``weights`` has it, its batch norms' statistics too, and drops nothing.
        channels_last: keeps the kernels channels last in memory, as the images are: what fp16 and bf16 on a GPU like.
        teacher: a checkpoint of this project, of any network for images of this size (an ensemble too), whose answers
            about the augmented images are learnt beside the labels; ``none`` without one.
        teacher_share: of the loss that is the teacher's, from 0 to 1.
        teacher_temperature: divides the logits of both for the teacher's part; above 1 they say more than the label.
        ema_decay: keeps a running average of the weights, with this decay a step (0.999), which is validated, saved and
            tested in their place; 0: none.
        object_weight: learns what an image shows beside its label, with this weight in the loss, by a network that has
            an output for it; CIFAKE's file names tell its ten object classes. 0: not.
        test_flips: answers with the mean of the logits of an image and its mirror, in validation, test, prediction and
            in what is exported; twice the work. Training is without.
        compile: trains with a network compiled by torch.compile, for a minute at the start.
        cuda_graphs: launches the network's passes in training as one recorded graph, on one GPU: faster where a step
            is many small kernels, as in batches of 32.
        **of_0_1_0: arguments of version 0.1.0 (layout, stem, ...), which are the network's now: taken with a warning.

    Raises:
        UserError: no such class, one of another kind, or arguments that it does not take.
    """

    def __init__(
        self,
        network: nn.Module | str | Mapping[str, Any] = "resnet50",
        weights: str = "none",
        learning_rate: float = 1e-3,
        lr_decay: float = 0.95,
        optimizer: Given = OPTIMIZER,
        scheduler: Given = SCHEDULER,
        loss: nn.Module | Given = BCE,
        channels_last: bool = False,
        freeze_backbone: bool = False,
        teacher: str = NO_TEACHER,
        teacher_share: float = SHARE,
        teacher_temperature: float = TEMPERATURE,
        ema_decay: float = 0.0,
        object_weight: float = 0.0,
        test_flips: bool = False,
        compile: bool = False,
        cuda_graphs: bool = False,
        **of_0_1_0: Any,
    ) -> None:
        super().__init__()
        if of_0_1_0:
            network = network_of_0_1_0(network, of_0_1_0)
        if not learning_rate > 0 or not 0 < lr_decay <= 1:
            raise UserError(
                f"expected model.learning_rate > 0 and 0 < model.lr_decay <= 1, got {learning_rate} and {lr_decay}"
            )
        if not 0 <= ema_decay < 1:
            raise UserError(f"model.ema_decay: expected a share from 0 to below 1, got {ema_decay}")
        self._optimizer, self._scheduler = optimizer_maker(optimizer), scheduler_maker(scheduler)
        self.loss, loss_spec = made_loss(loss)
        self._distillation = Distillation(teacher, teacher_share, teacher_temperature)
        self.network = network if isinstance(network, nn.Module) else build_network(network)
        if channels_last:
            self.network.to(memory_format=torch.channels_last)
        self.freeze_backbone = freeze_backbone
        if freeze_backbone:
            freeze(self.network)
            keep_frozen(self.network)
        self.save_hyperparameters(
            {
                "network": network_spec(self.network),
                "weights": weights,
                "learning_rate": learning_rate,
                "lr_decay": lr_decay,
                "optimizer": self._optimizer.spec,
                "scheduler": self._scheduler.spec,
                "loss": loss_spec,
                "channels_last": channels_last,
                "freeze_backbone": freeze_backbone,
                "teacher": teacher,
                "teacher_share": teacher_share,
                "teacher_temperature": teacher_temperature,
                "ema_decay": ema_decay,
                "object_weight": object_weight,
                "test_flips": test_flips,
                "compile": compile,
                "cuda_graphs": cuda_graphs,
            }
        )
        self._objects = ObjectTarget(object_weight, self.network)
        self._keras_norms = has_keras_norms(self.network)
        self._trained_weights: Any = None  # of the checkpoint that training resumes from
        self._compiled: tuple[Any, ...] = ()  # not the network's twin in the state_dict
        self._image_size = IMAGE_SIZE
        self.trained_on: trained_on.Record = []
        """What these weights were ever trained on; see :mod:`lightning_cifake.data.trained_on`."""
        self._collected = Collected()

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, S, S) float in [0, 1] -> (N,) logits of P(REAL).

        Raises:
            UserError: the network gives something else.
        """
        network = self.network if self.training else self.inference_network
        logits = (self._compiled[0] if self.training and self._compiled else network)(images)
        check_logits(logits, images, self.network)
        return logits

    def _forward_with_objects(self, images: Tensor) -> tuple[Tensor, Tensor]:
        network: Any = self.network
        logits, object_logits = (self._compiled[0] if self._compiled else network.forward_with_objects)(images)
        check_logits(logits, images, network)
        return logits, object_logits

    @property
    def inference_network(self) -> nn.Module:
        """What answers and is exported: the network, with ``test_flips`` asked twice."""
        return MeanOfFlips(self.network) if self.hparams["test_flips"] else self.network

    def train(self, mode: bool = True) -> "FakeImageClassifier":
        super().train(mode)
        if self.freeze_backbone:
            keep_frozen(self.network)
        return self

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
            size = self.image_size
            input_sample = next(self.network.parameters()).new_zeros(2, 3, size, size)
            if "dynamic_axes" not in kwargs:
                kwargs.setdefault("dynamic_shapes", ({0: torch.export.Dim("batch")},))
        training = self.training
        self.eval()  # Lightning does not: its file would have training's dropout, and the statistics of the sample
        try:
            return super().to_onnx(file_path, input_sample, **kwargs)
        finally:
            self.train(training)

    @property
    def image_size(self) -> int:
        """The side of the images: the network's own where it has one, else that of the data it was last given."""
        return int(getattr(self.network, "image_size", self._image_size))

    def take_image_size(self, checkpoint: Mapping[str, Any]) -> None:
        """Of the images that a checkpoint was trained on, for a network that takes any."""
        self._image_size = image_size_of(checkpoint)

    def _follow_data(self) -> None:
        """Takes the size of the data's images.

        Raises:
            UserError: the network takes another one.
        """
        size = getattr(getattr(self.trainer, "datamodule", None), "image_size", None)
        if size is None:
            return
        self._image_size = int(size)
        if self.image_size != size:
            raise UserError(f"data.image_size: the network takes images of {self.image_size}, got {size}")

    def setup(self, stage: str) -> None:
        self._follow_data()
        # Lightning does this only after it has loaded a checkpoint, which would round float64 weights to float32
        self.trainer.precision_plugin.convert_module(self)

    def on_fit_start(self) -> None:
        self._refuse_other_norms()
        if is_fitted(self.network):
            try:
                check_fitting(self.hparams, self.trainer.world_size)
            except UserError as error:
                error.reported_by_rank_zero = not self.trainer.is_global_zero
                raise
        # not earlier: only here is it known whether this resumes a checkpoint, which needs no ImageNet weights,
        # nor their file
        if self.trainer.ckpt_path is None:
            load_weights(self.network, self.hparams["weights"])
            self.trained_on = record_of_weights(self.hparams["weights"])
            if self.freeze_backbone:
                say_what_trains(self.network, self.hparams["weights"])
        self._objects.check_data(getattr(self.trainer, "datamodule", None))
        self._compile()
        self._read_teacher()

    def _compile(self) -> None:
        trained: Any = self.network.forward_with_objects if self._objects.weight else self.network
        if self.hparams["cuda_graphs"]:
            check_graphs(self.trainer, self.hparams["compile"])
            self._compiled = (GraphedTraining(self.network, trained),)
        elif self.hparams["compile"]:
            # each size of batch on its own: an epoch has two, and a kernel for any size is a slower one
            self._compiled = (torch.compile(trained, dynamic=False),)

    def _read_teacher(self) -> None:
        try:
            self._distillation.begin(self, self.image_size, self.hparams["channels_last"], self.hparams["compile"])
        except UserError as error:
            error.reported_by_rank_zero = not self.trainer.is_global_zero
            raise
        self.trained_on = trained_on.joined(self.trained_on, self._distillation.record)

    def on_train_start(self) -> None:
        if decay := self.hparams["ema_decay"]:
            raw, self._trained_weights = self._trained_weights, None
            self._average = WeightAverage(self.network, decay) if raw is None else resume(self.network, decay, raw)
        data = getattr(self.trainer, "datamodule", None)
        # the first process writes the checkpoints
        if self.trainer.is_global_zero and isinstance(data, CIFAKEDataModule) and data.split is not None:
            entry = trained_on.entry_of(data)
            trained_on.warn_of_seen([each for each in self.trained_on if each["split"] != entry["split"]], data)
            self.trained_on = trained_on.grown(self.trained_on, entry)

    def _refuse_other_norms(self) -> None:
        """Lightning's sync_batchnorm has taken the place of Keras's norms by now, with the unbiased variance."""
        if self._keras_norms and any(isinstance(m, nn.SyncBatchNorm) for m in self.network.modules()):
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
        if is_fitted(self.network):
            return self._collect(batch)
        object_logits = None
        with use_shard(batch.shard):
            if self._objects.weight:
                logits, object_logits = self._forward_with_objects(batch.images)
            else:
                logits = self(batch.images)
        right = (is_real(logits) == (batch.labels > 0.5)).sum()
        if batch.shard is None:
            count, loss = len(logits), mean_loss(self.loss, logits, batch.labels)
            loss = self._distillation.loss(loss, mean_loss, logits, batch.images)
            loss = self._objects.loss(loss, mean_loss, logits, object_logits, batch.objects)
        else:
            count = batch.shard.whole
            own_sum = summed_loss(self.loss, logits, batch.labels)
            own_sum = self._distillation.loss(own_sum, summed_loss, logits, batch.images)
            own_sum = self._objects.loss(own_sum, summed_loss, logits, object_logits, batch.objects)
            total, right = all_reduce_sum(torch.stack([own_sum.detach(), right.to(own_sum.dtype)]))
            # the value is the whole batch's mean; the gradient this shard's share of it, times the processes, as DDP
            # takes the mean over them
            loss = total / count + (own_sum - own_sum.detach()) * (len(batch.shard.sizes) / count)
        self.add_batch(loss, right, count)
        self.log_step(loss)
        return loss

    def _collect(self, batch: Batch) -> Tensor:
        self._collected.add(self.network, batch)
        if self.trainer.is_last_batch:  # validated next
            self.train_sums += self._collected.fit(self.network, self.loss, int(self.trainer.num_training_batches))
        return no_gradient(self.network)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        if self._average is not None:
            self._average.update()

    def on_fit_end(self) -> None:
        self._compiled = ()

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        self._collected.clear()

    def _trained_parameters(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def configure_optimizers(self) -> Any:
        optimizer = self._optimizer(self._trained_parameters(), lr=self.hparams["learning_rate"])
        given: dict[str, Any] = {"lr_decay": self.hparams["lr_decay"]}
        every_step = RUN_STEPS in self._scheduler.takes
        if every_step:
            given[RUN_STEPS] = run_steps(self._trainer)
        return configuration(optimizer, self._scheduler(optimizer, **given), every_step)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self._average is not None:
            self._average.save(checkpoint, "network.")
        self.save_history(checkpoint)
        checkpoint["image_size"] = self.image_size
        if self.trained_on:
            checkpoint[trained_on.KEY] = self.trained_on
        self._distillation.save(checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        trainer = self._trainer
        if trainer is not None and trainer.training:
            optimizer = self._optimizer(self._trained_parameters(), lr=self.hparams["learning_rate"])
            check_training_state(checkpoint, [p for group in optimizer.param_groups for p in group["params"]])
            take_schedule(checkpoint, self.hparams)
            self._distillation.resume(checkpoint)
            self._trained_weights = checkpoint.get(RAW)
        self.take_history(checkpoint)
        self.take_image_size(checkpoint)
        if trained_on.KEY in checkpoint:
            self.trained_on = trained_on.checked(checkpoint[trained_on.KEY])
        elif trainer is not None and trainer.ckpt_path:
            self.trained_on = trained_on.record_of(checkpoint, Path(trainer.ckpt_path))


def has_keras_norms(network: nn.Module) -> bool:
    """Whether a batch norm of it is computed as Keras does, over the batch of all processes."""
    return any(isinstance(module, KerasBatchNorm1d | KerasBatchNorm2d) for module in network.modules())


def image_size_of(checkpoint: Mapping[str, Any]) -> int:
    """The side of the images that a checkpoint was trained on, where its network does not say; 0.1.0's network does."""
    size = checkpoint.get("image_size", IMAGE_SIZE)
    return size if type(size) is int and 1 <= size <= LARGEST_IMAGE else IMAGE_SIZE
