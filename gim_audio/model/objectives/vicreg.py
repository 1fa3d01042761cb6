"""No negatives: neighbouring frames alike, channels varied and uncorrelated (VICReg).

Shapes: B utterances, T frames, H channels of contexts, D channels of the projection.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gim_audio.config import VICRegConfig
from gim_audio.errors import ConfigError
from gim_audio.model.objectives.base import Objective, Place, Score, products_like, register
from gim_audio.model.ranks import SINGLE_PROCESS, Ranks

__all__ = ["VICReg"]

WINDOW = 128
"""The most frames of a crop that are compared, as in InfoNCE."""


@register(VICRegConfig)
class VICReg(Objective):
    """The loss of Bardes et al. (2022) between projections of frames that lie some way apart.

    It adds the mean squared difference of the two, what the standard deviation of each channel
    lacks of 1, and the squared covariances of different channels over D. Statistics are those of
    this process's part of the batch. The accuracy is the correlation of the two.
    """

    def __init__(self, config: VICRegConfig, place: Place) -> None:
        super().__init__()
        self.weights = config.alike, config.varied, config.uncorrelated
        self.apart = max(1, round(config.apart * place.rate / 1000 / place.own.hop))
        self.chance = config.varied
        self.project = nn.Sequential(
            nn.Linear(place.width, config.width), nn.ReLU(), nn.Linear(config.width, config.width)
        )

    def numbers(self, frames: int, batch: int) -> int:  # noqa: ARG002 - one window for all
        """See `Objective.numbers`."""
        return 1

    def score(
        self,
        z: Tensor,  # noqa: ARG002 - contexts are compared
        c: Tensor,
        numbers: Tensor,
        target: Tensor | None = None,  # noqa: ARG002 - nothing is taught
        ranks: Ranks = SINGLE_PROCESS,  # noqa: ARG002
        hidden: Tensor | None = None,  # noqa: ARG002
    ) -> Score:
        """See `Objective.score`. Statistics are computed in float32."""
        frames = c.shape[1]
        length = min(frames, WINDOW + self.apart)
        if length <= self.apart:
            raise ConfigError(
                f"objective.apart: {self.apart} frames, and a crop has {frames}: take a longer"
                " data.crop"
            )
        times = numbers[0] % (frames - length + 1) + torch.arange(length, device=c.device)
        with products_like(c):
            projected = self.project(c.index_select(1, times)).float()
        one = projected[:, : -self.apart].flatten(0, 1)
        other = projected[:, self.apart :].flatten(0, 1)
        return self.forward(one, other)

    def forward(self, one: Tensor, other: Tensor) -> Score:
        """Score pairs of projections. Shape of each: `(pairs, D)`."""
        alike = F.mse_loss(one, other)
        varied, uncorrelated = one.new_zeros(()), one.new_zeros(())
        for each in (one, other):
            centred = each - each.mean(0)
            covariance = centred.T @ centred / (len(each) - 1)
            variance = covariance.diagonal()
            varied = varied + F.relu(1 - (variance + 1e-4).sqrt()).mean() / 2
            squares = covariance.square().sum() - variance.square().sum()
            uncorrelated = uncorrelated + squares / each.shape[1]
        terms = zip(self.weights, (alike, varied, uncorrelated), strict=True)
        loss = torch.stack([weight * term for weight, term in terms]).sum()
        with torch.no_grad():
            spread = (one.var(0) + other.var(0)).mean()
            alikeness = 1 - alike / spread.clamp(min=1e-6)
        return Score(loss, alikeness)
