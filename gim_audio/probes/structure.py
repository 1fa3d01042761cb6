"""Evaluations without labels: the likeness of modules, and the slowness of features."""

import numpy as np
import numpy.typing as npt

from gim_audio.featurize import Features
from gim_audio.kaldi import DataDir
from gim_audio.probes.evaluation import Evaluation, Subject
from gim_audio.probes.tally import Result

__all__ = ["AlikenessProbe", "SlownessProbe", "linear_cka"]

LAGS = (1, 2, 5, 10, 20, 50)
"""Frames of the last module: 10 to 500 ms for the published encoder."""

EVERY = 10
"""The step between frames of a test utterance that tell how alike modules are: neighbours repeat
each other."""


class AlikenessProbe(Evaluation):
    """Measure linear centred kernel alignment of every two modules (Kornblith et al. 2019).

    Frames are those of the test set.
    """

    test: DataDir

    def __init__(self, subject: Subject, test: DataDir) -> None:
        self.subject, self.test = subject, test
        self._kept: list[list[Features]] = []

    def judge(self, name: str, features: list[Features]) -> None:  # noqa: ARG002
        """See `Evaluation`."""
        self._kept.append([f[::EVERY].copy() for f in features])

    def results(self) -> list[Result]:
        """See `Evaluation`."""
        modules = [np.concatenate(each) for each in zip(*self._kept, strict=True)]
        rows = [
            {"module": number, "name": name, "cka": [linear_cka(x, y) for y in modules]}
            for number, name, x in zip(
                self.subject.modules, self.subject.names, modules, strict=True
            )
        ]
        counts: dict[str, int | float] = {"test_frames": len(modules[0])}
        return [
            Result("cka", "linear", rows, counts, {"every": EVERY, "stack": self.subject.stack})
        ]


class SlownessProbe(Evaluation):
    """Autocorrelation of features over time, on the test set.

    1 is what stands still, 0 what forgets at once.

    At each lag, covariance of a channel with itself that many frames later, summed over the
    channels, over the sum of their variances: directions count by how much they vary.
    """

    test: DataDir

    def __init__(self, subject: Subject, test: DataDir) -> None:
        self.subject, self.test = subject, test
        places = len(LAGS) * len(subject.modules)
        self._sums: list[list[npt.NDArray[np.float64]]] = [
            [np.zeros(())] * 6 for _ in range(places)
        ]

    def judge(self, name: str, features: list[Features]) -> None:  # noqa: ARG002
        """See `Evaluation`."""
        for number, f in enumerate(features):
            x = f.astype(np.float64)
            for place, lag in enumerate(LAGS):
                a, b = x[:-lag], x[lag:]
                sums = self._sums[number * len(LAGS) + place]
                parts = (
                    np.float64(len(a)),
                    a.sum(0),
                    b.sum(0),
                    (a * b).sum(0),
                    (a * a).sum(0),
                    (b * b).sum(0),
                )
                sums[:] = [before + now for before, now in zip(sums, parts, strict=True)]

    def results(self) -> list[Result]:
        """See `Evaluation`."""
        rows = []
        for number, (module, name) in enumerate(
            zip(self.subject.modules, self.subject.names, strict=True)
        ):
            sums = self._sums[number * len(LAGS) : (number + 1) * len(LAGS)]
            rows.append(
                {
                    "module": module,
                    "name": name,
                    "autocorrelation": [_correlation(*each) for each in sums],
                }
            )
        settings: dict[str, int | float | str] = {
            "lags": " ".join(map(str, LAGS)),
            "stack": self.subject.stack,
        }
        return [
            Result(
                "slowness",
                "autocorrelation",
                rows,
                {"test_utterances": len(self.test.utterances)},
                settings,
            )
        ]


def _correlation(
    count: npt.NDArray[np.float64],
    a: npt.NDArray[np.float64],
    b: npt.NDArray[np.float64],
    ab: npt.NDArray[np.float64],
    aa: npt.NDArray[np.float64],
    bb: npt.NDArray[np.float64],
) -> float | None:
    """Compute it from sums; None where nothing varies."""
    if not count:
        return None
    shared = float((ab - a * b / count).sum())
    first, second = float((aa - a * a / count).sum()), float((bb - b * b / count).sum())
    return shared / float(np.sqrt(first * second)) if first * second > 0 else None


def linear_cka(x: Features, y: Features) -> float:
    """|Yᵀ X|² / (|Xᵀ X| |Yᵀ Y|) of centred features, in Frobenius norms.

    Shape: `(frames, channels)`, another width.
    """
    x, y = (f - f.mean(axis=0, dtype=np.float64).astype(np.float32) for f in (x, y))
    norms = np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)
    return float(np.linalg.norm(y.T @ x) ** 2 / norms) if norms else 0.0
