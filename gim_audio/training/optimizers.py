"""The optimizers of modules: AdamW (Loshchilov and Hutter 2019), one for each module."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from gim_audio.errors import CheckpointError

__all__ = ["AdamW", "load_moments", "moments", "one_for_each"]


class AdamW:
    """AdamW of one module with its usual settings, by torch's own fused step.

    The class of torch.optim would load the compiler: 140 MB and a second, and 3 of 94 runs of two
    processes were aborted by it when they ended (torch 2.14.1), of 185 runs without it none.

    Args:
        module: The module.
        learning_rate: The learning rate, which may be changed between steps.
        weight_decay: The share of the weights that a step takes away, times the learning rate.
        average: The decay of a running mean of the weights; None has none.

    Attributes:
        parameters: The parameters of the module.
        moments: The number of updates of each parameter, and the running means of its gradient and
            of the gradient's square, and of itself.
    """

    def __init__(
        self,
        module: nn.Module,
        learning_rate: float,
        weight_decay: float = 0.0,
        average: float | None = None,
    ) -> None:
        self.parameters = list(module.parameters())
        self.weight_decay, self.average = weight_decay, average
        device = self.parameters[0].device
        # On a GPU the step reads the rate from its memory, as a captured graph has to.
        on_gpu = device.type == "cuda"
        self._rate = torch.tensor(learning_rate, device=device) if on_gpu else learning_rate
        self.moments = [
            {
                "step": torch.zeros((), device=parameter.device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
            for parameter in self.parameters
        ]
        if average is not None:
            for moments, parameter in zip(self.moments, self.parameters, strict=True):
                moments["average"] = parameter.detach().clone()

    @property
    def learning_rate(self) -> float:
        """The learning rate."""
        return float(self._rate)

    @learning_rate.setter
    def learning_rate(self, rate: float) -> None:
        if isinstance(self._rate, Tensor):
            self._rate.fill_(rate)
        else:
            self._rate = rate

    @torch.no_grad()
    def step(self, clip: float | None = None) -> None:
        """Update the parameters that have a gradient, and forget the gradients.

        Args:
            clip: The largest norm of all gradients together; None does not clip.
        """
        if clip is not None:
            nn.utils.clip_grad_norm_(self.parameters, clip)
        moved = [
            (parameter, parameter.grad, moments)
            for parameter, moments in zip(self.parameters, self.moments, strict=True)
            if parameter.grad is not None
        ]
        adamw(
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
            lr=self._rate,
            weight_decay=self.weight_decay,
            eps=1e-8,
            maximize=False,
        )
        for parameter, _, moments in moved:
            if self.average is not None:
                # As few steps have few weights to average: 2/11, 3/12, … up to the decay.
                decay = ((1 + moments["step"]) / (10 + moments["step"])).clamp(max=self.average)
                moments["average"].lerp_(parameter, 1 - decay)
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def use_average(self) -> None:
        """Give the parameters their running means, where these are kept."""
        if self.average is not None:
            for parameter, moments in zip(self.parameters, self.moments, strict=True):
                parameter.copy_(moments["average"])


def one_for_each(
    modules: Sequence[nn.Module],
    rates: Mapping[int, float],
    decays: float | Sequence[float],
    average: float | None = None,
) -> dict[int, AdamW]:
    """Return an optimizer for each module that learns, by number from 1.

    Args:
        modules: The modules of the model.
        rates: The learning rates of those that learn, by number from 1.
        decays: The weight decay of all, or of each module.
        average: The decay of running means of the weights.
    """
    return {
        number: AdamW(
            modules[number - 1],
            rate,
            decays if isinstance(decays, float) else decays[number - 1],
            average,
        )
        for number, rate in rates.items()
    }


def moments(optimizers: Mapping[int, AdamW]) -> dict[str, Tensor]:
    """Return the moments of optimizers, as in `optimizer.safetensors`.

    Names are `M.P.NAME` with the module's number M from 0, as weights are named, and the
    parameter's number P in it.
    """
    return {
        f"{number - 1}.{parameter}.{name}": tensor
        for number, optimizer in optimizers.items()
        for parameter, values in enumerate(optimizer.moments)
        for name, tensor in values.items()
    }


def load_moments(
    optimizers: Mapping[int, AdamW], found: Mapping[str, Tensor], learning: set[int]
) -> None:
    """Give moments to optimizers, in place.

    Args:
        optimizers: The optimizers of this process, by module.
        found: Moments by name: see `moments`.
        learning: The modules that learn in this phase, in all processes.

    Raises:
        CheckpointError: They are of another model.
    """
    own = moments(optimizers)
    others = {n for n in found if int(n.split(".")[0]) + 1 in learning - optimizers.keys()}
    if wrong := (found.keys() - others) ^ own.keys():
        raise CheckpointError(f"optimizer.safetensors lacks or adds {min(wrong)}")
    for name, tensor in own.items():
        if tensor.shape != found[name].shape:
            shape = tuple(found[name].shape)
            raise CheckpointError(f"optimizer.safetensors: {name} has shape {shape}")
        tensor.copy_(found[name])
