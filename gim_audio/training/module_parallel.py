"""Module parallelism: each process has consecutive modules, on a device of its own."""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from gim_audio.config import Config
from gim_audio.errors import ConfigError
from gim_audio.model.stack import GreedyInfoMax
from gim_audio.training.balance import balance
from gim_audio.training.distribution import Batches, Distributed, begun, talking
from gim_audio.training.report import StepReport
from gim_audio.training.schedule import Phase
from gim_audio.training.step import type_of_products

__all__ = ["ModuleParallel"]

QUEUE = 2
"""The number of batches that may be on their way to the next process."""


class ModuleParallel(Distributed):
    """A process begins the next batch as soon as it has sent its output up.

    It waits when `QUEUE` outputs are on their way. The last process writes.

    Args:
        model: The model.
        config: The configuration of the experiment.
        patient: The group for `wait`; the default one if None.
    """

    def __init__(
        self, model: GreedyInfoMax, config: Config, patient: dist.ProcessGroup | None = None
    ) -> None:
        super().__init__(config.training.clip, patient)
        self.writes = self.rank == self.count - 1
        self._model, self._batch, self._crop = model, config.training.batch, config.data.crop
        self._dtype = type_of_products(config)
        self._coming: list[tuple[Tensor, dist.Work]] = []
        self._going: deque[list[tuple[Tensor, dist.Work]]] = deque()
        self._below = StepReport.of(len(model.stack))

    def check(self, schedule: Sequence[Phase]) -> None:
        """See `Distribution.check`."""
        for phase in schedule:
            running = phase.last - phase.first + 1
            if running < self.count:
                modules = "1 module" if running == 1 else f"{running} modules"
                raise ConfigError(
                    f"training.parallel=modules: phase {phase.number} runs {modules}, too few for "
                    f"{self.count} processes"
                )
            if phase.stop is not None:
                raise ConfigError(
                    "training.parallel=modules: no phase can stop by accuracy, which only the last"
                    " process knows"
                )

    def begin(
        self, phase: Phase, costs: Callable[[], list[float]], say: Callable[[str], None]
    ) -> tuple[int, int]:
        """See `Distribution.begin`."""
        modules = list(range(phase.first, phase.last + 1))
        seconds = costs() if self.rank == 0 else [0.0] * len(modules)
        measured = torch.tensor(seconds, dtype=torch.float64)
        with talking():
            dist.broadcast(measured, 0)
        shares = balance(measured.tolist(), self.count)
        spans = [(modules[start], modules[stop - 1]) for start, stop in shares]
        if self.writes:
            each = [
                f"process {rank} has {_span(*span)} ({measured[start:stop].sum():.3f} s)"
                for rank, (span, (start, stop)) in enumerate(zip(spans, shares, strict=True))
            ]
            say(f"by the time that a step of each module takes: {', '.join(each)}")
        self._first, last = spans[self.rank]
        return self._first, last

    def receive(self, batches: Batches, index: int, last: bool) -> Tensor:
        """See `Distribution.receive`."""
        if self.rank == 0:
            return batches(index)
        if not self._coming:
            self._expect()
        with talking():
            for _, work in self._coming:
                work.wait()
        (x, _), (numbers, _) = self._coming
        self._coming, self._below = [], StepReport.unpack(numbers)
        if not last and not self._below.stop:
            self._expect()  # comes while this batch is worked on
        return x.transpose(1, 2)

    def _expect(self) -> None:
        below = self._first - 2
        width, frames = self._model.stack[below].output_width, self._model.frames(self._crop)[below]
        device = next(self._model.stack[self._first - 1].parameters()).device
        x = torch.empty(self._batch, width, frames, dtype=self._dtype, device=device)
        numbers = self._below.pack()
        with talking():
            self._coming = [(t, begun(dist.irecv(t, self.rank - 1))) for t in (x, numbers)]

    def share_report(self, output: Tensor, report: StepReport) -> StepReport:
        """See `Distribution.share_report`."""
        if self.rank:
            report = report.over(self._below)
        if not self.writes:
            while len(self._going) >= QUEUE:
                self._sent()
            # In the order that the next convolution wants, (B, C, T).
            sent = output.transpose(1, 2).contiguous(), report.pack()
            with talking():
                self._going.append([(t, begun(dist.isend(t, self.rank + 1))) for t in sent])
        return report

    def _sent(self) -> None:
        with talking():
            for _, work in self._going.popleft():
                work.wait()

    def finish(self) -> None:
        """See `Distribution.finish`."""
        while self._going:
            self._sent()

    def collect(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """See `Distribution.collect`."""
        self.finish()
        everyones: list[Any] = [None] * self.count
        with talking():
            own = {name: tensor.cpu() for name, tensor in tensors.items()}
            dist.gather_object(own, everyones if self.writes else None, dst=self.count - 1)
        return {name: tensor for part in everyones if part for name, tensor in part.items()}


def _span(first: int, last: int) -> str:
    return f"modules {first}-{last}" if last > first else f"module {first}"
