"""InfoNCE: tell the frame k steps ahead from frames that lie elsewhere (van den Oord et al. 2018).

Beside it, what the paper compares with: a linear classifier of phones or speakers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gim_audio.errors import ConfigError
from gim_audio.model.devices import send
from gim_audio.model.gradients import Compare, Predict
from gim_audio.model.layers import Geometry
from gim_audio.model.ranks import ALONE, Ranks, fetch

__all__ = ["Classify", "InfoNCE", "Score"]


@dataclass(frozen=True)
class Score:
    """The score of a batch: `loss` to minimise, `accuracy` without a gradient."""

    loss: Tensor
    accuracy: Tensor


class InfoNCE(nn.Module):
    """-log softmax of (W_k c_t)ᵀ z_{t+k} among negatives, averaged over t and the batch, then over k.

    Negatives belong to a target frame and are shared by all k that predict it, as in the published code:

    * `batch`: `number` random permutations of all frames of the batch; may hit the positive (published).
    * `exact`: any frame of the batch but the positive, drawn anew for each k.
    * `utterance`: any other frame of the same utterance.
    * `pool`: one set of `number` frames of the batch for all targets, scored by one matrix product; where
      the positive is among them, it does not count as its own negative.

    Where there are more frames than `window`, contexts and positives come from one random window of that
    length; negatives still come from everywhere.

    Args:
        width: channels of the contexts c.
        channels: channels of the frames z.
        steps_ahead: the largest k.
        kind: The sampling of negatives.
        number: The number of negatives.
        window: The number of frames that are scored.
    """

    def __init__(
        self,
        width: int,
        channels: int,
        *,
        steps_ahead: int,
        kind: Literal["batch", "exact", "utterance", "pool"],
        number: int,
        window: int,
    ) -> None:
        super().__init__()
        self.steps_ahead, self.kind, self.number, self.window = steps_ahead, kind, number, window
        self.heads = nn.Parameter(torch.empty(steps_ahead, channels, width))
        nn.init.uniform_(self.heads, -(width**-0.5), width**-0.5)  # as torch.nn.Linear

    def forward(
        self,
        z: Tensor,
        c: Tensor,
        generator: torch.Generator,
        frames_at: Callable[[Tensor], Tensor] | None = None,
        ranks: Ranks = ALONE,
    ) -> Score:
        """Score a batch.

        Predictions are computed in the precision of z and c, scores and their softmax in float32 (which a GPU may
        round to TF32 where training.precision says so).

        Args:
            z: frames. Shape: `(batch, frames, channels)`, more frames than `steps_ahead`.
            c: contexts. Shape: `(batch, frames, width)`; z itself where frames are their own contexts.
            generator: A generator of the CPU, which draws the window and the negatives.
            frames_at: another way to z's frames, by b · frames + t: `(n,)` → `(n, channels)`. Then gradients go
                that way, and none to z.
            ranks: The processes that share the batch. Negatives come from all ranks' utterances, and the mean of all
                ranks' scores is what one process would find that has them all.
        """
        batch, frames, channels = z.shape
        length = min(frames, self.window)
        first = int(torch.randint(frames - length + 1, (), generator=generator))
        # Rows are numbered in order of time, t · batch + b over all ranks, so that "k steps later" is one offset.
        whole = batch * ranks.count
        targets = torch.arange(first * whole, (first + length) * whole)
        wanted = self._draw(targets, frames, whole, generator)
        pool = wanted[1] if self.kind == "pool" else None  # everybody's; the others are a target's own
        owners = targets // batch % ranks.count
        asked = [
            [rows if rows is pool else rows[owners == rank] for rows in ([targets] if c is z else []) + wanted]
            for rank in range(ranks.count)
        ]
        found = fetch([torch.cat([rows.flatten() for rows in each]) for each in asked], z, frames_at, ranks)
        mine = asked[ranks.rank]
        parts = torch.split(found, [rows.numel() for rows in mine])
        chosen = [part.view(*rows.shape, channels) for part, rows in zip(parts, mine, strict=True)]
        contexts = chosen.pop(0) if c is z else c[:, first : first + length].transpose(0, 1).flatten(0, 1)
        predictions = Predict.apply(contexts, self.heads, batch)
        if self.kind == "pool":
            positives, others = chosen
            itself = send(mine[-2][:, None] == mine[-1], z.device)
            products = (predictions.float() @ others.float().T).masked_fill(itself[:, None], float("-inf"))
            scores = torch.cat([Compare.apply(predictions, positives[:, None]), products], dim=2)
        elif self.kind == "exact":
            each = [Compare.apply(p[:, None], z_k) for p, z_k in zip(predictions.unbind(1), chosen, strict=True)]
            scores = torch.cat(each, dim=1)
        else:
            scores = Compare.apply(predictions, chosen[0])
        return self._judge(scores, batch)

    def _draw(self, targets: Tensor, frames: int, batch: int, generator: torch.Generator) -> list[Tensor]:
        """Rows to score: of the targets and the pool, or `(targets, 1 + number)` with each target first.

        There is one such tensor for all steps, or for `exact` one for each.
        """
        total, drawn = frames * batch, (len(targets), self.number)
        if self.kind == "pool":
            if self.number > total:
                raise ConfigError(
                    f"objective.negatives.number: a pool of {self.number} from a batch of {total} frames: "
                    "take fewer negatives, or a larger batch or crop"
                )
            return [targets, torch.randperm(total, generator=generator)[: self.number]]
        if self.kind == "batch":
            permutations = [torch.randperm(total, generator=generator) for _ in range(self.number)]
            negatives = [torch.stack([permutation[: len(targets)] for permutation in permutations], dim=1)]
        elif self.kind == "exact":  # any other frame: go 1 … total - 1 rows on, around the end
            ahead = [torch.randint(1, total, drawn, generator=generator) for _ in range(self.steps_ahead)]
            negatives = [(targets[:, None] + rows) % total for rows in ahead]
        else:  # any other frame of the same utterance
            ahead = [torch.randint(1, frames, drawn, generator=generator) * batch]
            negatives = [(targets[:, None] + rows) % total for rows in ahead]
        return [torch.cat([targets[:, None], rows], dim=1) for rows in negatives]

    def _judge(self, scores: Tensor, batch: int) -> Score:
        """Mean over the targets that step k has, then over k. The positive is candidate 0.

        Shape: `(targets, steps_ahead, 1 + number)`.
        """
        row = torch.arange(len(scores), device=scores.device)[:, None]
        before = batch * torch.arange(1, self.steps_ahead + 1, device=scores.device)
        share = (row >= before) / (len(scores) - before) / self.steps_ahead
        losses = scores.logsumexp(2) - scores[:, :, 0]
        right = scores[:, :, 0] > scores[:, :, 1:].amax(2)
        return Score((losses * share).sum(), (right * share).sum())


class Classify(nn.Module):
    """Cross-entropy of a linear classifier: of phones, one for each frame of the label grid, or of a crop's speaker.

    Frames of a faster module are averaged around those of the grid; for a speaker, all of them are.

    Args:
        width: channels of the contexts c.
        classes: The number of classes.
        own: geometry of the contexts.
        grid: geometry of the labels.
    """

    def __init__(self, width: int, classes: int, own: Geometry, grid: Geometry) -> None:
        super().__init__()
        self.linear = nn.Linear(width, classes)
        self.first, self.ratio = own.under(grid)

    def forward(self, c: Tensor, labels: Tensor, ranks: Ranks = ALONE) -> Score:
        """Score a batch, in float32.

        Args:
            c: contexts. Shape: `(batch, frames, width)`.
            labels: -1 is none. Shape: `(batch, slower frames)`, or `(batch,)` of whole crops.
            ranks: The processes that share the batch. The mean of their scores is the score of all labels, however
                many each of them has.
        """
        if labels.dim() == 1:
            pooled = c.mean(1, dtype=torch.float32)
        else:
            (batch, frames, _), last = c.shape, self.first + labels.shape[1] * self.ratio
            before, after = (
                c[:, :1].expand(-1, max(0, -self.first), -1),
                c[:, -1:].expand(-1, max(0, last - frames), -1),
            )
            covered = torch.cat([before, c[:, max(0, self.first) : last], after], dim=1)
            pooled = covered.view(batch, labels.shape[1], self.ratio, -1).mean(2, dtype=torch.float32)
        answers = self.linear(pooled)
        answers, labels = answers.flatten(0, -2), labels.flatten()
        known = ranks.total((labels >= 0).sum()).clamp(min=1) / ranks.count
        loss = F.cross_entropy(answers, labels, ignore_index=-1, reduction="sum") / known
        return Score(loss, (answers.argmax(1) == labels).sum() / known)
