"""Adam as Keras computes it, at the speed of torch's fused kernel.

Keras:  w -= alpha_t * m / (sqrt(v) + epsilon),            alpha_t = lr * sqrt(1 - beta2^t) / (1 - beta1^t)
torch:  w -= lr / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + eps)

The two are one formula when torch's eps is epsilon / sqrt(1 - beta2^t), so each step sets torch's eps and hands the
rest to its kernel. Source: keras/src/optimizers/adam.py, Keras 3.15.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch

KERAS_EPSILON = 1e-7


class KerasAdam(torch.optim.Adam):
    """Adam with Keras's epsilon and bias correction.

    Args:
        params: parameters or groups of them, as for ``torch.optim.Adam``.
        lr: learning rate.
        betas: decay of the first and the second moment.
        epsilon: added to sqrt(v), without bias correction.
        fused: torch's fused kernel, unless it is False; on a GPU it takes half the time of the multi-tensor one. A
            gradient scaler checks the gradients itself and leaves out the step, which the kernel would skip on the
            device, where the host could not count it.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        epsilon: float = KERAS_EPSILON,
        fused: bool | None = None,
    ) -> None:
        self.epsilon = epsilon
        self._taken: int | None = None  # as the state has it; on a GPU each look at that waits for the device
        super().__init__(params, lr=lr, betas=betas, eps=epsilon, fused=fused is not False)
        self._step_supports_amp_scaling = False

    def _init_group(self, group: Any, params: list[Any], grads: list[Any], *moments_and_steps: Any) -> Any:
        """torch's own, then every parameter with its gradient and moments as they lie in memory.

        The fused kernel on a CPU goes through memory and not through indices: moments that lie in another order than
        their parameter (from a checkpoint of a network that was not channels last) would be mixed up silently;
        and what is not contiguous it copies.
        """
        mixed = super()._init_group(group, params, grads, *moments_and_steps)
        first, second = moments_and_steps[:2]
        for at, parameter in enumerate(params):
            for name, moments in (("exp_avg", first), ("exp_avg_sq", second)):
                if moments[at].stride() != parameter.stride():
                    moments[at] = torch.empty_like(parameter).copy_(moments[at])
                    self.state[parameter][name] = moments[at]
            if grads[at].stride() != parameter.stride():
                grads[at] = torch.empty_like(parameter).copy_(grads[at])
            if not parameter.is_contiguous():
                order = sorted(range(parameter.dim()), key=parameter.stride, reverse=True)
                for tensors in (params, grads, first, second):
                    tensors[at] = tensors[at].detach().permute(order)
        return mixed

    @property
    def steps_taken(self) -> int:
        """How many updates were made; a step that a gradient scaler skipped is not one."""
        if self._taken is None:
            self._taken = max((int(state["step"]) for state in self.state.values() if "step" in state), default=0)
        return self._taken

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._taken = None

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if not any(parameter.grad is not None for group in self.param_groups for parameter in group["params"]):
            return loss
        t = self.steps_taken + 1
        asked = [group["lr"] for group in self.param_groups]
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            correction1, correction2 = 1 - beta1**t, math.sqrt(1 - beta2**t)
            # Keras turns the betas into float32 tensors before it raises them to the power t, in float64 too
            # (0.999 becomes 0.9990000128746): 6.7e-6 off in alpha, enough to drift apart within 10 float64 steps.
            keras1, keras2 = 1 - float(np.float32(beta1)) ** t, math.sqrt(1 - float(np.float32(beta2)) ** t)
            group["lr"] = group["lr"] * (keras2 / keras1) * (correction1 / correction2)
            group["eps"] = self.epsilon / correction2
        try:
            super().step()
            self._taken = t
        finally:
            for group, lr in zip(self.param_groups, asked, strict=True):
                group["lr"] = lr
        return loss
