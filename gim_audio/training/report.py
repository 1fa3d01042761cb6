"""Reports of a step, which travel between processes."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Launched", "StepReport"]

Values = list[float | None]


@dataclass(frozen=True)
class StepReport:
    """The metrics of a step, and the wishes of the user.

    Attributes:
        loss: The loss of each module; None for those that do not learn here.
        accuracy: The accuracy of each module.
        dead_units: The share of each module's channels that never vary, where it was measured.
        effective_rank: The effective rank of each module's features, where it was measured.
        save: True where a checkpoint is asked for.
        stop: True where the run is to stop.
    """

    loss: Values
    accuracy: Values
    dead_units: Values
    effective_rank: Values
    save: bool = False
    stop: bool = False

    @classmethod
    def of(cls, modules: int, *, save: bool = False, stop: bool = False) -> "StepReport":
        """Return a report in which nothing is measured yet."""
        nothing: Values = [None] * modules
        return cls([*nothing], [*nothing], [*nothing], [*nothing], save, stop)

    @property
    def metrics(self) -> tuple[Values, Values, Values, Values]:
        """All four metrics."""
        return self.loss, self.accuracy, self.dead_units, self.effective_rank

    def pack(self) -> Tensor:
        """Return the report as numbers that travel between processes. Shape: `(4 modules + 2,)`."""
        values = [value for metric in self.metrics for value in metric]
        measured = [math.nan if value is None else value for value in values]
        return torch.tensor([*measured, self.save, self.stop], dtype=torch.float64)

    @classmethod
    def unpack(cls, numbers: Tensor) -> "StepReport":
        """Return the report of such numbers. Shape: as from `pack`."""
        *measured, save, stop = numbers.tolist()
        values = [None if math.isnan(value) else value for value in measured]
        modules = len(values) // 4
        loss, accuracy, dead, rank = (
            values[row * modules : (row + 1) * modules] for row in range(4)
        )
        return cls(loss, accuracy, dead, rank, save > 0, stop > 0)

    def over(self, below: "StepReport") -> "StepReport":
        """Return the report of this process, with that of those below where it says nothing.

        Whether to save and to stop is decided by the lowest process.
        """
        loss, accuracy, dead, rank = (
            [other if own is None else own for own, other in zip(mine, theirs, strict=True)]
            for mine, theirs in zip(self.metrics, below.metrics, strict=True)
        )
        return StepReport(loss, accuracy, dead, rank, below.save, below.stop)


@dataclass
class Launched:
    """A step that a device may still work on.

    Attributes:
        number: The number of the step, from 1.
        phase_step: The number of the step in its phase, from 1.
        output: The output of the last module that ran. Shape: `(batch, frames, channels)`.
        report: The report, as yet without losses and accuracies.
        read: A function that waits for the step and returns its losses, then its accuracies.
        started: The time at which it was launched.
    """

    number: int
    phase_step: int
    output: Tensor
    report: StepReport
    read: Callable[[], list[float]]
    started: float
