"""One step: each module that learns updates straight after its own forward pass."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from gim_audio.config import Config
from gim_audio.model.module import stop_gradient
from gim_audio.model.objectives import Score
from gim_audio.model.ranks import SINGLE_PROCESS, Ranks
from gim_audio.model.sampling import RandomNumbers
from gim_audio.model.stack import GreedyInfoMax
from gim_audio.training.optimizers import AdamW

__all__ = ["Branches", "Step", "StepOutput", "type_of_products"]


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


class Branches:
    """The order in which a device runs the modules of a step: one after another."""

    def module(self) -> AbstractContextManager[object]:
        """Return a context in which the next module runs, learns and updates."""
        return nullcontext()

    def has_run(self, output: Tensor) -> None:
        """Take note that the module has its output, so that the next one may begin."""

    def join(self) -> None:
        """Wait for all modules."""


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
        paired: True where the second half of the input is the first before it was changed.
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
        paired: bool = False,
    ) -> None:
        self.model, self.optimizers, self.seed, self.dtype = model, optimizers, seed, dtype
        self.first, self.last = first, last or len(model.stack)
        self.apply, self.ranks, self.salt = apply, ranks, salt
        self.paired = paired
        for number, module in enumerate(model.stack, start=1):
            module.train(number in optimizers)  # a batch norm that stands still is a constant

    @classmethod
    def joint(cls, model: GreedyInfoMax, config: Config) -> "Step":
        """Return the step of all modules, with one learning rate for all."""
        rate = config.training.learning_rate
        assert isinstance(rate, float)  # noqa: S101 - schedules know how to read the others
        optimizers = {n: AdamW(m, rate) for n, m in enumerate(model.stack, start=1)}
        return cls(model, optimizers, seed=config.training.seed, dtype=type_of_products(config))

    def __call__(
        self,
        x: Tensor,
        index: int | Tensor,
        targets: Mapping[int, Tensor] | None = None,
        branches: Branches = Branches(),  # noqa: B008 - it has no state
    ) -> StepOutput:
        """Run and update.

        Args:
            x: The input of the first module. Shape: `(batch, frames, channels)`.
            index: The number of the batch, an integer or a tensor of one on the device. It
                decides on windows and negatives, with the seed and the module.
            targets: The targets of modules, by number.
            branches: The order of the modules; one after another if it is not given.
        """
        if self.model.reach > 1:
            return self._overlapping(x, index, targets)
        losses, accuracies = [], []
        numbers = range(self.first, self.last + 1)
        modules = self._modules(x, index, targets)
        for _ in numbers:
            with branches.module():
                number, score, x = next(modules)
                branches.has_run(x)
                if score is not None:
                    scored = score()
                    scored.loss.backward()  # type: ignore[no-untyped-call]
                    self.apply(self.optimizers[number])
                    losses.append(scored.loss.detach())
                    accuracies.append(scored.accuracy)
                    del scored, score
        branches.join()
        return _output(x, losses, accuracies)

    def _modules(
        self, x: Tensor, index: int | Tensor, targets: Mapping[int, Tensor] | None
    ) -> Iterator[tuple[int, Callable[[], Score] | None, Tensor]]:
        return self.model.greedy_losses(
            x,
            RandomNumbers(self.seed, index, self.salt),
            self.dtype,
            first=self.first,
            last=self.last,
            frozen=[n for n in range(self.first, self.last + 1) if n not in self.optimizers],
            ranks=self.ranks,
            targets=targets,
            paired=self.paired,
        )

    def _overlapping(
        self, x: Tensor, index: int | Tensor, targets: Mapping[int, Tensor] | None
    ) -> StepOutput:
        """Update where a loss trains modules below its own too.

        One graph goes through all modules; each loss goes backward to the weights that it may move
        and to no others. A module updates when the last loss that reaches it has gone backward.
        """
        losses, accuracies, reach = [], [], self.model.reach
        learning = sorted(self.optimizers)
        for number, score, given in self._modules(x, index, targets):
            x = stop_gradient(given)
            if score is None:
                continue
            scored = score()
            reached = [n for n in learning if number - reach < n <= number]
            weights = [weight for n in reached for weight in self.optimizers[n].parameters]
            torch.autograd.backward(scored.loss, inputs=weights, retain_graph=True)
            losses.append(scored.loss.detach())
            accuracies.append(scored.accuracy)
            if number + 1 - reach in self.optimizers:
                self.apply(self.optimizers[number + 1 - reach])
        for number in learning:
            if number > self.last + 1 - reach:  # those that no module above reached
                self.apply(self.optimizers[number])
        return _output(x, losses, accuracies)


def _output(x: Tensor, losses: list[Tensor], accuracies: list[Tensor]) -> StepOutput:
    if not losses:
        empty = x.new_zeros(0, dtype=torch.float32)
        return StepOutput(x, empty, empty)
    return StepOutput(x, torch.stack(losses), torch.stack(accuracies))


def type_of_products(config: Config) -> torch.dtype:
    """Return the type in which convolutions and predictions are computed."""
    return torch.bfloat16 if config.training.precision == "bf16" else torch.float32
