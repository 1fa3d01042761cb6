"""InfoNCE: tell the frame k steps ahead from frames that lie elsewhere (van den Oord et al. 2018).

Beside it, what the paper compares with: a linear classifier of phones or speakers.

Shapes: B utterances, T frames in the window, K steps ahead, N negatives, C channels of frames, H
channels of contexts.
"""

import functools
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gim_audio.gradients import Compare, Predict
from gim_audio.model.geometry import Geometry
from gim_audio.model.ranks import SINGLE_PROCESS, Ranks, gather
from gim_audio.model.sampling import Sampler

__all__ = ["Classify", "InfoNCE", "Objective", "Score"]


@dataclass(frozen=True)
class Score:
    """The score of a batch: the loss, and the share of right choices. Shape of each: `()`."""

    loss: Tensor
    accuracy: Tensor


class Objective(nn.Module, ABC):
    """The objective that trains a module."""

    def numbers(self, frames: int, batch: int) -> int:  # noqa: ARG002 - most draw nothing
        """Return the number of random numbers that `score` takes for a batch of utterances."""
        return 0

    @abstractmethod
    def score(
        self,
        z: Tensor,
        c: Tensor,
        numbers: Tensor,
        labels: Tensor | None = None,
        ranks: Ranks = SINGLE_PROCESS,
    ) -> Score:
        """Score a batch, with a gradient for the loss.

        Args:
            z: The frames. Shape: `(B, frames, C)`.
            c: The contexts; `z` itself where a module has none. Shape: `(B, frames, H)`.
            numbers: Random integers for what is drawn by chance: see `Sampler.draw`. Shape:
                `(self.numbers(…) or more,)`.
            labels: The labels of a supervised objective, -1 where there is none. Shape:
                `(B, slower frames)` of phones, or `(B,)` of speakers.
            ranks: The processes that share the batch. The mean of their scores is what one process
                would find that has all utterances.
        """


class InfoNCE(Objective):
    """The loss -log softmax of (W_k c_t)ᵀ z_{t+k} among negatives.

    It is averaged over t and the batch, then over k. Where there are more frames than the sampler's
    window, contexts and positives come from one random window, negatives from everywhere.

    Args:
        width: The number of channels H of the contexts.
        channels: The number of channels C of the frames.
        sampler: The choice of window and negatives, with the number K of steps ahead.
    """

    def __init__(self, width: int, channels: int, sampler: Sampler) -> None:
        super().__init__()
        self.sampler = sampler
        self.heads = nn.Parameter(torch.empty(sampler.steps_ahead, channels, width))  # W_k
        nn.init.uniform_(self.heads, -(width**-0.5), width**-0.5)  # as torch.nn.Linear

    def numbers(self, frames: int, batch: int) -> int:
        """See `Objective.numbers`."""
        return self.sampler.count(frames, batch)

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
        # Of the frame at t, the predictions W_k c_{t-k} for k = 1 … K. Shape: (T · B, K, C).
        predictions = Predict.apply(contexts.flatten(0, 1), self.heads, batch)
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
        right = scores[..., 0] > scores[..., 1:].amax(3)
        share, less = _share(frames, batch, steps, scores.device)
        loss = (scores.log_softmax(3)[..., 0] * less).sum()
        return Score(loss, (right * share).sum())

    def score(
        self,
        z: Tensor,
        c: Tensor,
        numbers: Tensor,
        labels: Tensor | None = None,  # noqa: ARG002 - others are taught
        ranks: Ranks = SINGLE_PROCESS,
    ) -> Score:
        """See `Objective.score`. There are more frames than steps ahead."""
        batch, frames, _ = z.shape
        draw = self.sampler.draw(frames, batch * ranks.count, numbers)
        parts = [draw.part(rank, batch) for rank in range(ranks.count)]
        asked = [
            [
                *([part.window] if c is z else []),
                part.candidates,
                *([part.pool] if self.sampler.kind == "pool" else []),
            ]
            for part in parts
        ]
        found = list(gather(z, asked, ranks))
        if c is z:
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


class Classify(Objective):
    """The cross-entropy of a linear classifier of phones, or of the speaker of a crop.

    Phones have the rate of the last convolution: frames of a faster module are averaged around
    theirs. For a speaker, all frames are averaged.

    Args:
        width: The number of channels H of the contexts.
        classes: The number of classes.
        own: The geometry of the contexts.
        grid: The geometry of the labels.
    """

    def __init__(self, width: int, classes: int, own: Geometry, grid: Geometry) -> None:
        super().__init__()
        self.linear = nn.Linear(width, classes)
        self.first, self.ratio = own.under(grid)

    def score(
        self,
        z: Tensor,  # noqa: ARG002 - a classifier sees contexts
        c: Tensor,
        numbers: Tensor,  # noqa: ARG002 - and draws nothing
        labels: Tensor | None = None,
        ranks: Ranks = SINGLE_PROCESS,
    ) -> Score:
        """See `Objective.score`. It is computed in float32."""
        assert labels is not None  # noqa: S101 - the trainer knows the objective
        if labels.dim() == 1:
            pooled = c.mean(1, dtype=torch.float32)
        else:
            (batch, frames, _), last = c.shape, self.first + labels.shape[1] * self.ratio
            before = c[:, :1].expand(-1, max(0, -self.first), -1)
            after = c[:, -1:].expand(-1, max(0, last - frames), -1)
            covered = torch.cat([before, c[:, max(0, self.first) : last], after], dim=1)
            pooled = covered.view(batch, labels.shape[1], self.ratio, -1).mean(
                2, dtype=torch.float32
            )
        answers = self.linear(pooled)
        answers, labels = answers.flatten(0, -2), labels.flatten()
        known = ranks.total((labels >= 0).sum()).clamp(min=1) / ranks.count
        loss = F.cross_entropy(answers, labels, ignore_index=-1, reduction="sum") / known
        return Score(loss, (answers.argmax(1) == labels).sum() / known)
