"""One step: each module that learns updates straight after its own forward pass."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gim_audio.config import Config
from gim_audio.model.ranks import SINGLE_PROCESS, Ranks
from gim_audio.model.stack import GreedyInfoMax
from gim_audio.training.labels import Labels
from gim_audio.training.optimizers import AdamW

__all__ = ["Step", "StepOutput", "negatives_generator", "type_of_products"]


class StepOutput(NamedTuple):
    """The result of a step. Nothing waits for the device.

    Attributes:
        output: The output of the last module that ran. Shape: `(batch, frames, channels)`.
        losses: The loss of each module that learns, from the lowest. Shape: `(modules,)`.
        accuracies: The accuracy of each. Shape: `(modules,)`.
    """

    output: Tensor
    losses: Tensor
    accuracies: Tensor


class Step:
    """Updates of consecutive modules.

    Args:
        model: The model; the modules that run are on the device of what they are given.
        optimizers: The optimizers of the modules that learn, by number from 1.
        seed: The seed of windows and negatives.
        dtype: The type of products.
        first: The lowest module that runs.
        last: The highest module that runs; the top one if None.
        apply: A function that uses a module's gradients.
        ranks: The processes that share the batch.
        salt: A number that separates the draws of processes that have negatives of their own.
        labels: The labels of each batch, for supervised objectives.
    """

    def __init__(
        self,
        model: GreedyInfoMax,
        optimizers: Mapping[int, AdamW],
        *,
        seed: int,
        dtype: torch.dtype = torch.float32,
        first: int = 1,
        last: int | None = None,
        apply: Callable[[AdamW], None] = AdamW.step,
        ranks: Ranks = SINGLE_PROCESS,
        salt: int = 0,
        labels: Labels = lambda index: None,
    ) -> None:
        self.model, self.optimizers, self.seed, self.dtype = model, optimizers, seed, dtype
        self.first, self.last = first, last or len(model.stack)
        self.apply, self.ranks, self.salt, self.labels = apply, ranks, salt, labels

    @classmethod
    def joint(cls, model: GreedyInfoMax, config: Config) -> "Step":
        """Return the step of all modules, with one learning rate for all."""
        rate = config.training.learning_rate
        assert isinstance(rate, float)  # noqa: S101 - schedules know how to read the others
        optimizers = {n: AdamW(m, rate) for n, m in enumerate(model.stack, start=1)}
        return cls(model, optimizers, seed=config.training.seed, dtype=type_of_products(config))

    def __call__(self, x: Tensor, index: int) -> StepOutput:
        """Run and update.

        Args:
            x: The input of the first module. Shape: `(batch, frames, channels)`.
            index: The number of the batch. Windows and negatives depend on it, on the seed and on
                the module.
        """
        losses, accuracies = [], []
        numbers = range(self.first, self.last + 1)
        modules = self.model.greedy_losses(
            x,
            lambda module: negatives_generator(self.seed, index, module, self.salt),
            self.dtype,
            first=self.first,
            last=self.last,
            frozen=[number for number in numbers if number not in self.optimizers],
            ranks=self.ranks,
            labels=self.labels(index),
        )
        for number, score, output in modules:
            if score is not None:
                score.loss.backward()  # type: ignore[no-untyped-call]
                self.apply(self.optimizers[number])
                losses.append(score.loss.detach())
                accuracies.append(score.accuracy)
            x = output
        if not losses:
            empty = x.new_zeros(0, dtype=torch.float32)
            return StepOutput(x, empty, empty)
        return StepOutput(x, torch.stack(losses), torch.stack(accuracies))


def type_of_products(config: Config) -> torch.dtype:
    """Return the type in which convolutions and predictions are computed."""
    return torch.bfloat16 if config.training.precision == "bf16" else torch.float32


def negatives_generator(seed: int, index: int, module: int, salt: int = 0) -> torch.Generator:
    """Return the generator of a module's window and negatives for a batch."""
    state = np.random.SeedSequence((seed, index, module, salt)).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))
