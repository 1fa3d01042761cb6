"""The schemas of an experiment's files, which may be damaged, or another program's."""

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from gim_audio.errors import DataError
from gim_audio.files import read_json_lines, read_text

__all__ = ["read_metrics", "read_result", "read_starts"]

Pair = Annotated[list[float], Field(min_length=2, max_length=2)]


PER_MODULE = ("loss", "accuracy", "dead_units", "effective_rank")
"""The metrics that have a value for each module."""


class Record(BaseModel):
    """A JSON object that may hold more than is looked at."""

    model_config = ConfigDict(extra="allow", strict=True)


class Provenance(Record):
    """The origin of a number."""

    command: str
    commit: str
    date: str
    hardware: str
    torch: str


class Start(Provenance):
    """One start of a run."""

    from_step: int


class Step(Record):
    """One line of metrics."""

    step: int
    loss: list[float | None]
    accuracy: list[float | None]
    seconds: float = 0.0
    dead_units: list[float | None] = []
    effective_rank: list[float | None] = []
    peak_bytes: int | None = None


class ErrorWithin(Record):
    """An ABX error."""

    error: float
    interval: Pair | None = None
    halves: list[float | None] = []
    pair_halves: list[float | None] = []


class Row(Record):
    """The figures of one module."""

    module: int
    name: str
    accuracy: float | None = None
    eer: float | None = None
    pnmi: float | None = None
    per: float | None = None
    held_out: float | None = None
    interval: Pair | None = None
    halves: list[float | None] = []
    pair_halves: list[float | None] = []
    slack: float = 0.0
    within: ErrorWithin | None = None
    across: ErrorWithin | None = None


class Result(Record):
    """The results of one evaluation."""

    task: str
    protocol: str
    model: Annotated[str, Field(min_length=1)]
    trained_steps: int | None
    train: str | None
    test: str
    modules: Annotated[list[Row], Field(min_length=1)]
    counts: dict[str, float]
    settings: dict[str, Any]
    provenance: Provenance
    corpora: dict[str, str] | None = None
    speakers: list[str] = []
    seconds: dict[str, float] | None = None


def read_result(path: Path) -> dict[str, Any]:
    """Return a file of results.

    Raises:
        DataError: It holds something else.
    """
    found: dict[str, Any] = _checked(path, Result, _parsed(path, read_text(path)))
    return found


def read_starts(path: Path) -> list[dict[str, Any]]:
    """Return the starts of a run, of `provenance.json`.

    Raises:
        DataError: It holds something else.
    """
    found: list[dict[str, Any]] = _checked(path, list[Start], _parsed(path, read_text(path)))
    return found


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the lines of `metrics.jsonl`.

    Lines that are no JSON, which a killed run may leave, are left out.

    Raises:
        DataError: It holds something else.
    """
    found: list[dict[str, Any]] = _checked(path, list[Step], list(read_json_lines(path)))
    if len({len(line[name]) for line in found for name in PER_MODULE if name in line}) > 1:
        raise DataError(
            f"{path}: damaged: its lines are of several numbers of modules: remove it, or train"
            " again"
        )
    return found


def _parsed(path: Path, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: damaged: not JSON: remove the file, or make it again") from error


def _checked(path: Path, kind: Any, found: Any) -> Any:
    """Return what was found, if it is of a kind."""
    try:
        TypeAdapter(kind).validate_python(found)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))[:100] or "it"
        raise DataError(
            f"{path}: damaged: {where}: {first['msg']}: remove the file, or make it again"
        ) from error
    return found
