"""The memory that a run needs, by arithmetic.

It counts tensors alone, without what libraries take for themselves.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from gim_audio.config import Config, InfoNCEConfig
from gim_audio.model.module import GreedyModule
from gim_audio.model.stack import GreedyInfoMax
from gim_audio.training.schedule import FIRST_CACHED

__all__ = ["ModuleMemory", "alone", "memory_by_module", "peaks"]

FLOAT = 4
"""Bytes of a weight, a gradient and each of Adam's two moments, in every precision."""


@dataclass(frozen=True)
class ModuleMemory:
    """Bytes.

    Attributes:
        weights: The weights of the module; their gradients take as much.
        optimizer: Adam's moments.
        given: The input of the module for a batch.
        frames: The output of all its convolutions together.
        scored: frames and predictions that the loss compares, and their gradients.
        backward: The gradient of its frames, in two layouts.
    """

    weights: int
    optimizer: int
    given: int
    frames: int
    scored: int
    backward: int

    @property
    def activations(self) -> int:
        """While it goes backward."""
        return self.given + self.frames + self.scored + self.backward


def memory_by_module(model: GreedyInfoMax, config: Config) -> list[ModuleMemory]:
    """Return the memory of each module in a step of the configured batch and crop."""
    batch = config.training.batch
    size = 2 if config.training.precision in {"bf16", "bf16-emulated"} else 4
    found, length, given = [], config.data.crop, FLOAT * batch * config.data.crop
    for module, objective in zip(model.stack, config.objectives, strict=True):
        frames = largest = 0
        for block in module.encoder:
            length = block.frames(length)
            out = size * batch * length * block.width
            frames, largest = frames + out, max(largest, out)
        width = module.width
        if module.context is not None:
            frames += 8 * FLOAT * batch * length * width  # about what nn.GRU keeps on a CPU
        scored = 2 * FLOAT * batch * length * width  # contexts in float32, and their gradient
        if isinstance(objective, InfoNCEConfig):
            scored = size * _compared(objective, module, batch, length)
        weights = FLOAT * sum(p.numel() for p in module.parameters())
        found.append(ModuleMemory(weights, 2 * weights, given, frames, scored, 2 * largest))
        given = size * batch * length * module.output_width
    return found


def peaks(model: GreedyInfoMax, config: Config) -> dict[str, int]:
    """Return the most bytes that a run needs, by schedule.

    Modules learn jointly, or one after another, where the dearest counts.
    """
    modules = memory_by_module(model, config)
    everything, numbers = sum(m.weights + m.optimizer for m in modules), range(1, len(modules) + 1)
    return {
        "joint": everything + max(m.weights + m.activations for m in modules),
        "sequential": max(alone(modules, number, cached=False) for number in numbers),
        "sequential, cached": max(
            alone(modules, number, cached=number >= FIRST_CACHED) for number in numbers
        ),
    }


def alone(modules: Sequence[ModuleMemory], number: int, *, cached: bool) -> int:
    """Bytes at most while one module, counted from 1, learns.

    From a cache, or on top of those below.
    """
    module, below = modules[number - 1], [] if cached else modules[: number - 1]
    own = 2 * module.weights + module.optimizer + module.activations
    passing = (
        max((b.given + b.frames for b in below), default=0) + module.weights + module.optimizer
    )
    return sum(b.weights for b in below) + max(own, passing)


def _compared(objective: InfoNCEConfig, module: GreedyModule, batch: int, length: int) -> int:
    """Return the numbers in what InfoNCE compares, and in its gradients."""
    rows, negatives = batch * min(length, objective.window), objective.negatives
    drawn = {"exact": objective.steps_ahead * (1 + negatives.number), "pool": 1}
    candidates = rows * drawn.get(negatives.kind, 1 + negatives.number)
    candidates += negatives.number if negatives.kind == "pool" else 0
    if module.width == module.channels:
        candidates += rows  # contexts
    return 2 * module.channels * (candidates + rows * objective.steps_ahead)
