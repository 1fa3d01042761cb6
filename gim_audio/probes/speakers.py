"""The speaker probe: one decision an utterance."""

from collections.abc import Sequence

import numpy as np

from gim_audio.errors import DataError
from gim_audio.featurize import Features
from gim_audio.kaldi import DataDir
from gim_audio.probes.evaluation import Evaluation, Subject
from gim_audio.probes.frames import HELD_OUT, Examples
from gim_audio.probes.solvers import Protocol, Published, fit, settings
from gim_audio.probes.tally import Result, Tally

__all__ = ["SpeakerProbe"]

PUBLISHED = Published(learning_rate=1e-3, epochs=5, batch=64)
"""Five epochs of ten windows: as many updates as the published 50 of one crop."""

WINDOW = 128
"""Frames that a speaker is told from while training: one crop of 20480 samples."""

WINDOWS = 10
"""Random windows of each training utterance."""


class SpeakerProbe(Evaluation):
    """Speaker accuracy of linear classifiers on mean features, for each protocol.

    Training examples are means over ten random windows of each utterance (128 frames; of the whole utterance where it
    is shorter). Under `ref` they lie anywhere, and a test utterance is one such window. Under `strict` eight lie in the
    first four fifths and two in the last, which choose the penalty, and a test utterance is its mean.

    Args:
        subject: what is evaluated.
        train: utterances.
        test: utterances of the same speakers.
        protocols: see `gim_audio.probes`.
        seed: of the windows, and of `ref`'s initialisation and order.

    Raises:
        DataError: a test speaker is not in training, or there is only one.
    """

    train: DataDir
    test: DataDir

    def __init__(
        self, subject: Subject, train: DataDir, test: DataDir, *, protocols: Sequence[Protocol], seed: int
    ) -> None:
        self.subject, self.train, self.test, self.protocols, self.seed = subject, train, test, protocols, seed
        self.names = sorted(set(train.speakers.values()))
        self._classes = {speaker: number for number, speaker in enumerate(self.names)}
        if strangers := sorted(set(test.speakers.values()) - set(self.names)):
            raise DataError(
                f"{test.path}: speaker {strangers[0]} ({len(strangers)} in all) is not in {train.path}: the speaker "
                "probe needs the same speakers in both (`gim-audio data split --by utterances` or `--by time`)"
            )
        if len(self.names) < 2:
            raise DataError(f"{train.path}: no labels, or of one class only: there is nothing to tell apart")
        self._generators = {protocol: np.random.default_rng(seed) for protocol in protocols}
        self._windows: dict[Protocol, list[list[Features]]] = {protocol: [] for protocol in protocols}
        self._speakers: list[int] = []
        self.tallies = {protocol: Tally() for protocol in protocols}

    def learn(self, name: str, features: list[Features]) -> None:
        """See `Evaluation`."""
        frames, chosen = len(features[0]), round(HELD_OUT * WINDOWS)
        for protocol, generator in self._generators.items():
            if protocol == "ref":
                windows = [_window(0, frames, generator) for _ in range(WINDOWS)]
            else:
                middle = max(1, frames - max(1, round(HELD_OUT * frames)))
                windows = [_window(0, middle, generator) for _ in range(WINDOWS - chosen)]
                windows += [_window(min(middle, frames - 1), frames, generator) for _ in range(chosen)]
            self._windows[protocol].append([np.stack([f[w].mean(axis=0) for w in windows]) for f in features])
        self._speakers.append(self._classes[self.train.speakers[name]])

    def fit(self) -> None:
        """See `Evaluation`."""
        labels = np.repeat(np.array(self._speakers, dtype=np.int64), WINDOWS)
        self._most_frequent = int(np.bincount(labels).argmax())
        last = np.arange(WINDOWS) >= WINDOWS - round(HELD_OUT * WINDOWS)
        starts = list(range(0, len(labels), WINDOWS))
        self.classifiers = {}
        for protocol in self.protocols:
            features = [np.concatenate(each) for each in zip(*self._windows[protocol], strict=True)]
            examples = Examples(features, labels, starts, np.tile(last, len(starts)))
            self.classifiers[protocol] = fit(protocol, examples, len(self.names), PUBLISHED, self.seed)
        self._windows = {}

    def judge(self, name: str, features: list[Features]) -> None:
        """See `Evaluation`."""
        speaker = self.test.speakers[name]
        for protocol, classifiers in self.classifiers.items():
            whole = slice(None)
            window = _window(0, len(features[0]), self._generators[protocol]) if protocol == "ref" else whole
            right = [
                int(classifier.predict(f[window].mean(axis=0, keepdims=True))[0] == self._classes[speaker])
                for classifier, f in zip(classifiers, features, strict=True)
            ]
            self.tallies[protocol].add(speaker, right, 1)

    def results(self) -> list[Result]:
        """See `Evaluation`.

        Raises:
            DataError: the test set is empty.
        """
        return [self._result(protocol) for protocol in self.protocols]

    def _result(self, protocol: Protocol) -> Result:
        if not self.tallies[protocol].total:
            raise DataError(f"{self.test.path}: no utterances to test on")
        majority = sum(self._classes[speaker] == self._most_frequent for speaker in self.test.speakers.values())
        notes = [c.note for c in self.classifiers[protocol]]
        return Result(
            task="speakers",
            protocol=protocol,
            modules=self.tallies[protocol].rows(self.subject.modules, self.subject.encoder.modules, notes),
            counts={
                "classes": len(self.names),
                "train_utterances": len(self.train.utterances),
                "train_windows": WINDOWS * len(self._speakers),
                "test_utterances": len(self.test.utterances),
                "majority": majority / len(self.test.utterances),
            },
            settings={
                "seed": self.seed,
                "window": WINDOW,
                "windows": WINDOWS,
                "stack": self.subject.stack,
                **settings(protocol, PUBLISHED),
            },
        )


def _window(start: int, stop: int, generator: np.random.Generator) -> slice:
    """At random, inside a part of the utterance; the part, where that is shorter."""
    first = start + int(generator.integers(max(1, stop - start - WINDOW + 1)))
    return slice(first, min(stop, first + WINDOW))
