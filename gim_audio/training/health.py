"""A watch over training: losses that blow up, units that die, outputs that collapse."""

import math
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from gim_audio.errors import GimAudioError
from gim_audio.model.stack import GreedyInfoMax

__all__ = ["LossWatch", "check_weights", "dead_units", "diagnose", "effective_rank"]


class LossWatch:
    """Refuses a loss that is not finite, or far above the module's own recent past.

    Args:
        chance: The loss of each module that has learnt nothing.

    Attributes:
        recent: The average loss of each module so far; a resumed run sets it to what it was.
    """

    FACTOR = 10.0
    """The factor above its recent average (or a quarter of chance, if that is higher) at which a
    loss diverges."""
    DECAY = 0.98

    def __init__(self, chance: Sequence[float]) -> None:
        self.chance = chance
        self.recent = list(chance)

    def check(self, module: int, step: int, loss: float) -> None:
        """Take note of a loss.

        Raises:
            GimAudioError: it is not finite, or has blown up; what the weights are now must not be
                saved.
        """
        if not math.isfinite(loss):
            raise GimAudioError(f"the loss of module {module} is {loss} at step {step}")
        limit = self.FACTOR * max(self.recent[module - 1], self.chance[module - 1] / 4)
        if loss > limit:
            raise GimAudioError(
                f"the loss of module {module} blew up at step {step}: {loss:.4g}, "
                f"after {self.recent[module - 1]:.4g} on average"
            )
        self.recent[module - 1] += (1 - self.DECAY) * (loss - self.recent[module - 1])


def check_weights(module: int, step: int, weights: Iterable[Tensor]) -> None:
    """Refuse to keep weights that are not numbers.

    Raises:
        GimAudioError: one is not finite.
    """
    if not all(bool(torch.isfinite(weight).all()) for weight in weights):
        raise GimAudioError(f"the weights of module {module} are not finite after step {step}")


def dead_units(features: Tensor) -> float:
    """Share of channels that never vary. Shape: `(…, channels)`."""
    flat = features.flatten(0, -2).float()
    return float((flat.amax(0) - flat.amin(0) <= 1e-6 * flat.abs().max()).float().mean())


def effective_rank(features: Tensor) -> float:
    """Exp of the entropy of the covariance's normalised spectrum (Roy and Vetterli 2007).

    It is 1 where all frames lie on a line, and the number of channels where they are white.
    Shape: `(…, channels)`.
    """
    flat = features.flatten(0, -2).double()  # float32 does not always converge
    centred = flat - flat.mean(0)
    if not torch.isfinite(flat).all():
        return math.nan
    try:
        spectrum = torch.linalg.eigvalsh(centred.T @ centred).clamp(min=0)
    except RuntimeError:  # of LAPACK; a diagnosis must not end a run
        return math.nan
    if not spectrum.sum() > 0:
        return 0.0
    share = spectrum / spectrum.sum()
    return float(torch.exp(-torch.special.xlogy(share, share).sum()))


@torch.no_grad()
def diagnose(
    model: GreedyInfoMax, x: Tensor, first: int, last: int
) -> Iterator[tuple[int, float, float]]:
    """Number, dead units and effective rank of modules.

    Some 128 frames of each utterance tell enough.

    Args:
        model: The model.
        x: The input of module `first`. Shape: `(batch, frames, channels)`.
        first: module, counted from 1.
        last: The last module to look at.
    """
    x = x.float()
    for number, module in enumerate(model.stack[first - 1 : last], start=first):
        made = module(x)
        some = made.contexts[:, :: max(1, made.contexts.shape[1] // 128)]
        yield number, round(dead_units(some), 4), round(effective_rank(some), 2)
        x = made.output
