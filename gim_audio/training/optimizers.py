"""The optimizers of modules: AdamW (Loshchilov and Hutter 2019), one for each module."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from gim_audio.errors import CheckpointError

__all__ = ["apply_gradients", "build_optimizer", "load_moments", "moments"]

MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""What AdamW remembers of a parameter, by torch's names."""


def build_optimizer(module: nn.Module, learning_rate: float, weight_decay: float = 0.0) -> AdamW:
    """Return the optimizer of a module; its learning rate may be set between steps."""
    return AdamW(module.parameters(), lr=learning_rate, weight_decay=weight_decay, fused=True)


def apply_gradients(optimizer: AdamW, clip: float | None = None) -> None:
    """Update the parameters that have a gradient, and forget the gradients.

    Args:
        optimizer: The optimizer of the module.
        clip: The largest norm of all gradients together; None does not clip.
    """
    if clip is not None:
        torch.nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], clip)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def moments(optimizers: Mapping[int, AdamW]) -> dict[str, Tensor]:
    """Return the moments of optimizers, as in `optimizer.safetensors`.

    Names are `M.P.NAME` with the module's number M from 0, as weights are named, and the
    parameter's number P in it.
    """
    return {
        f"{number - 1}.{parameter}.{name}": tensor
        for number, optimizer in optimizers.items()
        for parameter, values in optimizer.state_dict()["state"].items()
        for name, tensor in values.items()
    }


def load_moments(
    optimizers: Mapping[int, AdamW], found: Mapping[str, Tensor], learning: set[int]
) -> None:
    """Give moments to optimizers.

    Args:
        optimizers: The optimizers of this process, by module.
        found: Moments by name: see `moments`.
        learning: The modules that learn in this phase, in all processes.

    Raises:
        CheckpointError: They are of another model.
    """
    shapes = {
        f"{number - 1}.{place}.{name}": () if name == "step" else tuple(parameter.shape)
        for number, optimizer in optimizers.items()
        for place, parameter in enumerate(optimizer.param_groups[0]["params"])
        for name in MOMENTS
    }
    others = {n for n in found if int(n.split(".")[0]) + 1 in learning - optimizers.keys()}
    if wrong := (found.keys() - others) ^ shapes.keys():
        raise CheckpointError(f"optimizer.safetensors lacks or adds {min(wrong)}")
    for name, shape in shapes.items():
        if tuple(found[name].shape) != shape:
            raise CheckpointError(
                f"optimizer.safetensors: {name} has shape {tuple(found[name].shape)}"
            )
    for number, optimizer in optimizers.items():
        state = optimizer.state_dict()
        count = len(optimizer.param_groups[0]["params"])
        state["state"] = {
            place: {name: found[f"{number - 1}.{place}.{name}"].clone() for name in MOMENTS}
            for place in range(count)
        }
        optimizer.load_state_dict(state)
