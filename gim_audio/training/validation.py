"""The loss on utterances that training does not see, of the same crops and negatives each time."""

from pathlib import Path

import torch

from gim_audio.checkpoints.folders import load_model
from gim_audio.config import Config
from gim_audio.errors import DataError
from gim_audio.model.sampling import RandomNumbers
from gim_audio.packed import Crops, PackedCorpus
from gim_audio.training.feed import Feed
from gim_audio.training.labels import labels_for
from gim_audio.training.metrics_log import Metrics

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
) -> Metrics:
    """Return the loss and accuracy of every module, averaged over a crop of each utterance.

    Raises:
        DataError: No crop has a label.
    """
    model = load_model(checkpoint)[1].to(device)
    crops = Crops(
        corpus,
        crop=config.data.crop,
        hop=config.model.hop,
        batch=config.training.batch,
        seed=config.training.seed,
    )
    feed, batches = Feed(crops, device, "never"), min(BATCHES, -(-len(crops.usable) // crops.batch))
    labels = labels_for(config.objective, model, crops, device, known=trained_on)
    total, weight = torch.zeros(2, len(model.stack)), 0
    for batch in range(batches):
        wanted = labels(batch)
        # The mean over a batch averages the labels that it has: batches count by these.
        share = 1 if wanted is None else int((wanted >= 0).sum())
        weight += share
        walk = model.greedy_losses(
            model.standardise(feed(batch)),
            RandomNumbers(config.training.seed, batch),
            labels=wanted,
        )
        for number, score, _ in walk:
            assert score is not None  # noqa: S101 - nothing is frozen
            found = score()
            total[:, number - 1] += share * torch.stack([found.loss, found.accuracy]).cpu()
    if not weight:
        raise DataError(
            f"{corpus.path}: none of the {batches} batches that are validated has a label"
        )
    loss, accuracy = (total / weight).tolist()
    return {"loss": loss, "accuracy": accuracy}
