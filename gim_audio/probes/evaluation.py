"""One pass over the audio for all that is asked.

Each utterance is encoded once, and everybody listens.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from gim_audio.featurize import Encoder, Features, encode_at_one_rate, encoders_of, waveforms
from gim_audio.kaldi import DataDir
from gim_audio.probes.tally import Result

__all__ = ["Evaluation", "Pass", "Subject", "evaluate", "stacked"]


@dataclass(frozen=True)
class Subject:
    """Frozen features, and what of them is evaluated.

    Attributes:
        encoder: The encoder that makes them.
        modules: numbers, from 1.
        stack: The number of frames on either side that a frame is joined with.
    """

    encoder: Encoder
    modules: Sequence[int]
    stack: int = 0

    @property
    def names(self) -> list[str]:
        """The names of the modules."""
        return [self.encoder.module_names[module - 1] for module in self.modules]


@dataclass
class Pass:
    """The results of one pass over the audio.

    Attributes:
        results: The results of all evaluations.
        encoding: seconds that it took, by role of a set: `train`, `test`.
        seconds: The time that everything took.
    """

    results: list[Result] = field(default_factory=list)
    encoding: dict[str, float] = field(default_factory=lambda: {"train": 0.0, "test": 0.0})
    seconds: float = 0.0


class Evaluation:
    """Receives the utterances of a training set, then those of a test set.

    Features are those of the subject's modules at the last module's frame rate. Shape: each
    `(frames, channels)`.
    """

    train: DataDir | None = None
    """The training data; None where there is none."""
    test: DataDir | None = None

    def learn(self, name: str, features: list[Features]) -> None:
        """An utterance of the training set."""

    def fit(self) -> None:
        """End the training set."""

    def judge(self, name: str, features: list[Features]) -> None:
        """An utterance of the test set."""

    def results(self) -> list[Result]:
        """End the test set."""
        return []


def evaluate(
    subject: Subject,
    evaluations: Sequence[Evaluation],
    *,
    allow_pipes: bool = False,
    progress: Callable[[int], None] = lambda done: None,
) -> Pass:
    """Results of all evaluations, from one encoding of each set that they name.

    Nothing is kept of an utterance but what evaluations keep.

    Args:
        subject: The features that are evaluated.
        evaluations: The evaluations; sets that are the same object are encoded once.
        allow_pipes: run the commands in `wav.scp`.
        progress: called with the number of utterances encoded.

    Raises:
        DataError: audio cannot be decoded, or cannot be evaluated.
    """
    found, started, done = Pass(), time.perf_counter(), 0
    learning = [(evaluation.train, evaluation.learn) for evaluation in evaluations]
    judging = [(evaluation.test, evaluation.judge) for evaluation in evaluations]
    for role, asked in (("train", learning), ("test", judging)):
        for data in {id(data): data for data, _ in asked if data is not None}.values():
            listeners = [hear for wanted, hear in asked if wanted is data]
            encoders = encoders_of(subject.encoder, data, allow_pipes=allow_pipes)
            for name, waveform in waveforms(data, subject.encoder, allow_pipes=allow_pipes):
                before = time.perf_counter()
                features = encode_at_one_rate(encoders(name), waveform, subject.modules)
                found.encoding[role] += time.perf_counter() - before
                if subject.stack:
                    features = [stacked(f, subject.stack) for f in features]
                for listener in listeners:
                    listener(name, features)
                done += 1
                progress(done)
        if role == "train":
            for evaluation in evaluations:
                evaluation.fit()
    found.results = [result for evaluation in evaluations for result in evaluation.results()]
    found.seconds = time.perf_counter() - started
    return found


def stacked(features: Features, around: int) -> Features:
    """Each frame with its neighbours; beyond the ends, the outermost frame again.

    Shape: `(frames, channels)` → `(frames, (2 around + 1) channels)`, the earliest first.
    """
    padded = np.pad(features, ((around, around), (0, 0)), mode="edge")
    return np.concatenate(
        [padded[first : first + len(features)] for first in range(2 * around + 1)], axis=1
    )
