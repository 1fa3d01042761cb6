"""InfoNCE: tell the frame k steps ahead from frames that lie elsewhere (van den Oord et al. 2018)."""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gim_audio.errors import ConfigError

__all__ = ["InfoNCE", "Score"]


@dataclass(frozen=True)
class Score:
    """What an objective says of a batch: `loss` to minimise, `accuracy` without a gradient."""

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
        kind: where negatives come from.
        number: how many.
        window: frames.
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
        self.heads = nn.ModuleList(nn.Linear(width, channels, bias=False) for _ in range(steps_ahead))

    def forward(self, z: Tensor, c: Tensor, generator: torch.Generator) -> Score:
        """Score a batch.

        Args:
            z: frames. Shape: `(batch, frames, channels)`, more frames than `steps_ahead`.
            c: contexts. Shape: `(batch, frames, width)`.
            generator: of the CPU; draws the window and the negatives.
        """
        batch, frames, _ = z.shape
        length = min(frames, self.window)
        first = int(torch.randint(frames - length + 1, (), generator=generator))
        # Rows in order of time, so that "k steps later" is one offset: row (t, b) is t · batch + b.
        everywhere = z.transpose(0, 1).flatten(0, 1)
        contexts = c[:, first : first + length].transpose(0, 1).flatten(0, 1)
        rows = slice(first * batch, (first + length) * batch)
        targets = torch.arange(rows.start, rows.stop)
        if self.kind == "exact":
            scores = self._score_exact(everywhere, contexts, targets, batch, generator)
        else:
            predictions = self._predict(contexts, batch)
            if self.kind == "pool":
                scores = self._score_pool(everywhere, predictions, targets, generator)
            else:
                negatives = self._draw(targets, frames, batch, generator)
                chosen = torch.cat([targets[:, None], negatives], dim=1).to(z.device)
                candidates = F.embedding(chosen, everywhere)
                scores = torch.bmm(predictions, candidates.transpose(1, 2))
        return self._judge(scores, batch)

    def _predict(self, contexts: Tensor, batch: int) -> Tensor:
        """W_k c_{t-k} for every target t and step k; zeros where t - k lies before the window.

        Shape: `(rows, width)` → `(rows, steps_ahead, channels)`.
        """
        steps, rows = self.steps_ahead, len(contexts)
        padded = F.pad(contexts, (0, 0, steps * batch, 0))
        return torch.stack(
            [head(padded.narrow(0, (steps - k) * batch, rows)) for k, head in enumerate(self.heads, start=1)],
            dim=1,
        )

    def _draw(self, targets: Tensor, frames: int, batch: int, generator: torch.Generator) -> Tensor:
        """Rows of the negatives of each target. Shape: `(targets, number)`."""
        if self.kind == "batch":
            permutations = [torch.randperm(frames * batch, generator=generator) for _ in range(self.number)]
            return torch.stack([permutation[: len(targets)] for permutation in permutations], dim=1)
        # Another frame of the same utterance: go 1 … frames - 1 frames on, around the end.
        ahead = torch.randint(1, frames, (len(targets), self.number), generator=generator)
        return (targets[:, None] + ahead * batch) % (frames * batch)

    def _score_exact(
        self, everywhere: Tensor, contexts: Tensor, targets: Tensor, batch: int, generator: torch.Generator
    ) -> Tensor:
        """Scores with negatives drawn for each k. Shape: `(targets, steps_ahead, 1 + number)`."""
        scores = []
        for k, head in enumerate(self.heads, start=1):
            ahead = torch.randint(1, len(everywhere), (len(targets), self.number), generator=generator)
            negatives = (targets[:, None] + ahead) % len(everywhere)
            chosen = torch.cat([targets[:, None], negatives], dim=1)[k * batch :].to(everywhere.device)
            candidates = F.embedding(chosen, everywhere)
            predictions = head(contexts[: len(targets) - k * batch])
            score = torch.bmm(candidates, predictions[:, :, None])[:, :, 0]
            scores.append(F.pad(score, (0, 0, k * batch, 0)))
        return torch.stack(scores, dim=1)

    def _score_pool(
        self, everywhere: Tensor, predictions: Tensor, targets: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Scores with one pool for all targets. Shape: `(targets, steps_ahead, 1 + number)`."""
        if self.number > len(everywhere):
            raise ConfigError(
                f"objective.negatives.number: a pool of {self.number} from a batch of {len(everywhere)} frames: "
                "take fewer negatives, or a larger batch or crop"
            )
        pool = torch.randperm(len(everywhere), generator=generator)[: self.number]
        itself = (targets[:, None] == pool).to(everywhere.device)
        positives = torch.bmm(predictions, F.embedding(targets.to(everywhere.device), everywhere)[:, :, None])
        negatives = predictions @ F.embedding(pool.to(everywhere.device), everywhere).T
        return torch.cat([positives, negatives.masked_fill(itself[:, None], float("-inf"))], dim=2)

    def _judge(self, scores: Tensor, batch: int) -> Score:
        """Mean over the targets that step k has, then over k. The positive is candidate 0."""
        scores = scores.float()
        losses, accuracies = [], []
        for k in range(1, self.steps_ahead + 1):
            score = scores[k * batch :, k - 1]
            losses.append((score.logsumexp(1) - score[:, 0]).mean())
            accuracies.append((score[:, 0] > score[:, 1:].amax(1)).float().mean())
        return Score(torch.stack(losses).mean(), torch.stack(accuracies).mean().detach())
