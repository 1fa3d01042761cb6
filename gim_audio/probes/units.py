"""Discrete units: k-means clusters of frames, and what they say about phones.

They are HuBERT's (Hsu et al. 2021).
"""

from functools import partial

import numpy as np
import numpy.typing as npt

from gim_audio.errors import DataError
from gim_audio.featurize import Features
from gim_audio.intervals import Weights, estimate
from gim_audio.kaldi import DataDir
from gim_audio.phones import PHONES
from gim_audio.probes.evaluation import Evaluation
from gim_audio.probes.frames import FrameSample, Labelled, phones_of
from gim_audio.probes.tally import Result, figure

__all__ = ["UnitProbe"]


class UnitProbe(Evaluation):
    """Clusters of training frames, compared with the phones of test frames.

    Of each module: `pnmi`, the share of the phones' entropy that a frame's unit takes away (mutual
    information over H(phone)); `phone_purity`, how often a frame has the commonest phone of its
    unit; `cluster_purity`, how often it has the commonest unit of its phone. `pnmi` and its
    interval over speakers are corrected for the bias of mutual information that is computed from
    counts, which a test set of some minutes raises by several points; `pnmi_uncorrected` is the
    plug-in value that the literature gives for hours of speech.

    Args:
        sample: The frames that are clustered; its first shift counts.
        test: utterances and their phones.
        units: The number of clusters.
    """

    train: DataDir
    test: DataDir

    def __init__(self, sample: FrameSample, test: Labelled, units: int) -> None:
        self.sample, self.labelled, self.units, self.shift = sample, test, units, sample.shifts[0]
        self.train, self.test = sample.train, test[0]
        self._speakers = sorted(set(self.test.speakers.values()))
        self._counts = np.zeros(
            (len(sample.subject.modules), len(self._speakers), units, len(PHONES))
        )

    def fit(self) -> None:
        """See `Evaluation`.

        Raises:
            DataError: there are fewer labelled frames than units.
        """
        from sklearn.cluster import MiniBatchKMeans

        examples = self.sample.examples(self.shift)
        self._frames = len(examples.labels)
        if self._frames < self.units:
            raise DataError(
                f"{self.train.path}: {self._frames} labelled frames are too few for {self.units}"
                " units"
            )
        self._clusters = [
            MiniBatchKMeans(
                self.units, batch_size=4096, n_init=3, random_state=self.sample.seed
            ).fit(features)
            for features in examples.features
        ]

    def judge(self, name: str, features: list[Features]) -> None:
        """See `Evaluation`."""
        labels = phones_of(
            self.sample.subject.encoder, self.labelled, name, len(features[0]), self.shift
        )
        known, speaker = labels >= 0, self._speakers.index(self.test.speakers[name])
        for number, cluster in enumerate(self._clusters):
            if known.any():
                np.add.at(
                    self._counts[number, speaker],
                    (cluster.predict(features[number][known]), labels[known]),
                    1,
                )

    def results(self) -> list[Result]:
        """See `Evaluation`.

        Raises:
            DataError: no frame of the test set has a label.
        """
        if not self._counts.any():
            raise DataError(f"{self.test.path}: no labelled frames to test on")
        spoke = self._counts.any(axis=(0, 2, 3))  # speakers without labels say nothing
        counts, speakers = self._counts[:, spoke], np.array(self._speakers)[spoke].tolist()
        subject, sample, rows = self.sample.subject, self.sample, []
        for number, module in enumerate(subject.modules):
            table, total = counts[number].sum(axis=0), counts[number].sum()
            found = estimate(partial(pnmi_of, counts[number]), len(speakers), biased=True)
            rows.append(
                {
                    "module": module,
                    "name": subject.names[number],
                    **figure("pnmi", found),
                    "phone_purity": float(table.max(axis=1).sum() / total),
                    "cluster_purity": float(table.max(axis=0).sum() / total),
                }
            )
        return [
            Result(
                task="units",
                protocol="k-means",
                modules=rows,
                counts={
                    "train_frames": self._frames,
                    "test_frames": int(counts[0].sum()),
                    "test_speakers": counts.shape[1],
                },
                settings={
                    "units": self.units,
                    "shift": self.shift,
                    "seed": sample.seed,
                    "most_frames": sample.most_frames,
                    "stack": subject.stack,
                },
                speakers=speakers,
            )
        ]


def pnmi_of(counts: npt.NDArray[np.float64], weights: Weights) -> float:
    """Return PNMI of some speakers. Shape: counts `(speakers, units, phones)`."""
    return pnmi(np.tensordot(weights, counts, axes=1))


def pnmi(table: npt.NDArray[np.float64]) -> float:
    """I(unit; phone) / H(phone) of counts. Shape: `(units, phones)`."""
    from scipy.stats import entropy

    phones = entropy(table.sum(axis=0))
    return (
        float((phones + entropy(table.sum(axis=1)) - entropy(table.ravel())) / phones)
        if phones
        else 0.0
    )
