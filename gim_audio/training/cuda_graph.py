"""A step as one CUDA graph, which the host launches at once instead of kernel by kernel."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from gim_audio.devices import send
from gim_audio.training.step import Branches, Step, StepOutput

__all__ = ["GraphedStep"]

EAGER = 3
"""The number of steps before the capture, in which libraries choose algorithms and take memory."""


class Streams(Branches):
    """A stream for each module, which begins when the one below has run and waits for no gradient.

    That is what gradient isolation allows. The GRU, whose steps leave most of a GPU idle, runs
    beside the others.

    Args:
        device: The device.
        modules: The number of modules.
    """

    def __init__(self, device: torch.device, modules: int) -> None:
        # Those above begin later and end last: what they have to do goes first.
        self.streams = [_stream(device, priority=-number) for number in range(modules)]
        self._begun: list[torch.cuda.Stream] = []
        self._outputs: list[Tensor] = []

    @contextmanager
    def module(self) -> Iterator[None]:
        """See `Branches.module`."""
        stream = self.streams[len(self._begun)]
        if not self._begun:
            self._ready = torch.cuda.current_stream(stream.device).record_event()
        self._begun.append(stream)
        stream.wait_event(self._ready)
        with torch.cuda.stream(stream):
            yield

    def has_run(self, output: Tensor) -> None:
        """See `Branches.has_run`."""
        self._ready = self._begun[-1].record_event()
        # Another stream reads it: its memory may not be given to others before all have ended.
        self._outputs.append(output)

    def join(self) -> None:
        """See `Branches.join`."""
        for stream in self._begun:
            torch.cuda.current_stream(stream.device).wait_stream(stream)
        self._begun, self._outputs = [], []


class GraphedStep:
    """Takes the first steps kernel by kernel, then captures one and replays it.

    Batches have one shape. What changes from step to step lies in tensors on the device: the batch,
    its number, targets, learning rates and the optimizers' counts.

    Args:
        step: The step. Nothing in it waits for the device.
        say: A function that takes a line for the user.
    """

    def __init__(self, step: Step, say: Callable[[str], None]) -> None:
        self.step, self.say = step, say
        device = next(step.model.stack[step.first - 1].parameters()).device
        self._streams = Streams(device, step.last + 1 - step.first)
        self._taken = 0
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(
        self, x: Tensor, index: int, targets: Mapping[int, Tensor] | None = None
    ) -> StepOutput:
        """See `Step.__call__`. The next call overwrites what this one returns."""
        targets = targets or {}
        if self._taken < EAGER:
            self._taken += 1
            # The first step makes tensors that all modules keep: they run one after another.
            branches = self._streams if self._taken > 1 else Branches()
            # Not on the default stream, which a capture cannot follow.
            return self._aside(x, index, targets, branches)
        if self._taken == EAGER:
            self._taken += 1
            self._x, self._targets = x.clone(), {n: t.clone() for n, t in targets.items()}
            self._index = torch.tensor(index, device=x.device)
            self._capture()
        if self._graph is None:
            return self.step(x, index, targets)
        self._x.copy_(x)
        self._index.fill_(index)
        for number, target in targets.items():
            self._targets[number].copy_(target)
        self._graph.replay()
        return self._made

    def _aside(
        self, x: Tensor, index: int, targets: Mapping[int, Tensor], branches: Branches
    ) -> StepOutput:
        """Take a step on a stream of its own."""
        stream, current = _stream(x.device), torch.cuda.current_stream(x.device)
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            made = self.step(x, send(torch.tensor(index), x.device), targets, branches)
        current.wait_stream(stream)
        return made

    def _capture(self) -> None:
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                self._made = self.step(self._x, self._index, self._targets, self._streams)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self.step.model.zero_grad(set_to_none=True)  # nothing of the capture was computed
            del self._streams
            reason = str(error).splitlines()[0]
            self.say(f"the step is launched kernel by kernel: no CUDA graph can be made ({reason})")
        else:
            self._graph = graph


def _stream(device: torch.device, priority: int = 0) -> torch.cuda.Stream:
    return torch.cuda.Stream(device, priority)  # type: ignore[no-untyped-call]
