"""Right answers by speaker, and the results of evaluations."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gim_audio.checkpoints.folders import trained_steps
from gim_audio.featurize import BASELINES, Encoder
from gim_audio.files import write_text
from gim_audio.intervals import Estimate, Statistic, Weights, estimate
from gim_audio.provenance import provenance

__all__ = ["Result", "Tally", "figure", "share_of", "write_result"]


@dataclass(frozen=True)
class Result:
    """The figures of one evaluation.

    Attributes:
        task: The name of the task, as `--tasks` has it.
        protocol: The name of the protocol.
        modules: A row for each module.
        counts: Sizes of the training and test sets.
        settings: Settings that change what a figure means.
        speakers: The test speakers whose figures `halves` are made of, sorted.
    """

    task: str
    protocol: str
    modules: list[dict[str, Any]]
    counts: dict[str, int | float]
    settings: dict[str, int | float | str]
    speakers: list[str] = field(default_factory=list)


@dataclass
class Tally:
    """Numbers of right answers of each module, by speaker."""

    right: dict[str, npt.NDArray[np.float64]] = field(default_factory=dict)
    total: dict[str, int] = field(default_factory=dict)

    def add(self, speaker: str, right: Sequence[int], total: int) -> None:
        """Count the answers about one utterance; an utterance without labels does not count."""
        if not total:
            return
        self.right[speaker] = self.right.get(speaker, np.zeros(len(right))) + right
        self.total[speaker] = self.total.get(speaker, 0) + total

    @property
    def speakers(self) -> list[str]:
        """The speakers with answers, sorted."""
        return sorted(self.total)

    def rows(
        self, modules: Sequence[int], names: Sequence[str], notes: Sequence[dict[str, Any]]
    ) -> list[dict[str, Any]]:
        """Return a row for each module.

        It has the accuracy with a 95% interval over speakers, and a note.
        """
        right = np.stack([self.right[speaker] for speaker in self.speakers])
        total = np.array([self.total[speaker] for speaker in self.speakers], dtype=np.float64)
        return [
            {
                "module": module,
                "name": names[module - 1],
                **figure("accuracy", estimate(share_of(right[:, number], total), len(total))),
                **notes[number],
            }
            for number, module in enumerate(modules)
        ]


def share_of(part: npt.NDArray[np.float64], total: npt.NDArray[np.float64]) -> Statistic:
    """Return the statistic Σ part / Σ total over speakers. Shape: each `(speakers,)`."""

    def share(weights: Weights) -> float:
        return float(weights @ part / (weights @ total))

    return share


def figure(name: str, found: Estimate) -> dict[str, Any]:
    """Return a figure as results keep it.

    The value by its name, the interval, and the values on halves.
    """
    kept = {name: found.value, "interval": found.interval, "halves": found.halves}
    if found.value != found.uncorrected:
        kept |= {f"{name}_uncorrected": found.uncorrected, "slack": found.slack}
    if found.pair_halves:
        kept["pair_halves"] = found.pair_halves
    return kept


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
        "trained_steps": (
            None if experiment in (*BASELINES, "random") else trained_steps(Path(experiment))
        ),
        "train": str(train) if train else None,
        "test": str(test),
        "corpora": _fingerprints([data for data in (train, test) if data], result.task),
        **asdict(result),
        "seconds": {name: round(value, 1) for name, value in (seconds or {}).items()},
        "provenance": provenance(),
    }
    write_text(path, json.dumps(record, indent=2) + "\n")


LABELLED = ("phones", "units", "per", "abx")
"""Tasks whose figures depend on `phones.ctm`."""


def _fingerprints(folders: Sequence[Path], task: str) -> dict[str, str]:
    """Return the fingerprints of the packed corpora and of the phones that a task used.

    A corpus' fingerprint covers its audio.
    """
    found = {}
    for folder in folders:
        if (file := folder / "fingerprint").exists():
            found[str(folder)] = file.read_text(encoding="utf-8").strip()
        if task in LABELLED and (file := folder / "phones.ctm").exists():
            found[str(file)] = hashlib.sha256(file.read_bytes()).hexdigest()
    return found
