"""What a probe learns from: features and labels of all utterances."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gim_audio.errors import DataError
from gim_audio.featurize import Features

__all__ = ["Examples", "Labels", "join"]

Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Examples:
    """What a probe learns from.

    Attributes:
        features: of every module. Shape: each `(examples, channels)`.
        labels: Shape: `(examples,)`.
        starts: where the examples of each utterance begin.
    """

    features: list[Features]
    labels: Labels
    starts: list[int]


def join(parts: Sequence[tuple[list[Features], Labels]], where: str) -> Examples:
    """Concatenate the features and labels of the utterances.

    Raises:
        DataError: there are no labels, or of one class only.
    """
    labels = np.concatenate([labels for _, labels in parts]) if parts else np.empty(0, np.int64)
    if len(np.unique(labels)) < 2:
        raise DataError(f"{where}: no labels, or of one class only: there is nothing to tell apart")
    starts = np.cumsum([0, *(len(labels) for _, labels in parts)])[:-1]
    features = [np.concatenate([part[0][module] for part in parts]) for module in range(len(parts[0][0]))]
    return Examples(features, labels, [int(start) for start in starts])
