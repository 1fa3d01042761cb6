"""A batch that several processes share: each has some of its utterances, and gets others' frames.

Shapes: B utterances of this process, T frames, C channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from gim_audio.devices import send

__all__ = ["SINGLE_PROCESS", "Ranks", "gather"]


class Ranks(Protocol):
    """Processes of which rank r has the r-th part of a batch."""

    @property
    def rank(self) -> int:
        """The number of this process, from 0."""

    @property
    def count(self) -> int:
        """The number of processes."""

    def exchange_rows(self, rows: Tensor, sent: list[int], received: list[int]) -> Tensor:
        """Send the first sent[0] rows to rank 0, the next to rank 1, …; return what they send.

        Gradients go the other way. Shape: `(sum of sent, C)` → `(sum of received, C)`, by rank.
        """

    def total(self, count: Tensor) -> Tensor:
        """Return the sum of all processes' counts. Shape: `()`."""


@dataclass(frozen=True)
class SingleProcess:
    """One process with the whole batch."""

    rank: int = 0
    count: int = 1

    def exchange_rows(self, rows: Tensor, sent: list[int], received: list[int]) -> Tensor:
        """Return the rows: all are its own."""
        return rows

    def total(self, count: Tensor) -> Tensor:
        """Return the count."""
        return count


SINGLE_PROCESS = SingleProcess()


def gather(z: Tensor, asked: Sequence[Sequence[Tensor]], ranks: Ranks) -> Sequence[Tensor]:
    """Return frames for this process, whichever process has them.

    They are fetched all at once, so that their gradient is made once.

    Args:
        z: The frames of this process. Shape: `(B, T, C)`.
        asked: The rows of the whole batch that each process asks for, in several tensors.
        ranks: The processes that share the batch.

    Returns:
        Frames in the shapes of `asked[rank]`, with a last dimension C.
    """
    batch, frames, channels = z.shape
    if z.requires_grad:
        # A ReLU goes backward at a third of its speed where the gradient is in another order than
        # its output, which lies as (B, C, T): 7% of a step in bf16.
        z.register_hook(_in_order)  # type: ignore[no-untyped-call]
    flat = [torch.cat([rows.flatten() for rows in each]) for each in asked]
    owners = [rows // batch % ranks.count for rows in flat]
    given = [rows[owner == ranks.rank] for rows, owner in zip(flat, owners, strict=True)]
    sent = torch.cat(given)
    places = sent % batch * frames + sent // (batch * ranks.count)
    found = F.embedding(send(places, z.device), z.flatten(0, 1))
    if ranks.count > 1:
        mine = owners[ranks.rank]
        received = mine.bincount(minlength=ranks.count).tolist()
        came = ranks.exchange_rows(found, [len(rows) for rows in given], received)
        order = mine.argsort(stable=True).argsort()  # from the order of owners to that of asking
        found = came[send(order, z.device)]
    own = asked[ranks.rank]
    parts = torch.split(found, [rows.numel() for rows in own])
    return [part.view(*rows.shape, channels) for part, rows in zip(parts, own, strict=True)]


def _in_order(gradient: Tensor) -> Tensor:
    """Shape: as given, `(B, T, C)`; in memory `(B, C, T)`."""
    return gradient.transpose(1, 2).contiguous().transpose(1, 2)
