"""Encode each utterance once, every module at the last module's frame rate."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gim_audio.audio import Waveform
from gim_audio.errors import DataError
from gim_audio.featurize import Encoder, Features
from gim_audio.kaldi import DataDir
from gim_audio.model.layers import Geometry

__all__ = ["Examples", "Labels", "encode", "join", "pool_frames", "waveforms"]

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


def pool_frames(features: Features, own: Geometry, grid: Geometry, count: int) -> Features:
    """Average the frames of a faster module around the centres of a slower one's.

    Args:
        features: Shape: `(frames, channels)`.
        own: their geometry.
        grid: geometry of the slower frames.
        count: how many slower frames there are.
    """
    ratio = grid.hop // own.hop
    if ratio == 1:
        return features[:count]
    # The middle of `ratio` frames should lie on the slower frame's centre.
    first = round((grid.centre - own.centre) / own.hop - (ratio - 1) / 2)
    last = first + ratio * count
    padding = ((max(0, -first), max(0, last - len(features))), (0, 0))
    covered = np.pad(features[max(0, first) : last], padding, mode="edge")  # at the ends, the outermost frame again
    pooled: Features = covered.reshape(count, ratio, -1).mean(axis=1)
    return pooled


def encode(encoder: Encoder, waveform: npt.NDArray[np.float32], modules: Sequence[int]) -> list[Features]:
    """Features of some modules (from 1) at the last module's frame rate. Shape: each `(frames, channels)`."""
    features = encoder.encode(waveform)
    grid, count = encoder.geometries[-1], len(features[-1])
    return [pool_frames(features[m - 1], encoder.geometries[m - 1], grid, count) for m in modules]


def waveforms(data: DataDir, encoder: Encoder, *, allow_pipes: bool) -> Iterator[tuple[str, Waveform]]:
    """Decode every utterance; a probe cannot do with less than all.

    Raises:
        DataError: one cannot be decoded or is too short.
    """
    for name, waveform in data.waveforms(encoder.rate, allow_pipes=allow_pipes):
        if isinstance(waveform, Exception):
            raise DataError(f"{name}: {waveform}")
        if len(waveform) < encoder.shortest:
            raise DataError(f"{data.path}: {name} has {len(waveform)} samples, {encoder.name} needs {encoder.shortest}")
        yield name, waveform


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
