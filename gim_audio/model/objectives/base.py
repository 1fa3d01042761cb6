"""The objective of a module, which scores its frames and contexts.

Shapes: B utterances, T frames, C channels of frames, H channels of contexts.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from gim_audio.config import ObjectiveConfig, register_kind
from gim_audio.model.geometry import Geometry
from gim_audio.model.ranks import SINGLE_PROCESS, Ranks

__all__ = ["Objective", "Place", "Score", "build_objective", "products_like", "register", "to_grid"]


@dataclass(frozen=True)
class Score:
    """The score of a batch: the loss, and the share of right choices. Shape of each: `()`."""

    loss: Tensor
    accuracy: Tensor


@dataclass(frozen=True)
class Place:
    """The place of a module in the stack, which an objective is built for.

    Attributes:
        width: The number of channels H of the contexts.
        channels: The number of channels C of the frames.
        own: The geometry of the module's frames.
        grid: The geometry of the last convolution's frames, at whose rate targets are.
        rate: The sampling rate in Hz.
        has_context: True where the contexts are not the frames themselves.
    """

    width: int
    channels: int
    own: Geometry
    grid: Geometry
    rate: int
    has_context: bool


class Objective(nn.Module, ABC):
    """The objective that trains a module.

    Attributes:
        chance: The loss of a module that has learnt nothing, about.
        compares: True where frames are what is predicted: with `data.augment` they are of waveforms
            as they were, the contexts of changed ones.
        hides: True where `hidden` hides frames.
        taught: The target of `score`: empty for none, `phones`, `speakers`, `units`, or the
            `waveforms` of the crops, of which the objective makes targets itself.
    """

    chance: float = 1.0
    compares: bool = False
    hides: bool = False
    taught: Literal["", "phones", "speakers", "units", "waveforms"] = ""

    def numbers(self, frames: int, batch: int) -> int:  # noqa: ARG002 - most draw nothing
        """Return the number of random numbers that `score` and `hidden` take for a batch."""
        return 0

    def hidden(
        self,
        frames: int,  # noqa: ARG002 - most hide nothing
        batch: int,  # noqa: ARG002
        numbers: Tensor,  # noqa: ARG002
    ) -> Tensor | None:
        """Return the frames that the context must not see, or None where it may see all.

        Args:
            frames: The number of frames of an utterance.
            batch: The number of utterances, of all processes.
            numbers: Random integers, as in `score`.

        Returns:
            True where a frame is hidden. Shape: `(batch, frames)`.
        """
        return None

    def hide(self, z: Tensor, hidden: Tensor) -> Tensor:
        """Return frames with those that are hidden replaced. Shape: `(B, T, C)`, `(B, T)`."""
        return z.masked_fill(hidden[:, :, None], 0)

    @abstractmethod
    def score(
        self,
        z: Tensor,
        c: Tensor,
        numbers: Tensor,
        target: Tensor | None = None,
        ranks: Ranks = SINGLE_PROCESS,
        hidden: Tensor | None = None,
    ) -> Score:
        """Score a batch, with a gradient for the loss.

        Args:
            z: The frames. Shape: `(B, T, C)`.
            c: The contexts; `z` itself where a module has none. Shape: `(B, T, H)`.
            numbers: Random integers for what is drawn by chance: see `Sampler.draw`. Shape:
                `(self.numbers(…) or more,)`.
            target: The target, at the rate of the last convolution; the integer -1 is none. Shape:
                `(B, frames)` of phones or units, `(B,)` of speakers, `(B, samples)` of waveforms in
                [-1, 1].
            ranks: The processes that share the batch. The mean of their scores is what one process
                would find that has all utterances.
            hidden: True where the context, or one below it, did not see the frame. Shape: `(B, T)`.
        """


Implementation = TypeVar("Implementation", bound=type[Objective])
_BUILDERS: dict[type[ObjectiveConfig], Callable[[Any, Place], Objective]] = {}


def register(config: type[ObjectiveConfig]) -> Callable[[Implementation], Implementation]:
    """Return a decorator of the class that implements a kind of objective.

    The class is called with the settings and with the `Place` of the module.

    Args:
        config: The settings; the default of their `kind` is the name in configurations.
    """
    register_kind(config)

    def decorate(implementation: Implementation) -> Implementation:
        _BUILDERS[config] = implementation
        return implementation

    return decorate


def build_objective(config: ObjectiveConfig, place: Place) -> Objective:
    """Return the objective of a module."""
    return _BUILDERS[type(config)](config, place)


def products_like(c: Tensor) -> torch.autocast:
    """Return a context that computes products in the type of some contexts."""
    return torch.autocast(c.device.type, dtype=c.dtype, enabled=c.dtype != torch.float32)


def to_grid(c: Tensor, own: Geometry, grid: Geometry, frames: int) -> Tensor:
    """Average frames around those of a slower rate, in float32.

    Args:
        c: Frames of a module. Shape: `(B, T, H)`.
        own: Their geometry.
        grid: The geometry of the slower rate.
        frames: The number of frames of the slower rate.

    Returns:
        Frames of shape `(B, frames, H)`. Beyond the ends the first and the last are repeated.
    """
    first, ratio = own.under(grid)
    if (first, ratio, frames) == (0, 1, c.shape[1]):
        return c.float()
    last = first + frames * ratio
    before = c[:, :1].expand(-1, max(0, -first), -1)
    after = c[:, -1:].expand(-1, max(0, last - c.shape[1]), -1)
    covered = torch.cat([before, c[:, max(0, first) : last], after], dim=1)
    return covered.view(len(c), frames, ratio, -1).mean(2, dtype=torch.float32)
