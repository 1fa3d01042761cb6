"""Cross-entropy: name phones, speakers or units.

Shapes: B utterances, T frames, H channels of contexts.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gim_audio.config import PhonesConfig, SpeakersConfig, UnitsConfig
from gim_audio.errors import ConfigError
from gim_audio.model.objectives.base import (
    Objective,
    Place,
    Score,
    products_like,
    register,
    to_grid,
)
from gim_audio.model.ranks import SINGLE_PROCESS, Ranks

__all__ = ["Classify", "Units"]


@register(PhonesConfig)
@register(SpeakersConfig)
class Classify(Objective):
    """The cross-entropy of a linear classifier of phones, or of the speaker of a crop.

    Phones have the rate of the last convolution: frames of a faster module are averaged around
    theirs. For a speaker, all frames are averaged.
    """

    def __init__(self, config: PhonesConfig | SpeakersConfig, place: Place) -> None:
        super().__init__()
        if config.classes is None:
            raise ValueError("classes must be counted before a model is built")
        self.taught = config.kind
        self.linear = nn.Linear(place.width, config.classes)
        self.place = place
        self.chance = math.log(config.classes)

    def score(
        self,
        z: Tensor,  # noqa: ARG002 - a classifier sees contexts
        c: Tensor,
        numbers: Tensor,  # noqa: ARG002 - and draws nothing
        target: Tensor | None = None,
        ranks: Ranks = SINGLE_PROCESS,
        hidden: Tensor | None = None,  # noqa: ARG002
    ) -> Score:
        """See `Objective.score`. It is computed in float32."""
        assert target is not None  # noqa: S101 - the trainer knows the objective
        if target.dim() == 1:
            pooled = c.mean(1, dtype=torch.float32)
        else:
            pooled = to_grid(c, self.place.own, self.place.grid, target.shape[1])
        return _named(self.linear(pooled), target, ranks)


@register(UnitsConfig)
class Units(Objective):
    """The cross-entropy of a linear classifier of units: of present frames, or some ahead.

    With spans, only frames in them count, which the context did not see: the masked prediction of
    HuBERT (Hsu et al. 2021). Without them and some frames ahead, a causal context predicts.

    The hidden frames are replaced by one learnt frame. A context above one that did not see some
    frames is scored on the same ones.
    """

    taught = "units"

    def __init__(self, config: UnitsConfig, place: Place) -> None:
        super().__init__()
        self.linear = nn.Linear(place.width, config.number * len(config.ahead))
        self.ahead, self.number, self.spans = config.ahead, config.number, config.spans
        self.place, self.chance = place, math.log(config.number)
        self.hides = self.spans is not None
        self.blank: nn.Parameter | None = None
        if self.spans is not None:
            if not place.has_context:
                raise ConfigError("objective.spans: a module without a context hides nothing")
            self.blank = nn.Parameter(torch.zeros(place.channels))

    def numbers(self, frames: int, batch: int) -> int:
        """See `Objective.numbers`."""
        return frames * batch if self.spans else 0

    def hidden(self, frames: int, batch: int, numbers: Tensor) -> Tensor | None:
        """See `Objective.hidden`."""
        if self.spans is None:
            return None
        starts = numbers[: frames * batch].view(batch, 1, frames) < int(self.spans.starts * 2**63)
        # A frame is hidden where it, or one of the `length` - 1 frames before, starts a span.
        padded = F.pad(starts.float(), (self.spans.length - 1, 0))
        return F.max_pool1d(padded, self.spans.length, 1)[:, 0] > 0

    def hide(self, z: Tensor, hidden: Tensor) -> Tensor:
        """See `Objective.hide`."""
        assert self.blank is not None  # noqa: S101 - it has just hidden some
        return torch.where(hidden[:, :, None], self.blank.to(z.dtype), z)

    def score(
        self,
        z: Tensor,  # noqa: ARG002 - contexts name units
        c: Tensor,
        numbers: Tensor,  # noqa: ARG002 - `hidden` has drawn already
        target: Tensor | None = None,
        ranks: Ranks = SINGLE_PROCESS,
        hidden: Tensor | None = None,
    ) -> Score:
        """See `Objective.score`. The softmax is computed in float32."""
        assert target is not None  # noqa: S101 - the trainer knows the objective
        frames, grids = target.shape[1], (self.place.own, self.place.grid)
        counted = torch.ones_like(target, dtype=torch.bool)
        if self.spans is not None and hidden is not None:
            counted = to_grid(hidden[:, :, None], *grids, frames)[:, :, 0] == 1
        with products_like(c):
            answers = self.linear(to_grid(c, *grids, frames)).float()
        answers = answers.view(len(c), frames, len(self.ahead), self.number)
        asked = torch.stack(
            [_ahead(target, k).masked_fill(~counted, -1) for k in self.ahead], dim=2
        )
        return _named(answers, asked, ranks)


def _named(answers: Tensor, labels: Tensor, ranks: Ranks) -> Score:
    """Return the mean cross-entropy and accuracy of labels that are known.

    Shape: `(…, classes)`, labels `(…)`, -1 where there is none.
    """
    answers, labels = answers.flatten(0, -2), labels.flatten()
    known = ranks.total((labels >= 0).sum()).clamp(min=1) / ranks.count
    loss = F.cross_entropy(answers, labels, ignore_index=-1, reduction="sum") / known
    return Score(loss, (answers.argmax(1) == labels).sum() / known)


def _ahead(labels: Tensor, frames: int) -> Tensor:
    """Return at each frame the label some frames ahead, -1 beyond. Shape: `(B, T)`, which stays."""
    count = labels.shape[1]
    inside = labels[:, max(0, frames) : max(0, count + frames)]
    return F.pad(inside, (min(count, max(0, -frames)), min(count, max(0, frames))), value=-1)
