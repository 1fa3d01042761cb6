"""Data parallelism: each process has some crops of every batch."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.optim import AdamW

from gim_audio.model.ranks import SINGLE_PROCESS
from gim_audio.training.distribution import Distributed, begun, talking
from gim_audio.training.optimizers import apply_gradients
from gim_audio.training.report import StepReport

__all__ = ["DataParallel"]


class DataParallel(Distributed):
    """Gradients of a module travel while the next one computes.

    Args:
        negatives: `all` where negatives come from all processes, `own` where each has its own.
        clip: The largest norm of a module's gradient; None does not clip.
    """

    def __init__(self, negatives: str, clip: float | None = None) -> None:
        super().__init__(clip)
        self.writes = self.rank == 0
        self.ranks = self if negatives == "all" else SINGLE_PROCESS
        self.salt = 0 if negatives == "all" else self.rank
        self._travelling: tuple[AdamW, Tensor, dist.Work] | None = None

    def part(self, batch: int) -> slice:
        """See `Distribution.part`."""
        share = batch // self.count
        return slice(self.rank * share, (self.rank + 1) * share)

    def exchange_rows(self, rows: Tensor, sent: list[int], received: list[int]) -> Tensor:
        """See `Ranks`."""
        found: Tensor = _Exchange.apply(rows, sent, received)
        return found

    def total(self, count: Tensor) -> Tensor:
        """See `Ranks`."""
        summed = count.clone()
        with talking():
            dist.all_reduce(summed)
        return summed

    def apply_gradients(self, optimizer: AdamW) -> None:
        """See `Distribution.apply_gradients`."""
        parameters = optimizer.param_groups[0]["params"]
        gradients = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
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
        moved = [p for p in optimizer.param_groups[0]["params"] if p.grad is not None]
        parts = torch.split(gradients, [p.numel() for p in moved])
        for parameter, gradient in zip(moved, parts, strict=True):
            parameter.grad = gradient.view_as(parameter)
        apply_gradients(optimizer, self.clip)
        self._travelling = None

    def share_report(self, output: Tensor, report: StepReport) -> StepReport:
        """See `Distribution.share_report`."""
        self._arrive()
        numbers = report.pack()
        with talking():
            dist.all_reduce(numbers)
        return StepReport.unpack(numbers / self.count)


class _Exchange(torch.autograd.Function):
    """See `Ranks.exchange_rows`."""

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
