"""The frames that a batch compares: the candidates, of which the first is the positive.

Shapes: B utterances (of all processes together), T frames in the window, K steps ahead, N
negatives.
"""

import functools
import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from gim_audio.errors import ConfigError

__all__ = ["Draw", "NegativesKind", "RandomNumbers", "Sampler"]

NegativesKind = Literal["batch", "exact", "utterance", "pool"]


@dataclass(frozen=True)
class RandomNumbers:
    """The random numbers of a step, each a function of seed, step, salt, module and place alone.

    They are SplitMix64's (Steele, Lea and Flood 2014), whose n-th number needs none before it, so
    that a GPU computes them all at once, and the same ones as a CPU.

    Attributes:
        seed: The seed of the run.
        step: The number of the step, an integer or a tensor of one on the device. Shape: `()`.
        salt: A number that separates processes whose draws differ.
    """

    seed: int
    step: int | Tensor = 0
    salt: int = 0

    def of(self, modules: range, count: int, device: torch.device) -> Tensor:
        """Return uniform integers from 0 to 2⁶³ - 1.

        Args:
            modules: The numbers of the modules.
            count: The number of integers for each module.
            device: The device that computes them.

        Returns:
            Integers of shape `(modules, count)`, int64.
        """
        keys = torch.arange(modules.start, modules.stop, device=device)
        keys = _mixed(keys * _ODD[0] + _signed(self.seed * _ODD[1] + self.salt * _ODD[2]))
        step = self.step * _ODD[3]
        keys = _mixed(keys + (step if isinstance(step, Tensor) else _signed(step)))
        places = torch.arange(1, count + 1, device=device) * _ODD[3]
        return _mixed(keys[:, None] + places) & (2**63 - 1)


def _signed(number: int) -> int:
    """Return the signed integer of the same lowest 64 bits."""
    return (number + 2**63) % 2**64 - 2**63


# Odd, so that multiplying loses nothing. The last is SplitMix64's, 2⁶⁴ over the golden ratio; the
# others are the digits of the square roots of 2, 3 and 5.
_ODD = [
    _signed(math.isqrt(2 << 126) | 1),
    _signed(math.isqrt(3 << 126) | 1),
    _signed(math.isqrt(5 << 124) | 1),
    _signed(0x9E3779B97F4A7C15),
]


def _mixed(x: Tensor) -> Tensor:
    """Return SplitMix64's mixture of the bits of integers, which wrap. The shape stays."""
    x = (x ^ (x >> 30 & 2**34 - 1)) * _signed(0xBF58476D1CE4E5B9)  # `>>` repeats the sign
    x = (x ^ (x >> 27 & 2**37 - 1)) * _signed(0x94D049BB133111EB)
    return x ^ (x >> 31 & 2**33 - 1)


@dataclass(frozen=True)
class Draw:
    """Rows of frames; of utterances with F frames each, row b · F + t is frame t of utterance b.

    Attributes:
        last: The last frame of the window. Shape: `()`.
        window: Every frame of the window, from the last to the first. Shape: `(T, B)`.
        candidates: Every frame of the window, and its negatives. Shape:
            `(T, B, 1 + N)`, or `(T, B, K, 1 + N)` where each step ahead has negatives of its own.
        pool: Negatives that all share. Shape: `(N,)`; empty where each frame has its own.
    """

    last: Tensor
    window: Tensor
    candidates: Tensor
    pool: Tensor

    def part(self, rank: int, batch: int) -> "Draw":
        """Return what one of several processes asks for, each of which has `batch` utterances."""
        own = slice(rank * batch, (rank + 1) * batch)
        return Draw(self.last, self.window[:, own], self.candidates[:, own], self.pool)


@dataclass(frozen=True)
class Sampler:
    """The choice of a window of frames and of their negatives.

    Negatives belong to a frame and are shared by all k that predict it, as in the published code:

    * `batch`: any frame of the batch, be it the positive.
    * `exact`: any frame of the batch but the positive, drawn for each k.
    * `utterance`: any other frame of the same utterance.
    * `pool`: one set of `number` frames for all, scored by one matrix product: one frame of each of
      `number` equal stretches of the batch. Where the positive is among them, it does not count as
      its own negative.

    Attributes:
        kind: The set that negatives come from.
        number: The number N of negatives of a frame.
        window: The largest number of frames that are scored.
        steps_ahead: The number K of steps ahead.
    """

    kind: NegativesKind
    number: int
    window: int
    steps_ahead: int

    def count(self, frames: int, batch: int) -> int:
        """Return the number of random numbers that `draw` takes."""
        if self.kind == "pool":
            return 1 + self.number
        each = self.number * (self.steps_ahead if self.kind == "exact" else 1)
        return 1 + min(frames, self.window) * batch * each

    def draw(self, frames: int, batch: int, numbers: Tensor) -> Draw:
        """Draw for a batch of B utterances that have `frames` frames each.

        Args:
            frames: The number of frames of an utterance.
            batch: The number B of utterances.
            numbers: Uniform integers from 0, far larger than the batch. Shape: `(count or more,)`.

        Raises:
            ConfigError: A pool is larger than the batch.
        """
        length, total = min(frames, self.window), frames * batch
        numbers = numbers[: self.count(frames, batch)]
        last, numbers = length - 1 + numbers[0] % (frames - length + 1), numbers[1:]
        device, pool = numbers.device, numbers[:0]
        window = last + _backward(length, batch, frames, device)
        if self.kind == "pool":
            if self.number > total:
                raise ConfigError(
                    f"objective.negatives.number: a pool of {self.number} from a batch of {total} "
                    "frames: take fewer negatives, or a larger batch or crop"
                )
            edges = torch.arange(self.number + 1, device=device) * total // self.number
            pool = edges[:-1] + numbers % (edges[1:] - edges[:-1])
            return Draw(last, window, window[:, :, None], pool)
        rows = window[:, :, None, None] if self.kind == "exact" else window[:, :, None]
        numbers = numbers.view(*rows.shape[:2], *(-1 for _ in rows.shape[3:]), self.number)
        if self.kind == "batch":
            negatives = numbers % total
        elif self.kind == "exact":
            # 1 … total - 1 rows further on, around the end: never the positive.
            negatives = (rows + 1 + numbers % (total - 1)) % total
        else:  # the same utterance's, at another time
            times = rows % frames
            negatives = rows - times + (times + 1 + numbers % (frames - 1)) % frames
        positives = rows.expand(*negatives.shape[:-1], 1)
        return Draw(last, window, torch.cat([positives, negatives], dim=-1), pool)


@functools.cache
def _backward(length: int, batch: int, frames: int, device: torch.device) -> Tensor:
    """Return the rows of a window, from its last frame to its first, less the number of the last.

    Shape: `(length, batch)`.
    """
    times = -torch.arange(length, device=device)
    return times[:, None] + torch.arange(batch, device=device) * frames
