"""Prediction of log mel frames: autoregressive predictive coding (Chung et al. 2019).

Shapes: B utterances, T frames, H channels of contexts, A frames ahead, M mel bands.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gim_audio.config import SpectraConfig
from gim_audio.model.mel import log_mel
from gim_audio.model.objectives.base import (
    Objective,
    Place,
    Score,
    products_like,
    register,
    to_grid,
)
from gim_audio.model.ranks import SINGLE_PROCESS, Ranks

__all__ = ["Spectra"]

MEMORY = 1000
"""Batches that the running mean of targets remembers."""


@register(SpectraConfig)
class Spectra(Objective):
    """The mean absolute error of log mel frames that contexts predict.

    Each band is standardised by a running mean over the batches so far: that of one batch would
    shift what is to be predicted by what the other crops are. Frames of a faster module are
    averaged around those of the target; a hidden layer of ReLU then predicts all frames ahead. The
    accuracy is the share of the target's mean absolute value that is predicted.
    """

    moments: Tensor
    """The mean of log mel energies, and of their squares. Shape: `(2, M)`."""
    batches: Tensor
    """The number of batches that `moments` has seen. Shape: `(1,)`."""

    chance = 0.8  # about the mean absolute value of what is standardised
    taught = "waveforms"

    def __init__(self, config: SpectraConfig, place: Place) -> None:
        super().__init__()
        self.ahead, self.bands, self.place = config.ahead, config.bands, place
        self.hidden_layer = nn.Linear(place.width, config.hidden) if config.hidden else None
        self.linear = nn.Linear(config.hidden or place.width, config.bands * len(config.ahead))
        self.register_buffer("moments", torch.zeros(2, config.bands))
        self.register_buffer("batches", torch.zeros(1))

    def score(
        self,
        z: Tensor,  # noqa: ARG002 - contexts predict
        c: Tensor,
        numbers: Tensor,  # noqa: ARG002 - and draw nothing
        target: Tensor | None = None,
        ranks: Ranks = SINGLE_PROCESS,
        hidden: Tensor | None = None,  # noqa: ARG002 - all are predicted
    ) -> Score:
        """See `Objective.score`. Errors are computed in float32."""
        assert target is not None  # noqa: S101 - the trainer knows the objective
        place = self.place
        # As many as fit into the crop: the last may lack some samples on the right.
        frames = 1 + int((target.shape[1] - 1 - place.grid.centre) // place.grid.hop)
        target = log_mel(target, place.rate, place.grid, frames, self.bands)
        target = self._standardised(target, ranks)
        x = to_grid(c, place.own, place.grid, frames)
        with products_like(c):
            if self.hidden_layer is not None:
                x = F.relu(self.hidden_layer(x))
            made = self.linear(x).float()
        made = made.view(len(c), frames, len(self.ahead), self.bands)
        errors, sizes = [], []
        for index, ahead in enumerate(self.ahead):
            first, last = max(0, -ahead), min(frames, frames - ahead)
            wanted = target[:, first + ahead : last + ahead]
            errors.append((made[:, first:last, index] - wanted).abs().mean())
            sizes.append(wanted.abs().mean())
        loss = torch.stack(errors).mean()
        return Score(loss, 1 - loss.detach() / torch.stack(sizes).mean().clamp(min=1e-6))

    @torch.no_grad()
    def _standardised(self, target: Tensor, ranks: Ranks) -> Tensor:
        """Shape: `(B, T, M)`, which stays."""
        now = torch.stack([target.mean((0, 1)), target.square().mean((0, 1))])
        if self.training:
            self.batches += 1
            share = (1 / self.batches).clamp(min=1 / MEMORY)
            self.moments.lerp_(ranks.total(now) / ranks.count, share)
        mean, square = self.moments if self.training or self.batches > 0 else now
        standardised: Tensor = (target - mean) / (square - mean.square()).clamp(min=1e-6).sqrt()
        return standardised
