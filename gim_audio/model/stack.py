"""Greedy InfoMax: a stack of modules, each trained by its own loss, none by another's.

Shapes: B utterances, T samples or frames, C channels.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from gim_audio.model.geometry import Geometry
from gim_audio.model.layers import zero_beyond
from gim_audio.model.module import GreedyModule, ModuleOutput, ModuleState, stop_gradient
from gim_audio.model.objectives import Objective, Score
from gim_audio.model.ranks import SINGLE_PROCESS, Ranks
from gim_audio.model.sampling import RandomNumbers

__all__ = ["GreedyInfoMax", "autocast"]


class GreedyInfoMax(nn.Module):
    """A stack of modules: standardised waveform → module → stop-gradient → module → and so on.

    Args:
        modules: The modules, from the bottom up.
        geometries: The geometry of each module's frames.
        rate: The sampling rate in Hz.
        mean: The mean of the samples, in [-1, 1], that standardisation subtracts.
        deviation: The standard deviation of the samples, by which it divides.
        reach: The number of modules that a loss trains: see `ModelConfig.reach`.

    Example:
        >>> from gim_audio.config import InfoNCEConfig, ModelConfig
        >>> from gim_audio.model.build import build_model
        >>> model = build_model(ModelConfig(), InfoNCEConfig())
        >>> sum(p.numel() for p in model.parameters())
        23143424
    """

    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        modules: Sequence[GreedyModule],
        geometries: Sequence[Geometry],
        rate: int,
        mean: float,
        deviation: float,
        reach: int = 1,
    ) -> None:
        super().__init__()
        self.reach = reach
        self.stack = cast("Sequence[GreedyModule]", nn.ModuleList(modules))
        self.geometries = tuple(geometries)
        self.rate = rate
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("deviation", torch.tensor(deviation))

    def standardise(self, waveforms: Tensor) -> Tensor:
        """Shape: samples in [-1, 1] `(B, T)` → `(B, T, 1)`."""
        return ((waveforms - self.mean) / self.deviation)[:, :, None]

    def forward(
        self,
        waveforms: Tensor,
        states: Sequence[ModuleState] | None = None,
        *,
        last: bool = True,
        lengths: Sequence[int] | None = None,
        modules: Sequence[int] | None = None,
        isolated: bool = True,
    ) -> tuple[list[Tensor], list[ModuleState]]:
        """Return the features of modules: their contexts, or their frames where they have none.

        Args:
            waveforms: Samples in [-1, 1], of whole waveforms or of the next piece of each.
                Shape: `(B, T)`.
            states: The states after the piece before; None at the beginning of a waveform.
            last: True where the waveforms end with this piece.
            lengths: The number of samples of each waveform in a padded batch; None if all have T.
                Padding changes nothing, and features beyond an end are zero.
            modules: Numbers from 1 of the modules wanted; None is all of them.
            isolated: False leaves out the stop-gradients between modules.

        Returns:
            The features of each wanted module, of shape `(B, T', C)`, and the state of each module.
        """
        wanted = range(1, len(self.stack) + 1) if modules is None else modules
        x, found, after = zero_beyond(self.standardise(waveforms), lengths), {}, []
        for number, module in enumerate(self.stack[: max(wanted)], start=1):
            state = states[number - 1] if states else None
            made = module(x, state, last=last, lengths=lengths, features=number in wanted)
            if lengths is not None:
                lengths = [module.frames(length) for length in lengths]
            found[number] = made.contexts
            after.append(made.state)
            x = stop_gradient(made.output) if isolated else made.output
        return [found[number] for number in wanted], after

    def greedy_losses(
        self,
        x: Tensor,
        random: RandomNumbers,
        dtype: torch.dtype = torch.float32,
        *,
        first: int = 1,
        last: int | None = None,
        frozen: Collection[int] = (),
        ranks: Ranks = SINGLE_PROCESS,
        targets: Mapping[int, Tensor] | None = None,
        paired: bool = False,
    ) -> Iterator[tuple[int, Callable[[], Score] | None, Tensor]]:
        """Yield each module's number, a function that scores it, and its output.

        The next module runs when it is asked for: scoring a module and going backward before frees
        its activations.

        Args:
            x: The input of module `first`: standardised samples, or the output of the module below.
                Shape: `(B, T, C)`, as the outputs.
            random: The random numbers of the step.
            dtype: The type of convolutions and predictions. Scores are always computed in float32,
                as training diverges in bfloat16.
            first: The lowest module that runs, from 1.
            last: The highest module that runs; the top one if None.
            frozen: Modules that run but have no score (None) and no gradient.
            ranks: The processes that share the batch.
            targets: The targets of objectives, by the number of the module: see `Objective.score`.
            paired: True where the second half of `x` are the same utterances before they were
                changed: see `DataConfig.augment`.
        """
        hidden: Tensor | None = None
        batch = len(x) // 2 if paired else len(x)
        numbers = self._numbers(x[:batch], random, first, last or len(self.stack), frozen, ranks)
        for number, module in enumerate(self.stack[first - 1 : last], start=first):
            learns = number not in frozen
            score: Callable[[], Score] | None = None
            hide: Callable[[Tensor], Tensor] | None = None
            frames = module.frames(x.shape[1])
            if hidden is None and number in numbers and module.objective.hides:
                hidden = self._hidden(module.objective, frames, batch, numbers[number], ranks)
                if hidden is not None:
                    unchanged = hidden.new_zeros(len(x) - batch, frames)
                    hide = partial(module.objective.hide, hidden=torch.cat([hidden, unchanged]))
            elif hidden is not None and frames != hidden.shape[1]:
                hidden = None  # what a convolution above makes has frames of another rate
            with autocast(x, dtype), torch.set_grad_enabled(learns and torch.is_grad_enabled()):
                made = module(x, features=learns, hide=hide)
            if learns:
                score = partial(
                    module.objective.score,
                    *_compared(made, batch, paired=paired and module.objective.compares),
                    numbers[number],
                    (targets or {}).get(number),
                    ranks,
                    hidden,
                )
            x = made.output if self.reach > 1 else stop_gradient(made.output)
            yield number, score, x

    def _numbers(
        self,
        x: Tensor,
        random: RandomNumbers,
        first: int,
        last: int,
        frozen: Collection[int],
        ranks: Ranks,
    ) -> dict[int, Tensor]:
        """Return the random numbers of modules, made all at once.

        They are those that learn, and those whose contexts go to one that learns to name what they
        did not see.
        """
        wanted, frames = {}, x.shape[1]
        learning = [n for n in range(first, last + 1) if n not in frozen]
        naming = [n for n in learning if self.stack[n - 1].objective.hides]
        for number in range(first, last + 1):
            module = self.stack[number - 1]
            frames = module.frames(frames)
            below = module.gives_contexts and module.objective.hides and number < max(naming or [0])
            if number in learning or below:
                wanted[number] = module.objective.numbers(frames, len(x) * ranks.count)
        if not wanted:
            return {}
        lowest, highest = min(wanted), max(wanted)
        made = random.of(range(lowest, highest + 1), max(wanted.values()), x.device)
        return {number: made[number - lowest] for number in wanted}

    @staticmethod
    def _hidden(
        objective: Objective, frames: int, batch: int, numbers: Tensor, ranks: Ranks
    ) -> Tensor | None:
        """Return the frames of this process's utterances that a context must not see."""
        hidden = objective.hidden(frames, batch * ranks.count, numbers)
        return None if hidden is None else hidden[ranks.rank * batch : (ranks.rank + 1) * batch]

    def frames(self, samples: int) -> list[int]:
        """Return the number of frames that each module makes of `samples` samples."""
        counts = []
        for module in self.stack:
            samples = module.frames(samples)
            counts.append(samples)
        return counts

    @property
    def shortest(self) -> int:
        """The fewest samples of which every module makes a frame."""
        samples = 1
        while not self.frames(samples)[-1]:
            samples += 1
        return samples


def autocast(x: Tensor, dtype: torch.dtype) -> torch.autocast:
    """Return a context that computes products in `dtype` on the device of `x`."""
    return torch.autocast(x.device.type, dtype=dtype, enabled=dtype != torch.float32)


def _compared(made: ModuleOutput, batch: int, *, paired: bool) -> tuple[Tensor, Tensor]:
    """Return frames and contexts of a batch; of changed waveforms, the frames before the change."""
    if len(made.frames) == batch:
        return made.frames, made.contexts
    return made.frames[-batch:] if paired else made.frames[:batch], made.contexts[:batch]
