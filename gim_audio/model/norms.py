"""Norms over an utterance, which take away what a voice and a microphone do to all its frames.

Each channel is standardised over the frames of an utterance, as MFCC are in cepstral mean and
variance normalisation (Viikki and Laurila 1998).

Shapes: B utterances, T frames, C channels.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["RunningNorm", "UtteranceNorm"]

LEAST = 1e-2
"""Added to variances: a channel that never changes is not divided by zero."""


class UtteranceNorm(nn.Module):
    """Frames less their mean, over their deviation, both of the whole utterance.

    Attributes:
        lookahead: The number of frames ahead that a frame depends on.
    """

    lookahead: float = math.inf

    def forward(
        self,
        z: Tensor,
        state: tuple[Tensor, ...] = (),
        *,
        last: bool = True,
        lengths: Sequence[int] | None = None,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return standardised frames, and no state: see `Context.forward`.

        Shape: `(B, T, C)`, which stays.

        Raises:
            ValueError: The frames are a piece of an utterance.
        """
        if state or not last:
            raise ValueError("a norm over the utterance needs whole utterances")
        x = z.float()
        if lengths is None:
            variance, mean = torch.var_mean(x, 1, keepdim=True, correction=0)
        else:
            counts = torch.tensor(lengths, device=z.device).clamp(min=1)[:, None, None]
            mean = x.sum(1, keepdim=True) / counts
            inside = torch.arange(z.shape[1], device=z.device)[:, None] < counts
            variance = ((x - mean).square() * inside).sum(1, keepdim=True) / counts
        return ((x - mean) * (variance + LEAST).rsqrt()).to(z.dtype), ()


class RunningNorm(nn.Module):
    """Frames less the mean, over the deviation, of all frames of the utterance up to each.

    Both begin as learnt ones, which count as much as `PRIOR` frames.

    Args:
        channels: The number of channels C.

    Attributes:
        lookahead: The number of frames ahead that a frame depends on.
    """

    PRIOR = 50
    lookahead: float = 0

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(channels))
        self.deviation = nn.Parameter(torch.ones(channels))

    def moments(self) -> tuple[Tensor, Tensor]:
        """Return the mean of the frames and of their squares before the first. Shape: `(C,)`."""
        return self.mean, self.mean.square() + self.deviation.square()

    def forward(
        self,
        z: Tensor,
        state: tuple[Tensor, ...] = (),
        *,
        last: bool = True,
        lengths: Sequence[int] | None = None,  # noqa: ARG002 - what follows is not seen
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return standardised frames, and the state: see `Context.forward`.

        The state has the mean of the frames so far, that of their squares, and the number of
        frames, `PRIOR` included.

        Shape: `(B, T, C)`, which stays; state twice `(B, C, 1)`, and `(B, 1, 1)`.
        """
        if not z.shape[1]:
            return z, state
        if state:
            before, (count,) = [moment.transpose(1, 2) for moment in state[:2]], state[2:]
        else:
            before = [moment.expand(len(z), 1, -1) for moment in self.moments()]
            count = z.new_full((len(z), 1, 1), self.PRIOR, dtype=torch.float32)
        counts = count + torch.arange(1, z.shape[1] + 1, device=z.device)[:, None]
        # In float64, so that an hour in pieces has the moments of the hour as a whole.
        x = z.double()
        mean, square = (
            (moment.double() * count + values.cumsum(1)) / counts
            for moment, values in zip(before, (x, x.square()), strict=True)
        )
        variance = (square - mean.square()).clamp(min=0)
        found = ((x - mean) * (variance + LEAST).rsqrt()).to(z.dtype)
        if last:
            return found, ()
        ends = [moment[:, -1:].float().transpose(1, 2) for moment in (mean, square)]
        return found, (*ends, counts[:, -1:].float())
