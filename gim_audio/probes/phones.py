"""The phone probe: one decision a frame."""

from collections.abc import Sequence

import numpy as np

from gim_audio.errors import DataError
from gim_audio.featurize import Features
from gim_audio.kaldi import DataDir
from gim_audio.phones import PHONES
from gim_audio.probes.evaluation import Evaluation
from gim_audio.probes.frames import FrameSample, Labelled, phones_of
from gim_audio.probes.solvers import Classifier, Protocol, Published, fit, settings
from gim_audio.probes.tally import Result, Tally

__all__ = ["PhoneProbe"]

PUBLISHED = Published(learning_rate=1e-4, epochs=20, batch=None)
"""A batch is an utterance."""


class PhoneProbe(Evaluation):
    """Measure frame-wise phone accuracy of linear classifiers.

    There is a result for each protocol and each shift of the labels.

    Args:
        sample: The training frames.
        test: utterances and their phones.
        protocols: The protocols, as in `gim_audio.probes`.
    """

    train: DataDir
    test: DataDir

    def __init__(self, sample: FrameSample, test: Labelled, protocols: Sequence[Protocol]) -> None:
        self.sample, self.labelled, self.protocols = sample, test, protocols
        self.train, self.test = sample.train, test[0]
        self.asked = [(protocol, shift) for protocol in protocols for shift in sample.shifts]
        self.tallies = {key: Tally() for key in self.asked}
        self.majority = dict.fromkeys(sample.shifts, 0)
        self.confusion = {
            key: np.zeros((len(sample.subject.modules), len(PHONES), len(PHONES)), dtype=np.int64)
            for key in self.asked
        }

    def fit(self) -> None:
        """See `Evaluation`."""
        self.classifiers: dict[tuple[Protocol, int], list[Classifier]] = {}
        self.counts: dict[int, dict[str, int | float]] = {}
        self._majority_class: dict[int, int] = {}
        for shift in self.sample.shifts:
            examples = self.sample.examples(shift)
            self._majority_class[shift] = int(np.bincount(examples.labels).argmax())
            self.counts[shift] = {
                "classes": len(np.unique(examples.labels)),
                "train_utterances": len(self.train.utterances),
                "train_frames": len(examples.labels),
                "train_frames_labelled": self.sample.seen[shift],
                "train_speakers": len(set(self.train.speakers.values())),
            }
            for protocol in self.protocols:
                found = fit(protocol, examples, len(PHONES), PUBLISHED, self.sample.seed)
                self.classifiers[protocol, shift] = found

    def judge(self, name: str, features: list[Features]) -> None:
        """See `Evaluation`."""
        for shift in self.sample.shifts:
            labels = phones_of(
                self.sample.subject.encoder, self.labelled, name, len(features[0]), shift
            )
            known = labels >= 0
            self.majority[shift] += int((labels == self._majority_class[shift]).sum())
            for protocol in self.protocols:
                key, right = (protocol, shift), []
                for number, classifier in enumerate(self.classifiers[key]):
                    answers = classifier.predict(features[number][known])
                    np.add.at(self.confusion[key][number], (labels[known], answers), 1)
                    right.append(int((answers == labels[known]).sum()))
                self.tallies[key].add(self.test.speakers[name], right, int(known.sum()))

    def results(self) -> list[Result]:
        """See `Evaluation`.

        Raises:
            DataError: no frame of the test set has a label.
        """
        return [self._result(protocol, shift) for protocol, shift in self.asked]

    def _result(self, protocol: Protocol, shift: int) -> Result:
        tally, subject = self.tallies[protocol, shift], self.sample.subject
        total = sum(tally.total.values())
        if not total:
            raise DataError(f"{self.test.path}: no labelled frames to test on")
        notes = [c.note for c in self.classifiers[protocol, shift]]
        rows = tally.rows(subject.modules, subject.encoder.module_names, notes)
        for row, confusion in zip(rows, self.confusion[protocol, shift], strict=True):
            row["confusion"] = [" ".join(map(str, counts)) for counts in confusion.tolist()]
        return Result(
            task="phones",
            protocol=protocol,
            modules=rows,
            counts={
                **self.counts[shift],
                "test_utterances": len(self.test.utterances),
                "test_frames": total,
                "test_speakers": len(tally.total),
                "majority": self.majority[shift] / total,
            },
            settings={
                "shift": shift,
                "seed": self.sample.seed,
                "most_frames": self.sample.most_frames,
                "stack": subject.stack,
                **settings(protocol, PUBLISHED),
            },
            speakers=tally.speakers,
        )
