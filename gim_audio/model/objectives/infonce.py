"""InfoNCE: tell the frame k steps ahead from frames that lie elsewhere (van den Oord et al. 2018).

Beside it, CLAPP's hinge loss, which asks of one frame after the other whether it fits.

Shapes: B utterances, T frames in the window, K steps ahead, N negatives, C channels of frames, H
channels of contexts.
"""

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gim_audio.config import HingeConfig, InfoNCEConfig, NegativesConfig
from gim_audio.errors import ConfigError
from gim_audio.gradients import Compare, Predict
from gim_audio.model.objectives.base import Objective, Place, Score, products_like, register
from gim_audio.model.objectives.predictors import predictor
from gim_audio.model.ranks import SINGLE_PROCESS, Ranks, gather
from gim_audio.model.sampling import Sampler

__all__ = ["Hinge", "InfoNCE"]

TEMPERATURE = 0.1
"""The temperature that learning begins with."""


@register(InfoNCEConfig)
class InfoNCE(Objective):
    """The loss -log softmax of (W_k c_t)ᵀ z_{t+k} among negatives.

    It is averaged over t and the batch, then over k. Where there are more frames than the sampler's
    window, contexts and positives come from one random window, negatives from everywhere.

    Attributes:
        sampler: The choice of window and negatives, with the number K of steps ahead.
        stride: The frames from one step to the next, and from one frame of the window to the next.
    """

    compares = True

    def __init__(self, config: InfoNCEConfig, place: Place) -> None:
        super().__init__()
        negatives, steps, width = config.negatives, config.steps_ahead, place.width
        self.sampler = Sampler(negatives.kind, negatives.number, config.window, steps)
        self.chance = math.log(1 + negatives.number)
        self.stride = 1
        if config.horizon is not None:
            step = config.horizon / steps * place.rate / 1000  # in samples
            self.stride = max(1, round(step / place.own.hop))
        self.heads = nn.Parameter(torch.empty(steps, place.channels, width))  # W_k
        nn.init.uniform_(self.heads, -(width**-0.5), width**-0.5)  # as torch.nn.Linear
        self.predictor = predictor(config.predictor, width)
        self.scaled, self.temperature = config.temperature is not None, 1.0
        self.log_temperature: nn.Parameter | None = None
        if config.temperature == "learnt":
            self.log_temperature = nn.Parameter(torch.tensor(math.log(TEMPERATURE)))
        elif config.temperature is not None:
            self.temperature = config.temperature

    def numbers(self, frames: int, batch: int) -> int:
        """See `Objective.numbers`."""
        return self.sampler.count(self._spread(frames), batch)

    def _spread(self, frames: int) -> int:
        """Return the number of every `stride`-th of some frames."""
        return -(-frames // self.stride)

    def forward(
        self,
        contexts: Tensor,
        candidates: Tensor,
        pool: Tensor | None = None,
        ignored: Tensor | None = None,
    ) -> Score:
        """Score the frames of a window, which are in order from the last to the first.

        Predictions are computed in the type of the contexts, scores and softmax in float32.

        Args:
            contexts: The contexts c. Shape: `(T, B, H)`.
            candidates: Every frame z of the same window, and its negatives. Shape:
                `(T, B, 1 + N, C)`, or `(T, B, K, 1 + N, C)` where each k has its own.
            pool: Negatives that all frames share. Shape: `(N, C)`.
            ignored: True where a negative of the pool is the frame itself. Shape: `(T, B, N)`.
        """
        (frames, batch, _), steps = contexts.shape, len(self.heads)
        if self.predictor is not None:
            with products_like(contexts):
                contexts = self.predictor(contexts).to(contexts.dtype)
        # Of the frame at t, the predictions W_k c_{t-k} for k = 1 … K. Shape: (T · B, K, C).
        predictions = Predict.apply(contexts.flatten(0, 1), self.heads, batch)
        if self.scaled:
            predictions = F.normalize(predictions, dim=-1)
        if candidates.ndim == 4:
            scores = Compare.apply(predictions, candidates.flatten(0, 1))
        else:
            scores = Compare.apply(predictions.flatten(0, 1)[:, None], candidates.flatten(0, 2))
        scores = scores.view(frames, batch, steps, candidates.shape[-2])
        if pool is not None:
            shared = (predictions.float() @ pool.float().T).view(frames, batch, steps, len(pool))
            if ignored is not None:
                shared = shared.masked_fill(ignored[:, :, None], float("-inf"))
            scores = torch.cat([scores, shared], dim=3)
        if self.log_temperature is not None:
            scores = scores * torch.exp(-self.log_temperature)
        elif self.scaled:
            scores = scores / self.temperature
        return self.judge(scores)

    def judge(self, scores: Tensor) -> Score:
        """Return loss and accuracy. Shape: `(T, B, K, 1 + N)`, of which the first is the positive.

        A score of minus infinity is no candidate.
        """
        frames, batch, steps, _ = scores.shape
        right = scores[..., 0] > scores[..., 1:].amax(3)
        share, less = _share(frames, batch, steps, scores.device)
        loss = (scores.log_softmax(3)[..., 0] * less).sum()
        return Score(loss, (right * share).sum())

    def score(
        self,
        z: Tensor,
        c: Tensor,
        numbers: Tensor,
        target: Tensor | None = None,  # noqa: ARG002 - others are taught
        ranks: Ranks = SINGLE_PROCESS,
        hidden: Tensor | None = None,  # noqa: ARG002 - or hide
    ) -> Score:
        """See `Objective.score`.

        Raises:
            ConfigError: There are no more frames than steps ahead.
        """
        own = c is z
        if self.stride > 1:
            z = z[:, :: self.stride]
        if self.scaled:
            z = F.normalize(z, dim=-1)
        c = z if own else c[:, :: self.stride]
        batch, frames, _ = z.shape
        if frames <= self.sampler.steps_ahead:
            raise ConfigError(
                f"objective.steps_ahead: {self.sampler.steps_ahead} steps of {self.stride} frames,"
                f" and a crop has {frames} such steps: take a longer data.crop"
            )
        draw = self.sampler.draw(frames, batch * ranks.count, numbers)
        parts = [draw.part(rank, batch) for rank in range(ranks.count)]
        asked = [
            [
                *([part.window] if own else []),
                part.candidates,
                *([part.pool] if self.sampler.kind == "pool" else []),
            ]
            for part in parts
        ]
        found = list(gather(z, asked, ranks))
        if own:
            contexts = found.pop(0)
        else:
            times = draw.last - torch.arange(len(draw.window), device=c.device)
            contexts = c.transpose(0, 1).index_select(0, times)
        if self.sampler.kind != "pool":
            return self.forward(contexts, found[0])
        ignored = parts[ranks.rank].window[:, :, None] == draw.pool
        return self.forward(contexts, found[0], found[1], ignored)


@functools.cache
def _share(frames: int, batch: int, steps: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return each score's weight in the mean over t and batch, then over k, and its negative.

    Step k predicts no t before k. Shape of each: `(frames, 1, steps)`, t falling and k rising.
    """
    t = torch.arange(frames - 1, -1, -1, device=device)[:, None, None]
    k = torch.arange(1, steps + 1, device=device)
    share = (t >= k) / ((frames - k) * (batch * steps))
    return share, -share


@register(HingeConfig)
class Hinge(InfoNCE):
    """CLAPP's loss max(0, m - s) + max(0, m + s'), of a positive's score s and one negative's s'.

    Illing et al. (2021) let one saccade decide which of the two a step computes; both are computed
    here, and averaged. The accuracy is the share of scores with the right sign.
    """

    def __init__(self, config: HingeConfig, place: Place) -> None:
        same = InfoNCEConfig(
            steps_ahead=config.steps_ahead,
            negatives=NegativesConfig(number=1),
            window=max(128, config.steps_ahead + 1),
        )
        super().__init__(same, place)
        self.margin = self.chance = config.margin

    def judge(self, scores: Tensor) -> Score:
        """See `InfoNCE.judge`."""
        share, _ = _share(*scores.shape[:3], scores.device)
        signs = torch.tensor([1.0, -1.0], device=scores.device)
        fits = (scores * signs).movedim(3, 0)
        loss = (F.relu(self.margin - fits) * share).sum() / 2
        return Score(loss, ((fits > 0) * share).sum() / 2)
