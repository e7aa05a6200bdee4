"""Optimizers for training from random weights: decoupled decay of the kernels alone, and Muon for the hidden ones.

Norms, biases and all else of one dimension are not decayed unless ``decay_norms`` asks for it. On a GPU a step is a few
launches for all weights together, and the host waits for nothing.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from lightning_cifake.errors import UserError

_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # Keller Jordan's: steep at 0, so that five steps are enough
_NEWTON_SCHULZ_STEPS = 5
_SMALLEST_NORM = 1e-7


def decay_groups(params: Iterable[Tensor], weight_decay: float, decay_norms: bool) -> list[dict[str, Any]]:
    """Kernels and matrices in one group, what has one dimension (norms, biases) in another, not decayed.

    Raises:
        UserError: a negative decay.
    """
    if weight_decay < 0:
        raise UserError(f"model.optimizer.weight_decay: expected at least 0, got {weight_decay}")
    params = list(params)
    if decay_norms:
        return [{"params": params, "weight_decay": weight_decay}]
    kernels = [parameter for parameter in params if parameter.ndim > 1]
    others = [parameter for parameter in params if parameter.ndim <= 1]
    groups = [{"params": kernels, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


class AdamW(torch.optim.AdamW):
    """torch's, without decay of norms and biases.

    Args:
        params: the parameters.
        lr: learning rate.
        betas: decay of the first and the second moment.
        eps: added to sqrt(v).
        weight_decay: a step takes lr * weight_decay of a kernel away.
        decay_norms: decays norms and biases too.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.05,
        decay_norms: bool = False,
    ) -> None:
        super().__init__(decay_groups(params, weight_decay, decay_norms), lr=lr, betas=(betas[0], betas[1]), eps=eps)


class SGDW(torch.optim.Optimizer):
    """SGD with momentum, Nesterov's by default, and decoupled weight decay.

    A decay of d here is what d * (1 - momentum) is in torch's SGD, where the momentum gathers it up.

    Args:
        params: the parameters.
        lr: learning rate.
        momentum: share of the velocity that is kept.
        weight_decay: a step takes lr * weight_decay of a kernel away.
        nesterov: looks ahead.
        decay_norms: decays norms and biases too.

    Source: Loshchilov and Hutter 2019, "Decoupled weight decay regularization", algorithm 1.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 0.1,
        momentum: float = 0.9,
        weight_decay: float = 5e-3,
        nesterov: bool = True,
        decay_norms: bool = False,
    ) -> None:
        if not 0 <= momentum < 1:
            raise UserError(f"model.optimizer.momentum: expected a share from 0 to below 1, got {momentum}")
        groups = decay_groups(params, weight_decay, decay_norms)
        super().__init__(groups, {"lr": lr, "momentum": momentum, "nesterov": nesterov})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = _run(closure)
        for group in self.param_groups:
            params, gradients, velocities = _with_buffers(self, group)
            if not params:
                continue
            torch._foreach_mul_(velocities, group["momentum"])
            torch._foreach_add_(velocities, gradients)
            ahead = torch._foreach_add(gradients, velocities, alpha=group["momentum"])
            _decay(params, group["lr"] * group["weight_decay"])
            torch._foreach_add_(params, ahead if group["nesterov"] else velocities, alpha=-group["lr"])
        return loss


class Muon(torch.optim.Optimizer):
    """Muon for the hidden kernels, AdamW or Nesterov's SGD for the rest, as one optimizer.

    A kernel (out, in, k, k) is taken as a matrix (out, in * k * k): its step is the nearest orthogonal matrix to its
    momentum, by Newton and Schulz's iteration, scaled so that its root mean square is that of AdamW's steps: rates and
    decays of AdamW fit. The rest is the first kernel and the last, in the order in which the network registers them,
    what gives one output, depthwise kernels, norms and biases.

    Kernels of the same shape go through the iteration together, in bfloat16 on a GPU. torch.optim.Muon takes matrices
    alone, one by one.

    Args:
        params: the parameters, in the network's order.
        lr: learning rate of the hidden kernels.
        momentum: share of the momentum that is kept; Nesterov's.
        weight_decay: a step takes lr * weight_decay of a kernel away.
        rest: ``adamw`` or ``sgd``.
        rest_lr: learning rate of the rest; by default ``lr``.
        rest_weight_decay: of the first and the last kernel; by default ``weight_decay``.
        decay_norms: decays norms and biases too.

    Source: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks"; the scale is that of Liu et
    al. 2025, "Muon is scalable for LLM training", 0.2 * sqrt(max(out, in * k * k)).
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 2e-3,
        momentum: float = 0.95,
        weight_decay: float = 0.05,
        rest: str = "adamw",
        rest_lr: float | None = None,
        rest_weight_decay: float | None = None,
        decay_norms: bool = False,
    ) -> None:
        if rest not in ("adamw", "sgd"):
            raise UserError(f"model.optimizer.rest: expected adamw or sgd, got {rest}")
        params = list(params)
        hidden = hidden_kernels(params)
        chosen = set(map(id, hidden))
        others = [parameter for parameter in params if id(parameter) not in chosen]
        rest_lr = lr if rest_lr is None else rest_lr
        rest_decay = weight_decay if rest_weight_decay is None else rest_weight_decay
        self._rest: Any
        if rest == "adamw":
            self._rest = AdamW(others, rest_lr, weight_decay=rest_decay, decay_norms=decay_norms)
        else:
            self._rest = SGDW(others, rest_lr, weight_decay=rest_decay, decay_norms=decay_norms)
        groups = [{"params": hidden, "lr": lr, "momentum": momentum, "weight_decay": weight_decay}] if hidden else []
        self._hidden_groups = len(groups)
        super().__init__([*groups, *self._rest.param_groups], {})
        self._share_state()

    def _share_state(self) -> None:
        """The groups and the state are this optimizer's: schedules, scalers and checkpoints see one."""
        self._rest.param_groups = self.param_groups[self._hidden_groups :]
        self._rest.state = self.state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._share_state()  # load_state_dict has put others in their place

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = _run(closure)
        for group in self.param_groups[: self._hidden_groups]:
            self._step_hidden(group)
        self._rest.step()
        return loss

    def _step_hidden(self, group: dict[str, Any]) -> None:
        kernels, gradients, moments = _with_buffers(self, group)
        if not kernels:
            return
        torch._foreach_lerp_(moments, gradients, 1 - group["momentum"])
        ahead = torch._foreach_lerp(gradients, moments, group["momentum"])
        _decay(kernels, group["lr"] * group["weight_decay"])
        steps: dict[int, Tensor] = {}
        order = sorted(range(len(kernels)), key=lambda at: tuple(kernels[at].shape))
        for shape, of_shape in groupby(order, key=lambda at: kernels[at].shape):
            places = list(of_shape)
            matrices = torch.stack([ahead[at].flatten(1) for at in places])
            scale = 0.2 * max(matrices.shape[1:]) ** 0.5
            orthogonal = orthogonalized(matrices).to(matrices.dtype)
            for at, step in zip(places, orthogonal.unbind(), strict=True):
                steps[at] = step.view(shape) * scale
        torch._foreach_add_(kernels, [steps[at] for at in range(len(kernels))], alpha=-group["lr"])


def hidden_kernels(params: Sequence[Tensor]) -> list[Tensor]:
    """Of a network's parameters in its order, those that Muon is for."""
    matrices = [parameter for parameter in params if parameter.ndim > 1]
    return [
        each
        for each in matrices[1:-1]
        if len(each) > 1 and not (each.ndim > 2 and each.shape[1] == 1)  # one output; depthwise
    ]


def orthogonalized(matrices: Tensor) -> Tensor:
    """(B, m, n) float -> (B, m, n), each close to U V' of its U S V': singular values between about .7 and 1.2.

    In bfloat16 on a GPU. A matrix of zeros stays one.
    """
    across = matrices.shape[1] > matrices.shape[2]
    x = matrices.bfloat16() if matrices.is_cuda else matrices
    x = x.mT if across else x
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=_SMALLEST_NORM)
    a, b, c = _NEWTON_SCHULZ
    for _ in range(_NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if across else x


def _run(closure: Callable[[], Any] | None) -> Any:
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()


def _with_buffers(
    optimizer: torch.optim.Optimizer, group: dict[str, Any]
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """The parameters of a group that have a gradient, these, and the momentum of each."""
    params = [parameter for parameter in group["params"] if parameter.grad is not None]
    for parameter in params:
        if "momentum_buffer" not in optimizer.state[parameter]:
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    buffers = [optimizer.state[parameter]["momentum_buffer"] for parameter in params]
    return params, [parameter.grad for parameter in params if parameter.grad is not None], buffers


def _decay(params: list[Tensor], share: float) -> None:
    if params and share:
        torch._foreach_mul_(params, 1 - share)
