"""The processes of a run: one, several that share each batch, or several that each have some of the modules.

Processes are torchrun's, and talk by torch.distributed. Nothing but activations and reports passes between modules, and
only forward.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.distributed.rendezvous import rendezvous

from gim_audio.config import Config, count_of
from gim_audio.devices import pick_device
from gim_audio.errors import ConfigError, GimAudioError
from gim_audio.model.ranks import SINGLE_PROCESS, Ranks
from gim_audio.model.stack import GreedyInfoMax
from gim_audio.training.adam import Adam
from gim_audio.training.balance import balance
from gim_audio.training.schedule import Phase

__all__ = ["Alone", "LostProcessError", "join"]

Feed = Callable[[int], Tensor]


class LostProcessError(GimAudioError):
    """Another process of the run is gone."""


class Alone:
    """One process does everything.

    Attributes:
        rank: The number of this process, from 0.
        count: The number of processes.
        writes: True where this process keeps the experiment's folder.
        ranks: The processes that share a batch, for the loss.
        salt: The salt of this process's own draws.
    """

    rank, count, writes, salt = 0, 1, True, 0
    ranks: Ranks = SINGLE_PROCESS

    def part(self, batch: int) -> slice:
        """Return the crops of a batch that this process has."""
        return slice(0, batch)

    def check(self, schedule: Sequence[Phase]) -> None:
        """Refuse a schedule that cannot be run from this place.

        Raises:
            ConfigError: it cannot.
        """

    def begin(self, phase: Phase, costs: Callable[[], list[float]], say: Callable[[str], None]) -> tuple[int, int]:  # noqa: ARG002
        """The first and the last module that this process runs in a phase.

        Args:
            phase: The phase, with all its modules.
            costs: measures seconds of each module from the phase's first to its last.
            say: takes a line for the user.
        """
        return phase.first, phase.last

    def receive(self, feed: Feed, index: int, last: bool) -> Tensor:  # noqa: ARG002
        """Return the input of the first module for a batch; `last` says that no batch follows in this phase."""
        return feed(index)

    def settle(self, optimizer: Adam) -> None:
        """A module's gradients are there."""
        optimizer.step()

    def report(self, x: Tensor, report: Tensor) -> Tensor:  # noqa: ARG002
        """Bring what each process has to say of a step together; x is the output of the last module."""
        return report

    def finish(self) -> None:
        """A phase is over, or the run is being stopped."""

    def collect(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """All processes' tensors, at the one that writes."""
        return tensors

    def wait(self) -> None:
        """Wait until all processes have come here."""


class _Together(Alone):
    """Several processes."""

    def __init__(self) -> None:
        self.rank, self.count = dist.get_rank(), dist.get_world_size()

    def wait(self) -> None:
        with _talking():
            dist.barrier()


class DataParallel(_Together):
    """Each process has some crops of every batch; gradients of a module travel while the next one computes."""

    def __init__(self, negatives: str) -> None:
        super().__init__()
        self.writes = self.rank == 0
        self.ranks = self if negatives == "all" else SINGLE_PROCESS
        self.salt = 0 if negatives == "all" else self.rank
        self._travelling: tuple[Adam, Tensor, dist.Work] | None = None

    def part(self, batch: int) -> slice:
        share = batch // self.count
        return slice(self.rank * share, (self.rank + 1) * share)

    def exchange(self, rows: Tensor, sent: list[int], received: list[int]) -> Tensor:
        """See `Ranks`."""
        found: Tensor = _Exchange.apply(rows, sent, received)
        return found

    def total(self, count: Tensor) -> Tensor:
        """See `Ranks`."""
        summed = count.clone()
        with _talking():
            dist.all_reduce(summed)
        return summed

    def settle(self, optimizer: Adam) -> None:
        gradients = torch.cat([p.grad.flatten() for p in optimizer.parameters if p.grad is not None])
        self._arrive()
        with _talking():
            work = dist.all_reduce(gradients, async_op=True)
        self._travelling = optimizer, gradients, work

    def _arrive(self) -> None:
        if self._travelling is None:
            return
        optimizer, gradients, work = self._travelling
        with _talking():
            work.wait()
        gradients /= self.count
        moved = [p for p in optimizer.parameters if p.grad is not None]
        for parameter, gradient in zip(moved, torch.split(gradients, [p.numel() for p in moved]), strict=True):
            parameter.grad = gradient.view_as(parameter)
        optimizer.step()
        self._travelling = None

    def report(self, x: Tensor, report: Tensor) -> Tensor:  # noqa: ARG002
        self._arrive()
        with _talking():
            dist.all_reduce(report)
        return report / self.count


class ModuleParallel(_Together):
    """Each process has consecutive modules, on a device of its own; the last one writes.

    A process goes on with the next batch as soon as it has handed its frames up; it waits when `QUEUE` of them are on
    their way.
    """

    QUEUE = 2

    def __init__(self, model: GreedyInfoMax, config: Config) -> None:
        super().__init__()
        self.writes = self.rank == self.count - 1
        self._model, self._batch, self._crop = model, config.training.batch, config.data.crop
        self._dtype = torch.bfloat16 if config.training.precision == "bf16" else torch.float32
        self._coming: list[tuple[Tensor, dist.Work]] = []
        self._going: deque[list[tuple[Tensor, dist.Work]]] = deque()
        self._heard = torch.empty(0)

    def check(self, schedule: Sequence[Phase]) -> None:
        for phase in schedule:
            running = phase.last - phase.first + 1
            if running < self.count:
                modules = "1 module" if running == 1 else f"{running} modules"
                raise ConfigError(
                    f"training.parallel=modules: phase {phase.number} runs {modules}, too few for "
                    f"{self.count} processes"
                )
            if phase.stop is not None:
                raise ConfigError("training.parallel=modules: no phase can stop by accuracy, which only the last knows")

    def begin(self, phase: Phase, costs: Callable[[], list[float]], say: Callable[[str], None]) -> tuple[int, int]:
        modules = list(range(phase.first, phase.last + 1))
        measured = torch.tensor(costs() if self.rank == 0 else [0.0] * len(modules), dtype=torch.float64)
        with _talking():
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

    def receive(self, feed: Feed, index: int, last: bool) -> Tensor:
        if self.rank == 0:
            return feed(index)
        if not self._coming:
            self._expect()
        with _talking():
            for _, work in self._coming:
                work.wait()
        (x, _), (self._heard, _) = self._coming
        self._coming = []
        stopping = bool(self._heard[:, -1].nansum() > 0)
        if not last and not stopping:
            self._expect()  # comes while this batch is worked on
        return x.transpose(1, 2)

    def _expect(self) -> None:
        below = self._first - 2
        width, frames = self._model.stack[below].output_width, self._model.frames(self._crop)[below]
        device = next(self._model.stack[self._first - 1].parameters()).device
        x = torch.empty(self._batch, width, frames, dtype=self._dtype, device=device)
        heard = torch.empty(REPORT_ROWS, len(self._model.stack) + 1, dtype=torch.float64)
        with _talking():
            self._coming = [(t, _begun(dist.irecv(t, self.rank - 1))) for t in (x, heard)]

    def report(self, x: Tensor, report: Tensor) -> Tensor:
        if self.rank:  # what is said of the modules below, and whether the run is to stop, comes from them
            own = ~report.isnan()
            own[:, -1] = False
            report = torch.where(own, report, self._heard)
        if not self.writes:
            while len(self._going) >= self.QUEUE:
                self._sent()
            with _talking():
                sent = (x.transpose(1, 2).contiguous(), report.clone())  # in the order that convolutions want
                self._going.append([(t, _begun(dist.isend(t, self.rank + 1))) for t in sent])
        return report

    def _sent(self) -> None:
        with _talking():
            for _, work in self._going.popleft():
                work.wait()

    def finish(self) -> None:
        while self._going:
            self._sent()

    def collect(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        self.finish()
        everyones: list[Any] = [None] * self.count
        with _talking():
            own = {name: tensor.cpu() for name, tensor in tensors.items()}
            dist.gather_object(own, everyones if self.writes else None, dst=self.count - 1)
        return {name: tensor for part in everyones if part for name, tensor in part.items()}


REPORT_ROWS = 4
"""Loss, accuracy, dead units and effective rank of each module; in the last column, whether to save and to stop."""


class _Exchange(torch.autograd.Function):
    """See `Ranks.exchange`."""

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
    with _talking():
        dist.all_to_all_single(found, rows.contiguous(), received, sent)
    return found


def _begun(work: dist.Work | None) -> dist.Work:
    assert work is not None  # noqa: S101 - None is for processes outside a group
    return work


def _span(first: int, last: int) -> str:
    return f"modules {first}-{last}" if last > first else f"module {first}"


@contextmanager
def _talking() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise LostProcessError(f"another process of this run is gone ({reason})") from error


@contextmanager
def join(config: Config, model: GreedyInfoMax) -> Iterator[Alone]:
    """Take this process's place in the run.

    Raises:
        ConfigError: processes and `training.parallel` do not fit together.
        LostProcessError: while the run goes on; only one of the processes that are left raises it, the others exit.
    """
    kind, size = config.training.parallel, os.environ.get("WORLD_SIZE", "1")
    started = count_of(size)
    if started is None:
        raise ConfigError(f"WORLD_SIZE is {size}: torchrun sets it to the number of processes")
    if kind == "none":
        if started > 1:
            raise ConfigError(f"torchrun started {started} processes: say training.parallel=data or =modules")
        yield Alone()
        return
    if "WORLD_SIZE" not in os.environ:
        raise ConfigError(
            f"training.parallel={kind} needs several processes: torchrun --nproc-per-node 2 -m gim_audio train …"
        )
    device = pick_device(config.training.device)
    if device.type == "cuda":
        torch.cuda.set_device(device.index if device.index is not None else int(os.environ.get("LOCAL_RANK", "0")))
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    try:
        store, rank, count = next(rendezvous("env://", timeout=timedelta(minutes=5)))
        # One process may compute a cache for hours while the others wait; that one died is noticed by its connection.
        dist.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=timedelta(days=7))
    except (ValueError, RuntimeError) as error:  # RuntimeError: torch's DistError, for addresses and connections
        raise ConfigError(
            f"the processes cannot meet ({' '.join(str(error).split())[:200]}): torchrun sets RANK, WORLD_SIZE, "
            "MASTER_ADDR and a MASTER_PORT that is free"
        ) from error
    try:
        if kind == "data":  # labels have no negatives: their losses are always means over all processes
            taught = config.objective.kind != "infonce"
            yield DataParallel("all" if taught else config.objective.negatives.ranks)
        else:
            yield ModuleParallel(model, config)
    except GimAudioError as error:
        if store.add("gim-audio/said", 1) > 1:  # one line is enough
            raise SystemExit(2) from error
        raise
    else:
        dist.destroy_process_group()
