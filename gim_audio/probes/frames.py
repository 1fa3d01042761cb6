"""Labelled frames of a training set, kept once for all who learn from frames."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gim_audio.errors import DataError
from gim_audio.featurize import Encoder, Features
from gim_audio.kaldi import DataDir
from gim_audio.phones import LABEL_SECONDS, Alignment, frame_labels
from gim_audio.probes.evaluation import Evaluation, Subject

__all__ = ["Examples", "FrameSample", "Labelled", "Labels", "held_out", "phones_of"]

Labels = npt.NDArray[np.int64]

Labelled = tuple[DataDir, Mapping[str, Alignment]]
"""Utterances and their phones."""

HELD_OUT = 0.2
"""Share of the training speakers, or of a speaker's utterances, that is held out to choose the
penalty."""

TOLERANCE = 0.1
"""Seconds that labels may be longer than the audio: windows, and steps of 10 ms."""


@dataclass(frozen=True)
class Examples:
    """The frames that a probe is trained on.

    Attributes:
        features: The features of every module. Shape: each `(examples, channels)`.
        labels: The class of each example. Shape: `(examples,)`.
        starts: Index of the first example of each utterance.
        held_out: Examples that are left out while the penalty is chosen, and used afterwards; none
            where there is nothing to spare. Shape: `(examples,)`.
        judged: Features of every module and labels by which the penalty is chosen; None stands for
            the examples that are held out.
    """

    features: list[Features]
    labels: Labels
    starts: list[int]
    held_out: npt.NDArray[np.bool_]
    judged: tuple[list[Features], Labels] | None = None


def phones_of(encoder: Encoder, labelled: Labelled, name: str, frames: int, shift: int) -> Labels:
    """The phone of each frame of an utterance, -1 where there is none.

    Raises:
        DataError: Labels continue after the audio.
    """
    data, alignments = labelled
    if name not in alignments:
        return np.full(frames, -1)
    grid, alignment = encoder.geometries[-1], alignments[name]
    centre, hop = grid.centre / encoder.rate, grid.hop / encoder.rate
    end, heard = float(alignment.ends[-1]), frames * hop + grid.receptive_field / encoder.rate
    if end > heard + TOLERANCE:
        raise DataError(
            f"{data.path}: the phones of {name} end at {end:.2f} s, its audio at {heard:.2f} s:"
            " labels of other audio?"
        )
    return frame_labels(alignment, frames, centre=centre, hop=hop, shift=shift)


class FrameSample(Evaluation):
    """Receives the training set alone.

    It keeps its labelled frames, or of more than `most_frames` a random share.

    Args:
        subject: The features that are evaluated.
        train: utterances and their phones.
        shifts: The shifts of the labels, each in steps of 10 ms: see
            `gim_audio.phones.frame_labels`.
        most_frames: The most frames to keep.
        seed: The seed of the choice.
    """

    train: DataDir

    def __init__(
        self,
        subject: Subject,
        train: Labelled,
        *,
        shifts: Sequence[int],
        most_frames: int,
        seed: int,
    ) -> None:
        self.subject, self.labelled, self.shifts = subject, train, shifts
        self.most_frames, self.seed = most_frames, seed
        self.train, alignments = train
        known = [alignment for name, alignment in alignments.items() if name in self.train.speakers]
        seconds = sum(float(alignment.ends[-1] - alignment.starts[0]) for alignment in known)
        self._share = min(1.0, most_frames / max(1.0, seconds / LABEL_SECONDS))
        self._generator = np.random.default_rng(seed)
        self._parts: list[list[Features]] = []
        self._labels: list[npt.NDArray[np.int64]] = []
        self._names: list[str] = []
        self.features: list[Features] = []
        self.seen = dict.fromkeys(shifts, 0)

    def learn(self, name: str, features: list[Features]) -> None:
        """See `Evaluation`."""
        count = len(features[0])
        labels = np.stack(
            [phones_of(self.subject.encoder, self.labelled, name, count, s) for s in self.shifts]
        )
        for shift, known in zip(self.shifts, labels >= 0, strict=True):
            self.seen[shift] += int(known.sum())
        chosen = np.flatnonzero(
            (labels >= 0).any(axis=0) & (self._generator.random(count) < self._share)
        )
        self._parts.append([f[chosen] for f in features])
        self._labels.append(labels[:, chosen])
        self._names.append(name)

    def fit(self) -> None:
        """See `Evaluation`; one module after another, so that at most one is held twice."""
        for module in range(len(self.subject.modules)):
            self.features.append(np.concatenate([part[module] for part in self._parts]))
            for part in self._parts:
                part[module] = np.empty((0, 0), np.float32)
        self._parts = []

    def examples(self, shift: int) -> Examples:
        """Return the frames that have a label at a shift.

        Raises:
            DataError: there are none, or of one class only.
        """
        number = self.shifts.index(shift)
        labels = (
            np.concatenate([each[number] for each in self._labels])
            if self._labels
            else np.empty(0, np.int64)
        )
        lengths = [int((each[number] >= 0).sum()) for each in self._labels]
        labelled = [number for number, length in enumerate(lengths) if length]
        chosen = np.zeros(len(lengths), dtype=bool)
        chosen[labelled] = held_out(
            [self.train.speakers[self._names[number]] for number in labelled], self.seed
        )
        away = np.repeat(chosen, lengths)
        known = labels >= 0
        if len(np.unique(labels[known])) < 2:
            raise DataError(
                f"{self.train.path}: no labels, or of one class only: there is nothing to tell"
                " apart"
            )
        features = self.features if known.all() else [f[known] for f in self.features]
        starts = np.cumsum([0, *lengths])[:-1].tolist()
        return Examples(features, labels[known], starts, away)


def held_out(speakers: Sequence[str], seed: int) -> npt.NDArray[np.bool_]:
    """Return which utterances are held out.

    Those of a fifth of the speakers, or none where there is a single speaker.

    Shape: `(utterances,)`.
    """
    names = sorted(set(speakers))
    count = max(1, round(HELD_OUT * len(names))) if len(names) > 1 else 0
    chosen = {names[i] for i in np.random.default_rng((seed, 1)).permutation(len(names))[:count]}
    return np.array([speaker in chosen for speaker in speakers], dtype=bool)
