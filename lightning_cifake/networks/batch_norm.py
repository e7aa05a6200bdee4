"""Batch norm as Keras 3 computes it, over the batch of one process or of several."""

from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from lightning_cifake.distributed import BatchShard, all_reduce_sum, current_shard


class KerasBatchNorm2d(nn.BatchNorm2d):
    """Batch norm whose running variance takes the biased batch variance, as Keras 3 does.

    torch's takes the unbiased one. At 32 px the last stage's maps are 1x1, so a batch of 32 has 32 values a channel and
    the two differ by 32/31: the running variance would settle 3 % too high. (N, C, H, W) float -> the same.

    Where several processes train together (:func:`lightning_cifake.distributed.use_shard`) the statistics are those of
    the whole batch; ``nn.SyncBatchNorm`` would take the unbiased variance, and does not run on a CPU.
    """

    def forward(self, images: Tensor) -> Tensor:
        return _normalise(self, images) if self.training else super().forward(images)


class KerasBatchNorm1d(nn.BatchNorm1d):
    """:class:`KerasBatchNorm2d` for features. (N, C) float -> the same."""

    def forward(self, features: Tensor) -> Tensor:
        return _normalise(self, features) if self.training else super().forward(features)


def _normalise(norm: nn.BatchNorm1d | nn.BatchNorm2d, values: Tensor) -> Tensor:
    shard = current_shard()
    normalised = _normalise_alone(norm, values) if shard is None else _normalise_together(norm, values, shard)
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked.add_(1)
    return normalised


def _normalise_alone(norm: nn.BatchNorm1d | nn.BatchNorm2d, values: Tensor) -> Tensor:
    assert norm.running_var is not None and norm.momentum is not None
    # torch writes (1 - m) before + m unbiased here, and wants it unchanged in backward
    updated = norm.running_var.clone()
    normalised = F.batch_norm(
        values, norm.running_mean, updated, norm.weight, norm.bias, True, norm.momentum, norm.eps
    )  # fmt: skip
    count = values.numel() // values.shape[1]
    bias = (count - 1) / count  # biased = bias * unbiased, so (1 - m) before + m biased is:
    norm.running_var.mul_((1 - norm.momentum) * (1 - bias)).add_(updated, alpha=bias)
    return normalised


def _normalise_together(norm: nn.BatchNorm1d | nn.BatchNorm2d, values: Tensor, shard: BatchShard) -> Tensor:
    assert norm.running_mean is not None and norm.running_var is not None and norm.momentum is not None
    normalised, mean, variance = SyncBatchNormFunction.apply(values, norm.weight, norm.bias, norm.eps, shard)
    norm.running_mean.lerp_(mean, norm.momentum)
    norm.running_var.lerp_(variance, norm.momentum)
    return normalised


class SyncBatchNormFunction(torch.autograd.Function):
    """(n, C, ...) -> the same, normalised by the batch of all processes, and its mean and biased variance, (C,).

    One collective each way: forward gathers every shard's mean and variance, backward sums up two numbers a channel.
    The gradients of weight and bias are of this process's shard; DDP sums those up.
    """

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, weight: Tensor, bias: Tensor, eps: float, shard: BatchShard
    ) -> tuple[Tensor, Tensor, Tensor]:
        mean, variance = _global_moments(values.to(weight.dtype), shard)
        ctx.save_for_backward(values, weight, mean, (variance + eps).rsqrt())
        ctx.count = shard.whole * (values[0].numel() // values.shape[1])
        ctx.mark_non_differentiable(mean, variance)
        return F.batch_norm(values, mean, variance, weight, bias, False, 0.0, eps), mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        values, weight, mean, scale = ctx.saved_tensors
        axes, shape = _axes(values), _channel_shape(values)
        wide = gradient.to(weight.dtype)
        normalised = (values.to(weight.dtype) - mean.view(shape)) * scale.view(shape)
        sums = torch.stack([wide.sum(axes), (wide * normalised).sum(axes)])  # (2, C)
        of_mean, of_variance = all_reduce_sum(sums) / ctx.count
        of_values = (wide - of_mean.view(shape) - normalised * of_variance.view(shape)) * (weight * scale).view(shape)
        return of_values.to(values.dtype), sums[1], sums[0], None, None


def _global_moments(values: Tensor, shard: BatchShard) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of a channel over all shards, (C,) each."""
    variance, mean = torch.var_mean(values, _axes(values), correction=0)
    own = torch.stack([mean, variance])
    gathered = [torch.empty_like(own) for _ in shard.sizes]
    dist.all_gather(gathered, own)
    means, variances = torch.stack(gathered).unbind(1)  # (processes, C) each
    share = means.new_tensor(shard.sizes)[:, None] / shard.whole
    mean = (share * means).sum(0)
    return mean, (share * (variances + (means - mean) ** 2)).sum(0)


def _axes(values: Tensor) -> list[int]:
    return [axis for axis in range(values.dim()) if axis != 1]


def _channel_shape(values: Tensor) -> list[int]:
    """The shape in which (C,) goes along the channels."""
    return [1, -1] + [1] * (values.dim() - 2)
