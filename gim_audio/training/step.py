"""One step: each module that learns updates straight after its own forward pass."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from gim_audio.config import Config
from gim_audio.model.ranks import SINGLE_PROCESS, Ranks
from gim_audio.model.stack import GreedyInfoMax
from gim_audio.training.adam import Adam
from gim_audio.training.labels import Labels

__all__ = ["Step", "draws"]


class Step:
    """Updates of a run of modules.

    Args:
        model: The model; the modules that run are on the device of what they are given.
        optimizers: The optimizers of the modules that learn, by number from 1.
        config: The configuration of the experiment.
        first: the lowest module that runs.
        last: the highest.
        settle: A function that uses a module's gradients: its optimizer's step, unless they must travel first.
        ranks: The processes that share the batch, in the model's terms.
        salt: distinguishes the draws of processes that have negatives of their own.
        labels: The labels of each batch, for supervised objectives.
    """

    def __init__(
        self,
        model: GreedyInfoMax,
        optimizers: Mapping[int, Adam],
        config: Config,
        *,
        first: int = 1,
        last: int | None = None,
        settle: Callable[[Adam], None] = Adam.step,
        ranks: Ranks = SINGLE_PROCESS,
        salt: int = 0,
        labels: Labels = lambda index: None,
    ) -> None:
        self.model, self.optimizers, self.seed = model, optimizers, config.training.seed
        self.first, self.last, self.settle, self.ranks, self.salt = first, last or len(model.stack), settle, ranks, salt
        self.labels = labels
        self.dtype = torch.bfloat16 if config.training.precision == "bf16" else torch.float32

    @classmethod
    def joint(cls, model: GreedyInfoMax, config: Config) -> "Step":
        """Return the step of all modules, with optimizers of the configured learning rate."""
        rate = config.training.learning_rate
        assert isinstance(rate, float)  # noqa: S101 - schedules know how to read the others
        return cls(model, {n: Adam(module.parameters(), rate) for n, module in enumerate(model.stack, start=1)}, config)

    def __call__(self, x: Tensor, index: int) -> tuple[Tensor, Tensor, Tensor]:
        """Run and update.

        Args:
            x: The input of the first module. Shape: `(batch, frames, channels)`.
            index: The number of the batch: windows and negatives are functions of it, of the seed and of the module.

        Returns:
            The output of the last module, and the loss and accuracy of each module that learns. Nothing waits for the
            device.
        """
        losses, accuracies = [], []

        def generator(module: int) -> torch.Generator:
            return draws(self.seed, index, module, self.salt)

        frozen = [number for number in range(self.first, self.last + 1) if number not in self.optimizers]
        walk = self.model.greedy_losses(
            x,
            generator,
            self.dtype,
            first=self.first,
            last=self.last,
            frozen=frozen,
            ranks=self.ranks,
            labels=self.labels(index),
        )
        for number, score, output in walk:
            if score is not None:
                score.loss.backward()  # type: ignore[no-untyped-call]
                self.settle(self.optimizers[number])
                losses.append(score.loss.detach())
                accuracies.append(score.accuracy)
            x = output
        empty = x.new_zeros(0, dtype=torch.float32)
        return x, torch.stack(losses) if losses else empty, torch.stack(accuracies) if losses else empty


def draws(seed: int, index: int, module: int, salt: int = 0) -> torch.Generator:
    """Return the generator of a module's window and negatives for a batch."""
    state = np.random.SeedSequence((seed, index, module, salt)).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))
