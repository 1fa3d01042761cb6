"""Data parallelism: each process has some crops of every batch."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from gim_audio.model.ranks import SINGLE_PROCESS, fetch
from gim_audio.training.distribution import Distributed, begun, talking
from gim_audio.training.optimizers import AdamW
from gim_audio.training.report import StepReport

__all__ = ["DataParallel"]


class DataParallel(Distributed):
    """Gradients of a module travel while the next one computes.

    Args:
        negatives: `all` where negatives come from all processes, `own` where each has its own.
        clip: The largest norm of a module's gradient; None does not clip.
        patient: The group for `wait`; the default one if None.
    """

    def __init__(
        self, negatives: str, clip: float | None = None, patient: dist.ProcessGroup | None = None
    ) -> None:
        super().__init__(clip, patient)
        self.writes = self.rank == 0
        self.ranks = self if negatives == "all" else SINGLE_PROCESS
        self.salt = 0 if negatives == "all" else self.rank
        self._travelling: tuple[AdamW, Tensor, dist.Work] | None = None

    def part(self, batch: int) -> slice:
        """See `Distribution.part`."""
        share = batch // self.count
        return slice(self.rank * share, (self.rank + 1) * share)

    def gather_rows(self, z: Tensor, asked: Sequence[Tensor]) -> Tensor:
        """See `Ranks.gather_rows`."""
        frames = z.shape[0] * z.shape[1]
        owners = [rows // frames for rows in asked]
        given = [rows[owner == self.rank] for rows, owner in zip(asked, owners, strict=True)]
        found = fetch(z, torch.cat(given) % frames)
        mine = owners[self.rank]
        received = mine.bincount(minlength=self.count).tolist()
        came: Tensor = _Exchange.apply(found, [len(rows) for rows in given], received)
        order = mine.argsort(stable=True).argsort()  # from the order of owners to that of asking
        return came[order]

    def total(self, count: Tensor) -> Tensor:
        """See `Ranks.total`."""
        summed = count.clone()
        with talking():
            dist.all_reduce(summed)
        return summed

    def apply_gradients(self, optimizer: AdamW) -> None:
        """See `Distribution.apply_gradients`."""
        given = [p.grad.flatten() for p in optimizer.parameters if p.grad is not None]
        gradients = torch.cat(given)
        self._arrive()
        with talking():
            work = begun(dist.all_reduce(gradients, async_op=True))
        self._travelling = optimizer, gradients, work

    def _arrive(self) -> None:
        """Wait for the gradients that travel, and use them."""
        if self._travelling is None:
            return
        optimizer, gradients, work = self._travelling
        with talking():
            work.wait()
        gradients /= self.count
        moved = [p for p in optimizer.parameters if p.grad is not None]
        parts = torch.split(gradients, [p.numel() for p in moved])
        for parameter, gradient in zip(moved, parts, strict=True):
            parameter.grad = gradient.view_as(parameter)
        optimizer.step(self.clip)
        self._travelling = None

    def share_report(self, output: Tensor, report: StepReport) -> StepReport:  # noqa: ARG002
        """See `Distribution.share_report`."""
        self._arrive()
        numbers = report.pack()
        with talking():
            dist.all_reduce(numbers)
        return StepReport.unpack(numbers / self.count)


class _Exchange(torch.autograd.Function):
    """Rows that are sent to other processes for theirs; gradients go the other way.

    Shape: `(sum of sent, C)` → `(sum of received, C)`, by rank.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, sent: list[int], received: list[int]) -> Tensor:
        ctx.sizes = sent, received
        return _all_to_all(rows, sent, received)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        sent, received = ctx.sizes
        return _all_to_all(gradient, received, sent), None, None


def _all_to_all(rows: Tensor, sent: list[int], received: list[int]) -> Tensor:
    found = rows.new_empty(sum(received), rows.shape[1])
    with talking():
        dist.all_to_all_single(found, rows.contiguous(), received, sent)
    return found
