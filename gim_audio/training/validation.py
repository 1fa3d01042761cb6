"""The loss on utterances that training does not see, of the same crops and negatives each time."""

from pathlib import Path

import torch
from torch import Tensor

from gim_audio.checkpoints.folders import load_model
from gim_audio.config import Config
from gim_audio.errors import DataError
from gim_audio.model.sampling import RandomNumbers
from gim_audio.packed import Crops, PackedCorpus
from gim_audio.training.feed import Feed
from gim_audio.training.labels import targets_for
from gim_audio.training.metrics_log import Metrics
from gim_audio.training.units import UnitsOfRun

__all__ = ["validate"]

BATCHES = 50
"""The most batches: a fixed part of a large corpus says enough."""


@torch.no_grad()
def validate(
    checkpoint: Path,
    corpus: PackedCorpus,
    config: Config,
    device: torch.device,
    trained_on: PackedCorpus,
    units: UnitsOfRun | None = None,
) -> Metrics:
    """Return the loss and accuracy of every module, averaged over a crop of each utterance.

    Modules whose units are not learnt yet have None.

    Raises:
        DataError: No crop has a label.
    """
    model = load_model(checkpoint)[1].to(device).eval()
    crops = Crops(
        corpus,
        crop=config.data.crop,
        hop=config.model.hop,
        batch=config.training.batch,
        seed=config.training.seed,
    )
    feed, batches = Feed(crops, device, "never"), min(BATCHES, -(-len(crops.usable) // crops.batch))
    numbers = range(1, len(model.stack) + 1)
    waiting = [
        number
        for number in numbers
        if model.stack[number - 1].objective.taught == "units"
        and not (units and units.path(number).exists())
    ]
    targets = targets_for(
        config.objectives,
        model,
        crops,
        device,
        modules=[number for number in numbers if number not in waiting],
        known=trained_on,
        units=lambda number: units.of_others(number, model, corpus) if units else None,
    )
    total, weight = torch.zeros(2, len(model.stack)), torch.zeros(len(model.stack))
    for batch in range(batches):
        wanted = targets(batch)
        walk = model.greedy_losses(
            model.standardise(feed(batch)),
            RandomNumbers(config.training.seed, batch),
            frozen=waiting,
            targets=wanted,
        )
        for number, score, _ in walk:
            if score is None:
                continue
            found = score()
            share = _labels(wanted.get(number))
            weight[number - 1] += share
            total[:, number - 1] += share * torch.stack([found.loss, found.accuracy]).cpu()
    learnt = [number for number in numbers if number not in waiting]
    if not all(weight[number - 1] for number in learnt):
        raise DataError(
            f"{corpus.path}: none of the {batches} batches that are validated has a label"
        )
    loss, accuracy = (
        [None if number in waiting else value for number, value in enumerate(each, start=1)]
        for each in (total / weight).tolist()
    )
    return {"loss": loss, "accuracy": accuracy}


def _labels(target: Tensor | None) -> int:
    """Return how much a batch counts: its mean loss averages the labels that it has."""
    if target is None or target.is_floating_point():
        return 1
    return int((target >= 0).sum())
