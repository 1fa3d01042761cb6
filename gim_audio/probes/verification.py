"""Speaker verification without training.

Is this the voice that was enrolled? By the cosine of mean features.
"""

import numpy as np
import numpy.typing as npt

from gim_audio.errors import DataError
from gim_audio.featurize import Features
from gim_audio.intervals import Statistic, Weights, estimate
from gim_audio.kaldi import DataDir
from gim_audio.probes.evaluation import Evaluation, Subject
from gim_audio.probes.tally import Result, figure

__all__ = ["VerificationProbe"]


class VerificationProbe(Evaluation):
    """Equal error rate of speaker verification.

    At its threshold as many true voices are refused as false ones are taken.

    A voice is the mean over a speaker's utterances in `train` of their mean features, less the mean
    over all of them; every test utterance is tried against every voice. The interval resamples the
    speakers who are enrolled and tested; one that is left out is left out as a test speaker and as
    a voice.

    Args:
        subject: The features that are evaluated.
        train: the enrolled speakers.
        test: utterances to try; of other speakers too.

    Raises:
        DataError: no test speaker is enrolled, or only one voice is.
    """

    train: DataDir
    test: DataDir

    def __init__(self, subject: Subject, train: DataDir, test: DataDir) -> None:
        self.subject, self.train, self.test = subject, train, test
        self._voices = sorted(set(train.speakers.values()))
        if len(self._voices) < 2:
            raise DataError(f"{train.path}: one speaker only: a false voice is needed too")
        if not set(self._voices) & set(test.speakers.values()):
            raise DataError(
                f"{test.path}: none of its speakers is in {train.path}: there is no true voice"
                " to try"
            )
        self._enrolled: list[list[Features]] = []
        self._tried: list[list[Features]] = []

    def learn(self, name: str, features: list[Features]) -> None:  # noqa: ARG002
        """See `Evaluation`."""
        self._enrolled.append([f.mean(axis=0) for f in features])

    def judge(self, name: str, features: list[Features]) -> None:  # noqa: ARG002
        """See `Evaluation`."""
        self._tried.append([f.mean(axis=0) for f in features])

    def results(self) -> list[Result]:
        """See `Evaluation`."""
        train, test, voices = self.train, self.test, self._voices
        enrolled = [np.stack(rows) for rows in zip(*self._enrolled, strict=True)]
        tried = [np.stack(rows) for rows in zip(*self._tried, strict=True)]
        owner = np.array([train.speakers[name] for name in train.utterances])
        speakers = sorted(set(voices) & set(test.speakers.values()))
        others = sorted({*voices, *test.speakers.values()} - set(speakers))
        number_of = {speaker: number for number, speaker in enumerate([*speakers, *others])}
        spoken = np.array([number_of[test.speakers[name]] for name in test.utterances])
        voiced = np.array([number_of[voice] for voice in voices])
        true = spoken[:, None] == voiced
        rows = []
        for number, module in enumerate(self.subject.modules):
            centre = enrolled[number].mean(axis=0)
            known = np.stack(
                [_unit(enrolled[number][owner == voice].mean(axis=0) - centre) for voice in voices]
            )
            scores = _unit(tried[number] - centre) @ known.T
            found = estimate(
                error_of(scores, spoken, voiced, len(speakers)), len(speakers), pairs=True
            )
            rows.append(
                {"module": module, "name": self.subject.names[number], **figure("eer", found)}
            )
        counts: dict[str, int | float] = {
            "voices": len(voices),
            "test_utterances": len(test.utterances),
            "true_trials": int(true.sum()),
            "false_trials": int((~true).sum()),
        }
        return [
            Result("verification", "cosine", rows, counts, {"stack": self.subject.stack}, speakers)
        ]


def error_of(
    scores: Features, spoken: npt.NDArray[np.int64], voiced: npt.NDArray[np.int64], speakers: int
) -> Statistic:
    """Return the equal error rate as a function of the pairs that count.

    A pair is a test speaker and a voice.

    Args:
        scores: The score of each test utterance with each voice. Shape: `(utterances, voices)`.
        spoken: The speaker of each utterance. Shape: `(utterances,)`.
        voiced: The speaker of each voice. Shape: `(voices,)`.
        speakers: The number of speakers with true trials. Those with higher numbers are not left
            out: their trials count where the other speaker does, and always among themselves.
    """
    rate = error_rate(scores, spoken[:, None] == voiced)
    others = 1 + max(spoken.max(), voiced.max()) - speakers

    def error(weights: Weights) -> float:
        every = np.ones((speakers + others, speakers + others))
        every[:speakers, :speakers] = weights
        every[:speakers, speakers:] = np.diag(weights)[:, None]
        every[speakers:, :speakers] = np.diag(weights)
        return rate(every[spoken[:, None], voiced])

    return error


def _unit(vectors: npt.NDArray[np.float32]) -> Features:
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    unit: Features = (vectors / np.where(norms > 0, norms, 1)).astype(np.float32)
    return unit


def error_rate(scores: Features, true: npt.NDArray[np.bool_]) -> Statistic:
    """Return the equal error rate as a function of the weights of trials.

    Scores are sorted once for all weights.

    It is where the shares of refused true and accepted false trials cross, between two thresholds
    if need be; NaN where no true or no false trial has a weight. Shape: scores, truth and weights
    alike.
    """
    order = np.argsort(-scores.ravel(), kind="stable")
    falling, right = scores.ravel()[order], true.ravel()[order]
    # Equal scores are accepted together.
    ends = np.append(np.flatnonzero(np.diff(falling)), len(falling) - 1)

    def error(weights: Weights) -> float:
        sorted_ = weights.ravel()[order]
        accepted, heard = (
            np.concatenate([[0.0], np.cumsum(sorted_ * which)[ends]]) for which in (~right, right)
        )
        if not accepted[-1] or not heard[-1]:
            return np.nan
        accepted, refused = accepted / accepted[-1], 1 - heard / heard[-1]
        after = int(np.argmax(accepted >= refused))
        before = max(0, after - 1)
        gap, next_gap = refused[before] - accepted[before], refused[after] - accepted[after]
        share = gap / (gap - next_gap) if gap != next_gap else 0.0
        return float(accepted[before] + share * (accepted[after] - accepted[before]))

    return error
