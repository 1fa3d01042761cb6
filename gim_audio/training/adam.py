"""Adam by torch's own step, without torch.optim's classes: those load torch.compile, 140 MB and a second."""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.optim.adam import adam

__all__ = ["Adam"]


class Adam:
    """Adam (Kingma and Ba 2015) with its usual settings, fused into one pass over the weights.

    Args:
        parameters: The weights of one module.
        learning_rate: may be changed between steps.
        weight_decay: share of the weights that a step takes away, times the learning rate.
        clip: largest norm of all gradients together.

    Attributes:
        moments: of each parameter: how many steps it has seen, and the running means of its gradient and of the
            gradient's square.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        learning_rate: float,
        weight_decay: float = 0.0,
        clip: float | None = None,
    ) -> None:
        self.parameters, self.learning_rate = list(parameters), learning_rate
        self.weight_decay, self.clip = weight_decay, clip
        self.moments = [
            {
                "step": torch.zeros((), device=parameter.device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
            for parameter in self.parameters
        ]

    @torch.no_grad()
    def step(self) -> None:
        """Update every parameter that has a gradient, and forget the gradients."""
        if self.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.parameters, self.clip)
        moved = [(p, p.grad, m) for p, m in zip(self.parameters, self.moments, strict=True) if p.grad is not None]
        if self.weight_decay:
            torch._foreach_mul_([p for p, _, _ in moved], 1 - self.learning_rate * self.weight_decay)
        adam(
            [parameter for parameter, _, _ in moved],
            [gradient for _, gradient, _ in moved],
            [moments["exp_avg"] for _, _, moments in moved],
            [moments["exp_avg_sq"] for _, _, moments in moved],
            [],
            [moments["step"] for _, _, moments in moved],
            fused=True,
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=self.learning_rate,
            weight_decay=0.0,
            eps=1e-8,
            maximize=False,
        )
        for parameter in self.parameters:
            parameter.grad = None
