"""InfoNCE: tell the frame k steps ahead from frames that lie elsewhere (van den Oord et al. 2018).

Beside it, what the paper compares with: a linear classifier of phones or speakers.

Shapes: B utterances, T frames in the window, K steps ahead, N negatives, C channels of frames, H
channels of contexts.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gim_audio.model.geometry import Geometry
from gim_audio.model.gradients import Compare, Predict
from gim_audio.model.ranks import SINGLE_PROCESS, Ranks, gather
from gim_audio.model.sampling import NegativesKind, Sampler

__all__ = ["Classify", "InfoNCE", "Score"]


@dataclass(frozen=True)
class Score:
    """The score of a batch.

    Attributes:
        loss: The loss to minimise. Shape: `()`.
        accuracy: The share of correct choices, without a gradient. Shape: `()`.
    """

    loss: Tensor
    accuracy: Tensor


class InfoNCE(nn.Module):
    """The loss -log softmax of (W_k c_t)ᵀ z_{t+k} among negatives: equation (2) of the paper.

    It is averaged over t and the batch, then over k. Where there are more frames than `window`,
    contexts and positives come from one random window of that length, negatives from everywhere.

    Negatives belong to a frame and are shared by all k that predict it, as in the published code:

    * `batch`: `number` random permutations of all frames of the batch; may hit the positive.
    * `exact`: any frame of the batch but the positive, drawn for each k.
    * `utterance`: any other frame of the same utterance.
    * `pool`: one set of `number` frames of the batch for all, scored by one matrix product. Where
      the positive is among them, it does not count as its own negative.

    Args:
        width: The number of channels H of the contexts.
        channels: The number of channels C of the frames.
        steps_ahead: The largest k.
        kind: The sampling of negatives.
        number: The number N of negatives.
        window: The largest number of frames that are scored.
    """

    def __init__(
        self,
        width: int,
        channels: int,
        *,
        steps_ahead: int,
        kind: NegativesKind,
        number: int,
        window: int,
    ) -> None:
        super().__init__()
        self.sampler = Sampler(kind, number, window, steps_ahead)
        self.heads = nn.Parameter(torch.empty(steps_ahead, channels, width))  # W_k
        nn.init.uniform_(self.heads, -(width**-0.5), width**-0.5)  # as torch.nn.Linear

    def forward(
        self,
        contexts: Tensor,
        candidates: Tensor,
        pool: Tensor | None = None,
        ignored: Tensor | None = None,
    ) -> Score:
        """Score the frames of a window.

        Predictions are computed in the type of the contexts, scores and softmax in float32.

        Args:
            contexts: The contexts c. Shape: `(T, B, H)`.
            candidates: Each frame z of the same window, and its negatives. Shape:
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
        losses = scores.logsumexp(3) - scores[..., 0]
        right = scores[..., 0] > scores[..., 1:].amax(3)
        # The mean over those t that step k can predict, and over the batch; then over k.
        t = torch.arange(frames, device=losses.device)[:, None, None]
        k = torch.arange(1, steps + 1, device=losses.device)
        share = (t >= k) / (frames - k) / batch / steps
        return Score((losses * share).sum(), (right * share).sum())

    def score(
        self,
        z: Tensor,
        c: Tensor,
        generator: torch.Generator,
        labels: Tensor | None = None,
        ranks: Ranks = SINGLE_PROCESS,
    ) -> Score:
        """Draw a window and negatives, and score a batch.

        Args:
            z: The frames, more than `steps_ahead`. Shape: `(B, frames, C)`.
            c: The contexts; `z` itself where frames are their own contexts. Shape: `(B, frames,
                H)`.
            generator: A generator of the CPU, which draws the window and the negatives.
            labels: Not used.
            ranks: The processes that share the batch. Negatives come from all of them, and the mean
                of their scores is what one process would find that has all utterances.
        """
        batch, frames, _ = z.shape
        draw = self.sampler.draw(frames, batch * ranks.count, generator)
        parts = [draw.part(rank, batch) for rank in range(ranks.count)]
        asked = [
            [part.window[: 0 if c is not z else None], part.candidates, part.pool] for part in parts
        ]
        contexts, candidates, pool = gather(z, asked, ranks)
        if c is not z:
            contexts = c[:, draw.first : draw.first + len(draw.window)].transpose(0, 1)
        if self.sampler.kind != "pool":
            return self.forward(contexts, candidates)
        ignored = parts[ranks.rank].window[:, :, None] == draw.pool
        return self.forward(contexts, candidates, pool, ignored.to(z.device))


class Classify(nn.Module):
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
        z: Tensor,
        c: Tensor,
        generator: torch.Generator,
        labels: Tensor | None,
        ranks: Ranks = SINGLE_PROCESS,
    ) -> Score:
        """Score a batch, in float32.

        Args:
            z: Not used.
            c: The contexts. Shape: `(B, frames, H)`.
            generator: Not used.
            labels: The labels, -1 where there is none. Shape: `(B, slower frames)`, or `(B,)` of
                whole crops.
            ranks: The processes that share the batch. The mean of their scores is the score of all
                labels, however many each of them has.
        """
        assert labels is not None
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
