"""The modules that are in memory, and their devices; the last checkpoint has the others."""

from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from gim_audio.checkpoints.folders import resolve
from gim_audio.devices import give_back_freed_memory
from gim_audio.model.stack import GreedyInfoMax

__all__ = ["Residency"]


class Residency:
    """Moves a model's modules, numbered from 1.

    Args:
        model: The model.
        experiment: The folder of its checkpoints.
        device: The device that runs modules.
    """

    def __init__(self, model: GreedyInfoMax, experiment: Path, device: torch.device) -> None:
        self.model, self.experiment, self.device = model, experiment, device

    def load(self, last: int) -> None:
        """Have modules up to one in memory."""
        for number, module in enumerate(self.model.stack[:last], start=1):
            if any(parameter.is_meta for parameter in module.parameters()):
                module.to_empty(device="cpu")
                module.load_state_dict(self._stored(f"stack.{number - 1}."))

    def place(self, first: int, last: int) -> None:
        """Have some modules on the device."""
        for module in self.model.stack[first - 1 : last]:
            module.to(self.device)
        self.model.mean, self.model.deviation = (
            b.to(self.device) for b in (self.model.mean, self.model.deviation)
        )

    def drop_all_but(self, first: int, last: int) -> None:
        """Have no others in memory."""
        for module in (*self.model.stack[: first - 1], *self.model.stack[last:]):
            module.to("meta")
        give_back_freed_memory()

    def here(self) -> dict[str, Tensor]:
        """Weights of the modules in memory."""
        return {
            name: tensor for name, tensor in self.model.state_dict().items() if not tensor.is_meta
        }

    def complete(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return all weights, with those of the last checkpoint where some are missing."""
        return (
            weights
            if weights.keys() == self.model.state_dict().keys()
            else self._stored("") | weights
        )

    def _stored(self, prefix: str) -> dict[str, Tensor]:
        """Read, not mapped: into memory that is free between two steps."""
        found = safetensors.torch.load(
            (resolve(self.experiment) / "model.safetensors").read_bytes()
        )
        return {
            name.removeprefix(prefix): tensor
            for name, tensor in found.items()
            if name.startswith(prefix)
        }
