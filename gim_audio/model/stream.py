"""A model that hears a waveform piece by piece, and gives the frames that it would give of the whole."""

from functools import cached_property
from typing import cast

from torch import Tensor

from gim_audio.model.climb import Climb
from gim_audio.model.layers import Context, State

__all__ = ["Stream"]


class Stream(Climb):
    """Frames of some modules, as soon as all that they depend on has been heard.

    Each convolution keeps the end of its input, which its next frame needs, and each context its state: a piece may
    have any length, nothing is computed twice, and memory does not grow.

    Args: see `Climb`.

    Example:
        >>> import torch
        >>> from gim_audio.config import ModelConfig, ObjectiveConfig
        >>> from gim_audio.model.gim import GreedyInfoMax
        >>> stream = Stream(GreedyInfoMax.build(ModelConfig(), ObjectiveConfig()), [6])
        >>> pieces = [stream.push(torch.zeros(8000), last=last) for last in (False, True)]
        >>> [len(frames) for (frames,) in pieces]
        [49, 51]
    """

    @cached_property
    def _states(self) -> dict[Context, State]:
        return {}

    def push(self, waveform: Tensor, *, last: bool = False) -> list[Tensor]:
        """The frames that are new; none where too little has been heard.

        Args:
            waveform: The samples in [-1, 1]. Shape: `(samples,)`.
            last: True where the waveform ends; what is pushed next is another one.

        Returns:
            Of each wanted module. Shape: `(frames, channels)`.
        """
        found = self._climb(waveform, last=last)
        if last:
            self._states.clear()
        return found

    def _ends(self, level: int, frames: Tensor) -> None:
        """There is nothing beyond them."""

    def _contexts(self, context: Context, level: int, frames: Tensor) -> Tensor:  # noqa: ARG002
        if not len(frames):
            return frames.new_empty(0, context.width)
        (contexts,), self._states[context] = context(frames[None], self._states.get(context, ()))
        return cast("Tensor", contexts)
