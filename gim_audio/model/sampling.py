"""The frames that a batch compares: the candidates, of which the first is the positive.

Shapes: B utterances (of all processes together), T frames in the window, K steps ahead, N
negatives.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from gim_audio.errors import ConfigError

__all__ = ["Draw", "NegativesKind", "Sampler"]

NegativesKind = Literal["batch", "exact", "utterance", "pool"]


@dataclass(frozen=True)
class Draw:
    """Rows of frames; row t · B + b is frame t of utterance b.

    Attributes:
        first: The first frame of the window.
        window: Every frame of the window. Shape: `(T, B)`.
        candidates: Every frame of the window, and its negatives. Shape:
            `(T, B, 1 + N)`, or `(T, B, K, 1 + N)` where each step ahead has negatives of its own.
        pool: Negatives that all share. Shape: `(N,)`; empty where each frame has its own.
    """

    first: int
    window: Tensor
    candidates: Tensor
    pool: Tensor

    def part(self, rank: int, batch: int) -> "Draw":
        """Return what one of several processes asks for, each of which has `batch` utterances."""
        own = slice(rank * batch, (rank + 1) * batch)
        return Draw(self.first, self.window[:, own], self.candidates[:, own], self.pool)


@dataclass(frozen=True)
class Sampler:
    """The choice of a window of frames and of their negatives.

    Negatives belong to a frame and are shared by all k that predict it, as in the published code:

    * `batch`: `number` random permutations of all frames of the batch; may hit the positive.
    * `exact`: any frame of the batch but the positive, drawn for each k.
    * `utterance`: any other frame of the same utterance.
    * `pool`: one set of `number` frames of the batch for all, scored by one matrix product. Where
      the positive is among them, it does not count as its own negative.

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

    def draw(self, frames: int, batch: int, generator: torch.Generator) -> Draw:
        """Draw for a batch of B utterances that have `frames` frames each.

        Args:
            frames: The number of frames of an utterance.
            batch: The number B of utterances.
            generator: A generator of the CPU.

        Raises:
            ConfigError: A pool is larger than the batch.
        """
        length = min(frames, self.window)
        first = int(torch.randint(frames - length + 1, (), generator=generator))
        rows = torch.arange(first * batch, (first + length) * batch)
        total, shape, pool = frames * batch, (len(rows), self.number), rows.new_empty(0)
        if self.kind == "pool":
            if self.number > total:
                raise ConfigError(
                    f"objective.negatives.number: a pool of {self.number} from a batch of {total} "
                    "frames: take fewer negatives, or a larger batch or crop"
                )
            pool = torch.randperm(total, generator=generator)[: self.number]
            negatives = rows.new_empty(len(rows), 0)
        elif self.kind == "batch":
            # As published: whole permutations, of which the first rows count.
            orders = [torch.randperm(total, generator=generator) for _ in range(self.number)]
            negatives = torch.stack([order[: len(rows)] for order in orders], dim=1)
        elif self.kind == "exact":
            # 1 … total - 1 rows further on, around the end: never the positive.
            ahead = [
                torch.randint(1, total, shape, generator=generator) for _ in range(self.steps_ahead)
            ]
            negatives = (rows[:, None, None] + torch.stack(ahead, dim=1)) % total
        else:  # the same utterance's, at another time
            times = torch.randint(1, frames, shape, generator=generator)
            negatives = (rows[:, None] + times * batch) % total
        positives = rows.view(-1, *(1 for _ in negatives.shape[1:])).expand(
            *negatives.shape[:-1], 1
        )
        candidates = torch.cat([positives, negatives], dim=-1)
        window = rows.view(length, batch)
        return Draw(first, window, candidates.view(length, batch, *candidates.shape[1:]), pool)
