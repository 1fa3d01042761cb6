"""The part of a run that a process has: everything, or a part of its crops or modules."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor

from gim_audio.errors import GimAudioError
from gim_audio.model.ranks import SINGLE_PROCESS, Ranks
from gim_audio.training.optimizers import AdamW
from gim_audio.training.report import StepReport
from gim_audio.training.schedule import Phase

__all__ = ["Batches", "Distributed", "Distribution", "LostProcessError", "begun", "talking"]

Batches = Callable[[int], Tensor]
"""Return the input of the first module that runs, for the batch of a step. Shape: `(B, T, C)`."""


class LostProcessError(GimAudioError):
    """Another process of the run is gone."""


class Distribution:
    """The part of a run that this process has: everything, where it is alone.

    Args:
        clip: The largest norm of a module's gradient; None does not clip.

    Attributes:
        rank: The number of this process, from 0.
        count: The number of processes.
        writes: True where this process keeps the experiment's folder.
        ranks: The processes that share a batch, for the loss.
        salt: The salt of this process's own draws.
    """

    rank, count, writes, salt = 0, 1, True, 0
    ranks: Ranks = SINGLE_PROCESS

    def __init__(self, clip: float | None) -> None:
        self.clip = clip

    def part(self, batch: int) -> slice:
        """Return the crops of a batch that this process has."""
        return slice(0, batch)

    def check(self, schedule: Sequence[Phase]) -> None:
        """Refuse a schedule that cannot be run from this place.

        Raises:
            ConfigError: A phase cannot be run.
        """

    def begin(
        self,
        phase: Phase,
        costs: Callable[[], list[float]],  # noqa: ARG002 - one process has no choice
        say: Callable[[str], None],  # noqa: ARG002
    ) -> tuple[int, int]:
        """Return the first and the last module that this process runs in a phase.

        Args:
            phase: The phase, with all its modules.
            costs: A function that measures the seconds of each module from the phase's first to its
                last.
            say: A function that takes a line for the user.
        """
        return phase.first, phase.last

    def receive(self, batches: Batches, index: int, last: bool) -> Tensor:  # noqa: ARG002
        """Return the input of the first module for a batch.

        Args:
            batches: The batches of module 1, or of the lowest module that is cached.
            index: The number of the batch.
            last: True where no batch follows in this phase.
        """
        return batches(index)

    def apply_gradients(self, optimizer: AdamW) -> None:
        """Update a module that has its gradients, unless they have to travel first."""
        optimizer.step(self.clip)

    def share_report(self, output: Tensor, report: StepReport) -> StepReport:  # noqa: ARG002
        """Bring together what each process has to say of a step.

        Args:
            output: The output of the last module that this process runs.
            report: The report of this process.
        """
        return report

    def finish(self) -> None:
        """Wait for what is still on its way, at the end of a phase or of the run."""

    def collect(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return all processes' tensors, at the one that writes."""
        return tensors

    def wait(self) -> None:
        """Wait until all processes have come here."""


class Distributed(Distribution):
    """One of several processes.

    Args:
        clip: The largest norm of a module's gradient; None does not clip.
        patient: The group for `wait`; the default one if None.
    """

    def __init__(self, clip: float | None, patient: dist.ProcessGroup | None = None) -> None:
        super().__init__(clip)
        self.rank, self.count = dist.get_rank(), dist.get_world_size()
        self._patient = patient

    def wait(self) -> None:
        """See `Distribution.wait`."""
        with talking():
            dist.barrier(group=self._patient)


def begun(work: dist.Work | None) -> dist.Work:
    """Return work that has begun: only processes outside a group have none."""
    assert work is not None  # noqa: S101 - see above
    return work


@contextmanager
def talking() -> Iterator[None]:
    """Turn errors of communication into a `LostProcessError`."""
    try:
        yield
    except torch.OutOfMemoryError:  # a RuntimeError too, but this process's own
        raise
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise LostProcessError(f"another process of this run is gone ({reason})") from error
