"""The metrics of each step of a run, and the origin of each start."""

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from gim_audio.errors import DataError
from gim_audio.files import read_json_lines, read_text, write_text
from gim_audio.provenance import provenance
from gim_audio.training.report import StepReport

__all__ = ["Metrics", "line_of", "note_start", "open_lines", "read_accuracies", "read_lines"]

Metrics = dict[str, Any]


def note_start(path: Path, step: int, **more: object) -> None:
    """Add the command, commit and hardware of a start of a run; a resumed run has several.

    What cannot be read of the earlier ones is given up: a run does not depend on it.
    """
    earlier: object = []
    with suppress(FileNotFoundError, DataError, ValueError, RecursionError):
        earlier = json.loads(read_text(path))
    starts = [
        *(earlier if isinstance(earlier, list) else []),
        {"from_step": step, **more, **provenance()},
    ]
    write_text(path, json.dumps(starts, indent=2) + "\n")


def read_lines(path: Path, step: int) -> list[Metrics]:
    """Return the lines up to a step.

    A killed run may leave half a line, or lines that are later than its last checkpoint; a broken
    disk, others.
    """
    lines = read_json_lines(path)
    return [line for line in lines if isinstance(line, dict) and _number(line.get("step")) <= step]


def line_of(
    step: int, phase: int, report: StepReport, seconds: float, peak_bytes: int | None
) -> Metrics:
    """Return the metrics of a step, with those of a diagnosis where there is a peak of memory."""
    metrics: Metrics = {"step": step, "phase": phase}
    metrics |= {"loss": report.loss, "accuracy": report.accuracy, "seconds": seconds}
    if peak_bytes is not None:
        metrics |= {"dead_units": report.dead_units, "effective_rank": report.effective_rank}
        metrics["peak_bytes"] = peak_bytes
    return metrics


def read_accuracies(
    path: Path, step: int, phase: int, modules: Sequence[int]
) -> Iterator[list[float]]:
    """Yield the accuracies of some modules in the steps of a phase, up to a step."""
    for line in read_lines(path, step):
        if line["phase"] == phase:
            yield [line["accuracy"][module - 1] for module in modules]


def _number(step: object) -> float:
    return step if isinstance(step, int) else math.inf


def open_lines(path: Path, step: int) -> TextIO:
    """Open for appending after dropping what is later than a step."""
    if path.exists():
        write_text(path, "".join(json.dumps(line) + "\n" for line in read_lines(path, step)))
    return path.open("a", encoding="utf-8", buffering=1)
