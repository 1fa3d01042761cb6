"""What a probe learns from: features and labels of all utterances."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gim_audio.errors import DataError
from gim_audio.featurize import Encoder, Features, encode_at_one_rate, waveforms
from gim_audio.kaldi import DataDir
from gim_audio.phones import LABEL_SECONDS, Alignment, frame_labels

__all__ = ["Examples", "Labelled", "Labels", "join", "phone_frames", "some_phone_frames"]

Labels = npt.NDArray[np.int64]


Labelled = tuple[DataDir, Mapping[str, Alignment]]
"""Utterances and their phones."""


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


def phone_frames(
    encoder: Encoder, labelled: Labelled, modules: Sequence[int], *, shift: int, allow_pipes: bool
) -> Iterator[tuple[str, list[Features], Labels]]:
    """Name, frames and phones of each utterance; -1 is a frame without a label."""
    data, alignments = labelled
    grid = encoder.geometries[-1]
    for name, waveform in waveforms(data, encoder, allow_pipes=allow_pipes):
        features = encode_at_one_rate(encoder, waveform, modules)
        labels = np.full(len(features[0]), -1)
        if name in alignments:
            centre, hop = grid.centre / encoder.rate, grid.hop / encoder.rate
            labels = frame_labels(alignments[name], len(labels), centre=centre, hop=hop, shift=shift)
        yield name, features, labels


def some_phone_frames(
    encoder: Encoder,
    labelled: Labelled,
    modules: Sequence[int],
    *,
    shift: int,
    most_frames: int,
    seed: int,
    allow_pipes: bool,
    progress: Callable[[int], None],
) -> tuple[Examples, int]:
    """The labelled frames of a training set, or a random share of them; and how many there are in all."""
    data, alignments = labelled
    seconds = sum(float(a.ends[-1] - a.starts[0]) for name, a in alignments.items() if name in data.speakers)
    keep = min(1.0, most_frames / max(1.0, seconds / LABEL_SECONDS))
    generator = np.random.default_rng(seed)
    parts: list[tuple[list[Features], Labels]] = []
    seen = 0
    frames = phone_frames(encoder, labelled, modules, shift=shift, allow_pipes=allow_pipes)
    for done, (_, features, labels) in enumerate(frames, start=1):
        seen += int((labels >= 0).sum())
        chosen = np.flatnonzero((labels >= 0) & (generator.random(len(labels)) < keep))
        parts.append(([f[chosen] for f in features], labels[chosen]))
        progress(done)
    return join(parts, str(data.path)), seen
