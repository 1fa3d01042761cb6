"""The files of experiments: configuration, metrics, and the results of probes."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gim_audio.config import read_yaml
from gim_audio.errors import DataError
from gim_audio.featurize import BASELINES
from gim_audio.files import read_text
from gim_audio.report.records import read_metrics, read_result, read_starts

__all__ = ["Experiment", "Probe", "read_experiments"]


OWN = ("trained", "random")
"""Kinds of results that belong to one experiment."""

SETTINGS = (
    *("shift", "units", "items", "most", "most_speakers", "most_utterances"),
    *("most_frames", "penalties", "tolerance", "variance_floor", "shrinkage"),
)
"""The settings that change what a figure means."""


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
        """Protocol, data, labels and such settings as their shift.

        What must agree where two results are compared.
        """
        record = self.record
        settings = (record["settings"].get(key) for key in SETTINGS)
        corpora = tuple(sorted((record.get("corpora") or {}).items()))
        return record["protocol"], record["train"], record["test"], corpora, *settings

    @property
    def chosen(self) -> dict[str, Any]:
        """The module that stands for all.

        The best on training data that was held out, or else the last one.

        The test set chooses nothing.
        """
        if all("held_out" in row for row in self.modules):
            return max(self.modules, key=lambda row: float(row["held_out"]))
        return self.modules[-1]

    @property
    def tested(self) -> bool:
        """True where it holds what a paired test needs: results of older versions do not."""
        return "speakers" in self.record

    @property
    def speakers(self) -> list[str]:
        """The test speakers, sorted."""
        speakers: list[str] = self.record["speakers"]
        return speakers


@dataclass(frozen=True)
class Experiment:
    """A folder that `train` made, and what evaluations left in its `results/`.

    It may hold results alone.

    Attributes:
        path: The folder.
        config: The configuration as YAML; empty where nothing was trained.
        metrics: a row a step.
        probes: results of its own.
        starts: The commands that began and resumed the training.
        baselines: results of features that are computed, of other folders of the report.
    """

    path: Path
    config: str
    metrics: list[dict[str, Any]]
    probes: list[Probe]
    starts: list[dict[str, Any]]
    baselines: list[Probe] = field(default_factory=list)

    @property
    def shown(self) -> bool:
        """True where it has a model: one that was trained here, or whose results are here.

        Not baselines alone.
        """
        return bool(self.config) or any(probe.kind == "trained" for probe in self.probes)

    def trained(self, task: str, protocol: str | None = None) -> list[Probe]:
        """Results for the trained model that look at most of its modules, by length of training."""
        found = [
            probe
            for probe in self.probes
            if (probe.task, probe.kind) == (task, "trained")
            and protocol in {None, probe.record["protocol"]}
        ]
        most = max((len(probe.modules) for probe in found), default=0)
        whole = [probe for probe in found if len(probe.modules) == most]
        return sorted(
            whole, key=lambda probe: (probe.record["trained_steps"] or 0, probe.record["protocol"])
        )

    def probe(self, task: str, kind: str, protocol: str | None = None) -> Probe | None:
        """The result for the longest training, or what was measured in the same way.

        Random weights, a baseline.
        """
        trained = self.trained(task, protocol)
        if kind == "trained" or not trained:
            return trained[-1] if trained and kind == "trained" else None
        same = (
            p
            for p in (*self.probes, *self.baselines)
            if (p.task, p.kind) == (task, kind) and p.setup == trained[-1].setup
        )
        return next(same, None)


def read_experiments(paths: Sequence[Path]) -> list[Experiment]:
    """Read folders; each knows the baselines of all.

    Raises:
        DataError: one is no experiment, or a file in it is damaged.
    """
    found = [_read(path) for path in paths]
    baselines = [
        probe for experiment in found for probe in experiment.probes if probe.kind not in OWN
    ]
    return [replace(experiment, baselines=baselines) for experiment in found]


def _read(path: Path) -> Experiment:
    files = sorted((path / "results").rglob("*.json"))
    if not (path / "metrics.jsonl").exists() and not files:
        raise DataError(
            f"{path}: no metrics.jsonl and no results: is it an experiment that `gim-audio train`"
            " made?"
        )
    records = [read_result(file) for file in files]
    probes = [Probe(record["task"], _kind(record), record) for record in records]
    if not (path / "metrics.jsonl").exists():
        return Experiment(path, "", [], probes, [])
    metrics, starts = read_metrics(path / "metrics.jsonl"), read_starts(path / "provenance.json")
    config = read_text(path / "config.yaml")
    sections = read_yaml(config, f"{path}/config.yaml")
    for name in ("model", "objective", "training"):
        found = sections.get(name)
        each = found if name == "objective" and isinstance(found, list) and found else [found]
        if not all(isinstance(one, dict) for one in each):
            raise DataError(f"{path}/config.yaml: damaged: it has no section {name}")
    return Experiment(path, config, metrics, probes, starts)


def _kind(record: dict[str, Any]) -> str:
    stack = record["settings"].get("stack")
    beside = f" \u00b1{stack}" if stack else ""
    name = str(record["model"]).split()[0]
    if name in {*BASELINES, "random"}:
        return name + beside
    return ("random" if record["trained_steps"] == 0 else "trained") + beside
