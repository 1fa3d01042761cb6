"""Forced alignment of a data directory, by several processes; interrupted, it goes on where it was."""

import json
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from gim_audio.alignment.aligner import RATE, Aligner
from gim_audio.errors import DataError, GimAudioError
from gim_audio.files import absent, write_text
from gim_audio.kaldi import DataDir
from gim_audio.phones import Alignment, write_ctm

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
        data: with transcripts.
        out: the CTM to write, in true time.
        nj: processes.
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
        raise DataError(f"{data.path}/text: no transcripts there: forced alignment needs to know what is said")
    kept = out.with_name(f".{out.name}.partial")
    done = {row["utterance"]: row for row in _read(kept) if row["text"] == data.text.get(row["utterance"])}
    write_text(kept, "".join(json.dumps(row) + "\n" for row in done.values()))
    left = [name for name in data.utterances if name not in done]
    parts = [left[start : start + TOGETHER] for start in range(0, len(left), TOGETHER)]
    with (
        kept.open("a", encoding="utf-8", buffering=1) as file,
        ProcessPoolExecutor(nj, mp_context=get_context("spawn"), initializer=_leave_ctrl_c_to_the_parent) as pool,
    ):
        futures = [pool.submit(_align_part, data.select(part), allow_pipes) for part in parts]
        try:
            for future in as_completed(futures):
                for row in future.result():
                    done[row["utterance"]] = row
                    file.write(json.dumps(row) + "\n")
                progress(len(done))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    failed = {name: row["error"] for name, row in sorted(done.items()) if "error" in row}
    if len(failed) == len(done):
        kept.unlink()
        name, reason = next(iter(failed.items()))
        raise DataError(f"{data.path}: no utterance can be aligned; the first is {name}: {reason}")
    write_ctm(out, {name: _alignment(row) for name, row in done.items() if "error" not in row})
    kept.unlink()
    return failed


def _read(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of an earlier run, without half a line at the end; what failed is tried again."""
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
            if line.endswith("}\n") and "error" not in (row := json.loads(line)):
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
        row: dict[str, Any] = {"utterance": name, "text": data.text.get(name)}
        try:
            if isinstance(waveform, Exception):
                raise waveform
            found = _aligner().align(waveform, data.text.get(name, ""))
        except GimAudioError as error:
            row["error"] = str(error)
        else:
            row |= {"edges": [*found.starts.tolist(), float(found.ends[-1])], "labels": found.labels.tolist()}
        rows.append(row)
    return rows


def _leave_ctrl_c_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
