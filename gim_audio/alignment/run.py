"""Forced alignment of a data directory, by several processes.

An interrupted run is resumed where it was.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from gim_audio.alignment.aligner import RATE, Aligner
from gim_audio.errors import DataError, GimAudioError
from gim_audio.files import absent, read_json_lines, write_text
from gim_audio.kaldi import DataDir, identity
from gim_audio.phones import Alignment, write_ctm
from gim_audio.workers import each

__all__ = ["align"]

TOGETHER = 8
"""Utterances that a process is given at a time; neighbours may share a recording."""


def align(
    data: DataDir,
    out: Path,
    *,
    nj: int = 1,
    allow_pipes: bool = False,
    progress: Callable[[int], None] = lambda done: None,
) -> dict[str, str]:
    """Align every utterance of a data directory with its `text`.

    Args:
        data: A data directory with transcripts.
        out: the CTM to write, in true time.
        nj: The number of processes.
        allow_pipes: run the commands in `wav.scp`.
        progress: called with the number of utterances that are done.

    Returns:
        The utterances that could not be aligned, with the reason; they are not in `out`.

    Raises:
        DataError: there is no `text`, or no utterance could be aligned.
        GimAudioError: `out` exists.
    """
    absent(out)
    if not data.text:
        raise DataError(
            f"{data.path}/text: no transcripts there: forced alignment needs to know what is said"
        )
    kept = out.with_name(f".{out.name}.partial")
    plan = {name: _source(data, name) for name in data.utterances}
    done = {
        row["utterance"]: row for row in _read(kept) if row["source"] == plan.get(row["utterance"])
    }
    write_text(kept, "".join(json.dumps(row) + "\n" for row in done.values()))
    left = [name for name in data.utterances if name not in done]
    parts = [left[start : start + TOGETHER] for start in range(0, len(left), TOGETHER)]
    jobs = ((data.select(part), allow_pipes) for part in parts)
    with (
        kept.open("a", encoding="utf-8", buffering=1) as file,
        closing(each(_align_part, jobs, nj)) as results,
    ):
        for _, rows in results:
            for row in rows:
                row["source"] = plan[row["utterance"]]
                done[row["utterance"]] = row
                file.write(json.dumps(row) + "\n")
            progress(len(done))
    failed = {name: row["error"] for name, row in sorted(done.items()) if "error" in row}
    if len(failed) == len(done):
        kept.unlink()
        name, reason = next(iter(failed.items()))
        raise DataError(f"{data.path}: no utterance can be aligned; the first is {name}: {reason}")
    write_ctm(out, {name: _alignment(row) for name, row in done.items() if "error" not in row})
    kept.unlink(missing_ok=True)
    return failed


def _source(data: DataDir, name: str) -> str:
    """Return all that an utterance's alignment depends on."""
    cut = data.segments.get(name)
    extended = data.recordings[cut.recording if cut else name]
    return repr((data.text.get(name), cut, extended, identity(extended)))


def _read(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of an earlier run, without half a line at the end; what failed is tried again."""
    for row in read_json_lines(path):
        if isinstance(row, dict) and row.keys() == {"utterance", "edges", "labels", "source"}:
            yield row


def _alignment(row: dict[str, Any]) -> Alignment:
    edges = np.array(row["edges"])
    return Alignment(edges[:-1], edges[1:], np.array(row["labels"]))


@cache
def _aligner() -> Aligner:
    """One a process."""
    return Aligner()


def _align_part(data: DataDir, allow_pipes: bool) -> Sequence[dict[str, Any]]:
    rows = []
    for name, waveform in data.waveforms(RATE, allow_pipes=allow_pipes):
        row: dict[str, Any] = {"utterance": name}
        try:
            if isinstance(waveform, Exception):
                raise waveform
            found = _aligner().align(waveform, data.text.get(name, ""))
        except GimAudioError as error:
            row["error"] = str(error)
        else:
            row |= {
                "edges": [*found.starts.tolist(), float(found.ends[-1])],
                "labels": found.labels.tolist(),
            }
        rows.append(row)
    return rows
