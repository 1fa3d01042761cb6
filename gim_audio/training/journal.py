"""What a run writes down as it goes: metrics of each step, and where each start was from."""

import json
from pathlib import Path
from typing import Any, TextIO

from gim_audio.files import write_text
from gim_audio.provenance import provenance

__all__ = ["Metrics", "note_start", "open_lines", "read_lines"]

Metrics = dict[str, Any]


def note_start(path: Path, step: int, **more: object) -> None:
    """Each start of a run adds its command, commit and hardware: a resumed run has several."""
    starts = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    write_text(path, json.dumps([*starts, {"from_step": step, **more, **provenance()}], indent=2) + "\n")


def read_lines(path: Path, step: int) -> list[Metrics]:
    """Lines up to a step. A killed run may leave half a line, or lines that are later than its last checkpoint."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    found = [json.loads(line) for line in lines if line.endswith("}\n")]
    return [line for line in found if line["step"] <= step]


def open_lines(path: Path, step: int) -> TextIO:
    """Open for appending after dropping what is later than a step."""
    if path.exists():
        write_text(path, "".join(json.dumps(line) + "\n" for line in read_lines(path, step)))
    return path.open("a", encoding="utf-8", buffering=1)
