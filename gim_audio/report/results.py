"""What experiments left behind: configuration, metrics, and the results of probes."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gim_audio.errors import DataError

__all__ = ["Experiment", "Probe", "read_experiment"]


SETTINGS = ("shift", "units", "items", "most", "most_speakers", "most_utterances")
"""That change what a figure means."""


@dataclass(frozen=True)
class Probe:
    """One file of results.

    Attributes:
        task: phones, speakers, units, verification or abx.
        kind: trained, random, or a baseline's name.
        record: everything that the probe wrote.
    """

    task: str
    kind: str
    record: dict[str, Any]

    @property
    def modules(self) -> list[dict[str, Any]]:
        """Number, name and figures of each module."""
        modules: list[dict[str, Any]] = self.record["modules"]
        return modules

    @property
    def setup(self) -> tuple[Any, ...]:
        """Protocol, data and such settings as the label shift: what must agree where two results are compared."""
        record = self.record
        settings = (record["settings"].get(key) for key in SETTINGS)
        return record["protocol"], record["train"], record["test"], *settings

    @property
    def best(self) -> dict[str, Any]:
        """The module with the highest accuracy."""
        return max(self.modules, key=lambda row: float(row["accuracy"]))


@dataclass(frozen=True)
class Experiment:
    """A folder that `train` made, and the probes' results in its `results/`."""

    path: Path
    config: str
    metrics: list[dict[str, Any]]
    probes: list[Probe]
    starts: list[dict[str, Any]]

    def probe(self, task: str, kind: str) -> Probe | None:
        """The result for the longest training, or what was measured in the same way: random weights, a baseline."""
        trained = [probe for probe in self.probes if (probe.task, probe.kind) == (task, "trained")]
        if not trained:
            return None
        longest = max(trained, key=lambda probe: (probe.record["trained_steps"], probe.record["protocol"]))
        if kind == "trained":
            return longest
        return next((p for p in self.probes if (p.task, p.kind) == (task, kind) and p.setup == longest.setup), None)


def read_experiment(path: Path) -> Experiment:
    """Read an experiment's folder.

    Raises:
        DataError: it is none, or a file in it is damaged.
    """
    if not (path / "metrics.jsonl").exists():
        raise DataError(f"{path}: no metrics.jsonl: is it an experiment that `gim-audio train` made?")
    try:
        lines = (path / "metrics.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        metrics = [json.loads(line) for line in lines if line.endswith("\n")]  # a killed run may leave half a line
        records = [json.loads(file.read_text(encoding="utf-8")) for file in sorted((path / "results").glob("*.json"))]
        probes = [Probe(record["task"], _kind(record), record) for record in records]
        starts = json.loads((path / "provenance.json").read_text(encoding="utf-8"))
    except (json.JSONDecodeError, KeyError) as error:
        raise DataError(f"{path}: damaged results ({error}): remove the file and probe again") from error
    return Experiment(path, (path / "config.yaml").read_text(encoding="utf-8"), metrics, probes, starts)


def _kind(record: dict[str, Any]) -> str:
    if record["trained_steps"] is None:
        return str(record["model"]).split()[0]
    return "trained" if record["trained_steps"] else "random"
