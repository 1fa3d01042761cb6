"""Right answers by speaker, and the result that is made of them."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gim_audio.featurize import BASELINES, Encoder
from gim_audio.files import write_text
from gim_audio.model.checkpoint import trained_steps
from gim_audio.provenance import provenance

__all__ = ["Result", "Tally", "bootstrap", "write_result"]


@dataclass(frozen=True)
class Result:
    """Accuracies of the modules, and what they were measured on."""

    task: str
    protocol: str
    modules: list[dict[str, Any]]
    counts: dict[str, int | float]
    settings: dict[str, int | float | str]


@dataclass
class Tally:
    """Right answers of each module by speaker, for the bootstrap."""

    right: dict[str, npt.NDArray[np.float64]] = field(default_factory=dict)
    total: dict[str, int] = field(default_factory=dict)

    def add(self, speaker: str, right: Sequence[int], total: int) -> None:
        """Count answers about one utterance; none are asked where it has no labels."""
        if not total:
            return
        self.right[speaker] = self.right.get(speaker, np.zeros(len(right))) + right
        self.total[speaker] = self.total.get(speaker, 0) + total

    def rows(
        self, modules: Sequence[int], names: Sequence[str], notes: Sequence[dict[str, Any]]
    ) -> list[dict[str, Any]]:
        """Accuracy of each module with a 95% interval, by bootstrap over speakers (1,000 samples, seed 0).

        One speaker has no interval: it is null.
        """
        right = np.stack(list(self.right.values()))
        total = np.array(list(self.total.values()), dtype=np.float64)
        chosen = np.random.default_rng(0).integers(len(total), size=(1000, len(total)))
        samples = right[chosen].sum(axis=1) / total[chosen].sum(axis=1)[:, None]
        low, high = np.percentile(samples, [2.5, 97.5], axis=0)
        accuracies = right.sum(axis=0) / total.sum()
        return [
            {
                "module": module,
                "name": names[module - 1],
                "accuracy": float(accuracies[number]),
                "interval": [float(low[number]), float(high[number])] if len(total) > 1 else None,
                **notes[number],
            }
            for number, module in enumerate(modules)
        ]


def bootstrap(
    counts: npt.NDArray[np.float64], statistic: Callable[[npt.NDArray[np.float64]], float], samples: int = 1000
) -> list[float] | None:
    """A 95% interval of a statistic of summed counts, by drawing speakers (seed 0); None for one speaker.

    A sample of speakers repeats some, which raises statistics such as mutual information by itself: the interval is
    moved by as much as the samples' mean lies beside the statistic.

    Shape: counts `(speakers, …)`; the statistic takes their sum over drawn speakers.
    """
    speakers = len(counts)
    if speakers < 2:
        return None
    drawn = np.random.default_rng(0).multinomial(speakers, np.full(speakers, 1 / speakers), size=samples)
    found = [statistic(np.tensordot(times, counts, axes=1)) for times in drawn.astype(np.float64)]
    beside = np.nanmean(found) - statistic(counts.sum(axis=0))
    low, high = np.nanpercentile(found, [2.5, 97.5]) - beside
    return [float(low), float(high)]


def write_result(
    path: Path,
    result: Result,
    experiment: str,
    encoder: Encoder,
    train: Path | None,
    test: Path,
    seconds: Mapping[str, float] | None = None,
) -> None:
    """Write a result as JSON, with what was probed, on which data, where, and how long it took."""
    record = {
        "experiment": experiment,
        "model": encoder.name,
        "precision": encoder.precision,
        "trained_steps": None if experiment in (*BASELINES, "random") else trained_steps(Path(experiment)),
        "train": str(train) if train else None,
        "test": str(test),
        "corpora": {str(data): fingerprint for data in (train, test) if data and (fingerprint := _fingerprint(data))},
        **asdict(result),
        "seconds": {name: round(value, 1) for name, value in (seconds or {}).items()},
        "provenance": provenance(),
    }
    write_text(path, json.dumps(record, indent=2) + "\n")


def _fingerprint(data: Path) -> str | None:
    """Of a packed corpus; another data directory has none."""
    file = data / "fingerprint"
    return file.read_text(encoding="utf-8").strip() if file.exists() else None
