"""A batch that several processes share: each has some of its utterances, and may ask the others for frames."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from gim_audio.model.devices import send
from gim_audio.model.gradients import Gather

__all__ = ["ALONE", "Ranks", "fetch"]


class Ranks(Protocol):
    """Processes of which rank r has the r-th part of a batch."""

    @property
    def rank(self) -> int:
        """The number of this process, from 0."""

    @property
    def count(self) -> int:
        """The number of processes."""

    def exchange(self, rows: Tensor, sent: list[int], received: list[int]) -> Tensor:
        """Send the first sent[0] rows to rank 0, the next to rank 1, …, and get what they send, in their order.

        Gradients go the other way. Shape: `(sum of sent, channels)` → `(sum of received, channels)`.
        """

    def total(self, count: Tensor) -> Tensor:
        """Return the sum of all processes' counts. Shape: `()`."""


@dataclass(frozen=True)
class _Alone:
    rank: int = 0
    count: int = 1

    def exchange(self, rows: Tensor, sent: list[int], received: list[int]) -> Tensor:  # noqa: ARG002 - all are its own
        return rows

    def total(self, count: Tensor) -> Tensor:
        return count


ALONE = _Alone()
"""One process with the whole batch."""


def fetch(asked: Sequence[Tensor], z: Tensor, frames_at: Callable[[Tensor], Tensor] | None, ranks: Ranks) -> Tensor:
    """The frames that this rank asks for, wherever they are, all at once: so their gradient is made once.

    Args:
        asked: The rows of the whole batch that each rank asks for, t · (batch · count) + rank · batch + b.
            Shape: `(n,)`.
        z: this rank's frames. Shape: `(batch, frames, channels)`.
        frames_at: A function that computes the frames b · frames + t, in place of `z`.
        ranks: The processes that share the batch.

    Returns:
        Shape: `(n, channels)`.
    """
    batch, frames, _ = z.shape
    owners = [rows // batch % ranks.count for rows in asked]
    given = [rows[owner == ranks.rank] for rows, owner in zip(asked, owners, strict=True)]
    rows = torch.cat(given)
    places = send(rows % batch * frames + rows // (batch * ranks.count), z.device)
    found = frames_at(places) if frames_at else Gather.apply(z, places)
    if ranks.count == 1:
        return found
    mine = owners[ranks.rank]
    came = ranks.exchange(found, [len(rows) for rows in given], mine.bincount(minlength=ranks.count).tolist())
    order = mine.argsort(stable=True).argsort()  # from the order of owners to that in which it was asked
    return came[send(order, z.device)]
