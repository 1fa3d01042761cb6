"""The frames that a loss compares, and the processes that may have them.

Shapes: B utterances of this process, T frames, C channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from gim_audio.gradients import Gather

__all__ = ["SINGLE_PROCESS", "Ranks", "fetch", "gather"]


class Ranks(Protocol):
    """Processes of which rank r has the r-th part of a batch."""

    @property
    def rank(self) -> int:
        """The number of this process, from 0."""

    @property
    def count(self) -> int:
        """The number of processes."""

    def gather_rows(self, z: Tensor, asked: Sequence[Tensor]) -> Tensor:
        """Return the frames that this process asks for, whichever process has them.

        Args:
            z: The frames of this process. Shape: `(B, T, C)`.
            asked: The rows of the whole batch that each process asks for; row b · T + t is frame t
                of its utterance b. Shape of each: `(n,)`.
        """

    def total(self, count: Tensor) -> Tensor:
        """Return the sum of all processes' counts. Shape: `()`."""


@dataclass(frozen=True)
class SingleProcess:
    """One process with the whole batch."""

    rank: int = 0
    count: int = 1

    def gather_rows(self, z: Tensor, asked: Sequence[Tensor]) -> Tensor:
        """See `Ranks.gather_rows`."""
        return fetch(z, asked[0])

    def total(self, count: Tensor) -> Tensor:
        """See `Ranks.total`."""
        return count


SINGLE_PROCESS = SingleProcess()


def gather(z: Tensor, asked: Sequence[Sequence[Tensor]], ranks: Ranks) -> Sequence[Tensor]:
    """Return frames for this process, all at once, so that their gradient is made once.

    Args:
        z: The frames of this process. Shape: `(B, T, C)`.
        asked: The rows of the whole batch that each process asks for, in several tensors.
        ranks: The processes that share the batch.

    Returns:
        Frames in the shapes of `asked[rank]`, with a last dimension C.
    """
    own = asked[ranks.rank]
    if ranks.count == 1 and z.device.type != "cpu":
        return Gather.apply(z, *own)  # type: ignore[no-any-return]
    if z.requires_grad and z.device.type == "cpu":
        # A ReLU goes backward at a third of its speed where the gradient is in another order than
        # its output, which lies as (B, C, T): 8% of a step in bf16 (tools/bench_step.md).
        z.register_hook(_in_order)  # type: ignore[no-untyped-call]
    flat = [torch.cat([rows.flatten() for rows in each]) for each in asked]
    parts = torch.split(ranks.gather_rows(z, flat), [rows.numel() for rows in own])
    return [part.view(*rows.shape, z.shape[2]) for part, rows in zip(parts, own, strict=True)]


def fetch(z: Tensor, rows: Tensor) -> Tensor:
    """Return the frames b · T + t of a batch. Shape: `(B, T, C)`, `(n,)` → `(n, C)`."""
    return F.embedding(rows, z.flatten(0, 1))


def _in_order(gradient: Tensor) -> Tensor:
    """Shape: as given, `(B, T, C)`; in memory `(B, C, T)`."""
    return gradient.transpose(1, 2).contiguous().transpose(1, 2)
