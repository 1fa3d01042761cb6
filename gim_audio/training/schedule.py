"""The phases of a run, each with the modules that learn in it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from gim_audio.config import Config, PhaseConfig, StopConfig, UnitsConfig
from gim_audio.errors import ConfigError

__all__ = ["FIRST_CACHED", "Phase", "phases"]

FIRST_CACHED = 3
"""The input of module 2 comes from one narrow convolution: reading it takes longer than computing
it again, and twice the disk of all others (tools/bench_memory.md)."""


@dataclass(frozen=True)
class Phase:
    """Some modules learn together; those below the highest of them that do not learn stand still.

    Attributes:
        number: The number of the phase, from 1.
        modules: The numbers of the modules that learn, from 1.
        steps: The most steps.
        stop: before that, when nothing improves.
        learning_rates: The learning rate of each of the modules.
        decay: The decay of the learning rates to zero over the phase.
        warmup: The number of steps over which the learning rates rise.
        warm_start: begin with the weights of the module below.
        cache: read from disk what the lowest of the modules takes.
    """

    number: int
    modules: tuple[int, ...]
    steps: int
    stop: StopConfig | None
    learning_rates: tuple[float, ...]
    decay: Literal["none", "linear", "cosine"]
    warmup: int
    warm_start: bool
    cache: bool

    @property
    def first(self) -> int:
        """The lowest module that has to run."""
        return self.modules[0] if self.cache else 1

    @property
    def last(self) -> int:
        """The highest module that has to run."""
        return self.modules[-1]

    @property
    def frozen(self) -> list[int]:
        """Modules that have to run but do not learn."""
        return [number for number in range(self.first, self.last + 1) if number not in self.modules]

    def factor(self, step: int) -> float:
        """Return the factor of the learning rates at a step of the phase, counted from 0."""
        rise = min(1.0, (step + 1) / (self.warmup + 1))
        if self.decay == "none":
            return rise
        done = step / self.steps
        return rise * (1 - done if self.decay == "linear" else (1 + math.cos(math.pi * done)) / 2)

    def stands_still(self, accuracies: Sequence[Sequence[float]]) -> bool:
        """Return whether no module's accuracy rises any more. Shape: `(steps so far, modules)`."""
        if self.stop is None or len(accuracies) < 2 * self.stop.over:
            return False
        recent = np.array(accuracies)[-2 * self.stop.over :]
        before, after = recent[: self.stop.over].mean(axis=0), recent[self.stop.over :].mean(axis=0)
        return bool((after - before < self.stop.change).all())


def phases(config: Config, batch: int, trained: int = 0) -> list[Phase]:
    """The phases of a run.

    Args:
        config: The configuration of the experiment.
        batch: crops a step, of all processes together.
        trained: The number of modules that are from another experiment and stay as they are.

    Raises:
        ConfigError: a phase trains one of those, or caches what is below module 1.
    """
    training, everything = config.training, tuple(range(trained + 1, config.model.num_modules + 1))
    schedule: Sequence[PhaseConfig]
    if training.schedule == "joint":
        schedule = [PhaseConfig()]
    elif training.schedule == "sequential":
        schedule = [
            PhaseConfig(modules=(m,), cache=training.cache and m >= FIRST_CACHED)
            for m in everything
        ]
    else:
        schedule = training.schedule
    found = []
    for number, given in enumerate(schedule, start=1):
        modules = everything if given.modules == "all" else given.modules
        if modules[0] <= trained:
            raise ConfigError(
                f"phase {number} trains module {modules[0]}: those up to {trained} are trained"
                " already"
            )
        if modules[0] == 1 and (given.cache or given.warm_start):
            raise ConfigError(
                f"phase {number}: there is nothing below module 1 to cache or to start from"
            )
        for module in modules:
            objective = config.objectives[module - 1]
            if isinstance(objective, UnitsConfig) and objective.of in modules:
                raise ConfigError(
                    f"phase {number} trains module {objective.of} and module {module}, which learns"
                    " its units: train them in two phases"
                )
        rates = [given.learning_rate or _learning_rate(config, module, batch) for module in modules]
        steps = given.steps or training.steps
        decay = given.decay or training.decay
        found.append(
            Phase(
                number,
                modules,
                steps,
                given.stop,
                tuple(rates),
                decay,
                training.warmup,
                given.warm_start,
                given.cache,
            )
        )
    return found


def _learning_rate(config: Config, module: int, batch: int) -> float:
    given = config.training.learning_rate
    if isinstance(given, tuple):
        return given[module - 1]
    return 2e-4 * math.sqrt(batch / 8) if given == "auto" else given
