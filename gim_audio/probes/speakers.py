"""The speaker probe: one decision an utterance."""

from collections.abc import Sequence

import numpy as np

from gim_audio.errors import DataError
from gim_audio.featurize import Features
from gim_audio.kaldi import DataDir, speakers_to_utterances
from gim_audio.probes.evaluation import Evaluation, Subject
from gim_audio.probes.frames import HELD_OUT, Examples
from gim_audio.probes.solvers import Protocol, Published, fit, settings
from gim_audio.probes.tally import Result, Tally

__all__ = ["SpeakerProbe"]

PUBLISHED = Published(learning_rate=1e-3, epochs=5, batch=64)
"""Five epochs of ten windows: as many updates as the published 50 of one crop."""

WINDOW = 128
"""Frames that a speaker is recognised by while training: one crop of 20480 samples."""

WINDOWS = 10
"""Random windows of each training utterance."""


class SpeakerProbe(Evaluation):
    """Speaker accuracy of linear classifiers on mean features, for each protocol.

    Training examples are means over ten random windows of each utterance (128 frames; of the whole
    utterance where it is shorter). Under `ref` a test utterance is one such window. Under `strict`
    it is its mean, and so is what chooses the penalty: a fifth of each speaker's utterances, held
    out whole. A speaker with a single utterance has its last fifth held out instead, from which two
    of the ten windows come.

    Args:
        subject: The features to evaluate.
        train: The training utterances.
        test: Utterances of the same speakers.
        protocols: The protocols: see `gim_audio.probes`.
        seed: Seed of the windows, of the utterances that are held out, and of `ref`'s
            initialisation and order.

    Raises:
        DataError: A test speaker is not in training, or there is only one.
    """

    train: DataDir
    test: DataDir

    def __init__(
        self,
        subject: Subject,
        train: DataDir,
        test: DataDir,
        *,
        protocols: Sequence[Protocol],
        seed: int,
    ) -> None:
        self.subject, self.train, self.test, self.protocols, self.seed = (
            subject,
            train,
            test,
            protocols,
            seed,
        )
        self.names = sorted(set(train.speakers.values()))
        self._classes = {speaker: number for number, speaker in enumerate(self.names)}
        if strangers := sorted(set(test.speakers.values()) - set(self.names)):
            raise DataError(
                f"{test.path}: speaker {strangers[0]} ({len(strangers)} in all) is not in"
                f" {train.path}: the speaker probe needs the same speakers in both (`gim-audio data"
                " split --by utterances` or `--by time`)"
            )
        if len(self.names) < 2:
            raise DataError(
                f"{train.path}: no labels, or of one class only: there is nothing to tell apart"
            )
        self._generators = {protocol: np.random.default_rng(seed) for protocol in protocols}
        self._windows: dict[Protocol, list[list[Features]]] = {
            protocol: [] for protocol in protocols
        }
        self._lonely = {
            s
            for s, names in speakers_to_utterances(train.speakers).items()
            if len(names.split()) == 1
        }
        self._held_out = some_of_each_speaker(train, seed)
        self._judged: list[list[Features]] = []
        self._judged_speakers: list[int] = []
        self._away: list[list[bool]] = []
        self._speakers: list[int] = []
        self.tallies = {protocol: Tally() for protocol in protocols}

    def learn(self, name: str, features: list[Features]) -> None:
        """See `Evaluation`."""
        frames, speaker = len(features[0]), self.train.speakers[name]
        number = self._classes[speaker]
        for protocol, generator in self._generators.items():
            spans = [(0, frames)] * WINDOWS
            if protocol == "strict":
                late, last = 0, slice(None)
                if speaker in self._lonely:
                    middle = max(1, frames - max(1, round(HELD_OUT * frames)))
                    late, last = round(HELD_OUT * WINDOWS), slice(min(middle, frames - 1), frames)
                    spans = [(0, middle)] * (WINDOWS - late) + [(last.start, frames)] * late
                whole = name in self._held_out
                self._away.append([whole] * (WINDOWS - late) + [True] * late)
                if whole or late:
                    self._judged.append([f[last].mean(axis=0) for f in features])
                    self._judged_speakers.append(number)
            windows = [_window(start, stop, generator) for start, stop in spans]
            self._windows[protocol].append(
                [np.stack([f[w].mean(axis=0) for w in windows]) for f in features]
            )
        self._speakers.append(number)

    def fit(self) -> None:
        """See `Evaluation`."""
        labels = np.repeat(np.array(self._speakers, dtype=np.int64), WINDOWS)
        self._most_frequent = int(np.bincount(labels).argmax())
        starts = list(range(0, len(labels), WINDOWS))
        self.classifiers = {}
        for protocol, parts in self._windows.items():
            features = [np.concatenate(module) for module in zip(*parts, strict=True)]
            if protocol == "strict":
                judged = [np.stack(module) for module in zip(*self._judged, strict=True)]
                examples = Examples(
                    features,
                    labels,
                    starts,
                    np.concatenate(self._away),
                    (judged, np.array(self._judged_speakers)),
                )
            else:
                examples = Examples(features, labels, starts, np.zeros(len(labels), dtype=bool))
            self.classifiers[protocol] = fit(
                protocol, examples, len(self.names), PUBLISHED, self.seed
            )
        self._windows = {}

    def judge(self, name: str, features: list[Features]) -> None:
        """See `Evaluation`."""
        speaker = self.test.speakers[name]
        for protocol, classifiers in self.classifiers.items():
            whole = slice(None)
            window = (
                _window(0, len(features[0]), self._generators[protocol])
                if protocol == "ref"
                else whole
            )
            right = [
                int(
                    classifier.predict(f[window].mean(axis=0, keepdims=True))[0]
                    == self._classes[speaker]
                )
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
        majority = sum(
            self._classes[speaker] == self._most_frequent for speaker in self.test.speakers.values()
        )
        notes = [c.note for c in self.classifiers[protocol]]
        return Result(
            task="speakers",
            protocol=protocol,
            modules=self.tallies[protocol].rows(
                self.subject.modules, self.subject.encoder.module_names, notes
            ),
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
            speakers=self.tallies[protocol].speakers,
        )


def some_of_each_speaker(data: DataDir, seed: int) -> set[str]:
    """Return a fifth of the utterances of each speaker, at least one.

    Speakers with one utterance have none.
    """
    generator = np.random.default_rng((seed, 1))
    found: set[str] = set()
    for _, joined in sorted(speakers_to_utterances(data.speakers).items()):
        names = joined.split()
        if len(names) > 1:
            found.update(
                generator.permutation(names)[: max(1, round(HELD_OUT * len(names)))].tolist()
            )
    return found


def _window(start: int, stop: int, generator: np.random.Generator) -> slice:
    """Return a window at random inside a part of the utterance; the part, where that is shorter."""
    first = start + int(generator.integers(max(1, stop - start - WINDOW + 1)))
    return slice(first, min(stop, first + WINDOW))
