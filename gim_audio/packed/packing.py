"""The packing of a data directory, by several processes."""

import hashlib
import json
import shutil
import struct
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gim_audio.errors import DataError
from gim_audio.files import absent, new_file, write_text
from gim_audio.kaldi import DataDir, identity, write_table
from gim_audio.phones import labels_of, read_ctm, write_ctm
from gim_audio.workers import each

__all__ = ["pack"]


@dataclass(frozen=True)
class Job:
    """One archive to write."""

    data: DataDir
    archive: Path
    rate: int
    allow_pipes: bool


def pack(
    data: DataDir | Path | str,
    packed: Path | str,
    *,
    rate: int = 16000,
    nj: int = 1,
    allow_pipes: bool = False,
    skip_bad: bool = False,
    progress: Callable[[int], None] = lambda done: None,
) -> dict[str, str]:
    """Decode every utterance of a data directory into a packed corpus.

    Archives are written by `nj` processes into a hidden folder that becomes `packed` at the end; a
    second run after an interruption keeps those that are whole.

    Args:
        data: A data directory or its path.
        packed: the folder to make.
        rate: sampling rate, Hz.
        nj: The number of processes.
        allow_pipes: run the commands in `wav.scp`.
        skip_bad: leave out utterances that cannot be decoded, instead of refusing to finish.
        progress: called with the number of utterances that are done.

    Returns:
        The utterances left out, with the reason.

    Raises:
        DataError: an utterance cannot be decoded and `skip_bad` is not set, or none is left.
        GimAudioError: `packed` exists.
    """
    packed, data = Path(packed), data if isinstance(data, DataDir) else DataDir.read(data)
    absent(packed)
    staging = packed.parent / f".{packed.name}.partial"
    sources = [identity(extended) for extended in data.recordings.values()]
    plan = hashlib.sha256(
        repr((data.recordings, sources, data.segments, rate)).encode()
    ).hexdigest()
    if not (staging / "plan").exists() or (staging / "plan").read_text(encoding="utf-8") != plan:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        write_text(staging / "plan", plan)
    names = data.utterances
    # So that eight processes have work, and no archive is huge.
    size = max(1, min(500, -(-len(names) // 8)))
    shards = [names[start : start + size] for start in range(0, len(names), size)]
    jobs = [
        Job(data.select(shard), staging / f"wav.{number}.ark", rate, allow_pipes)
        for number, shard in enumerate(shards, start=1)
    ]
    index: dict[str, dict[str, list[int]]] = {}
    digests: dict[str, str] = {}
    failed: dict[str, str] = {}
    done = 0
    with closing(each(_pack_archive, [(job,) for job in jobs], nj)) as results:
        for (job,), summary in results:
            index[job.archive.name], digests[job.archive.name] = (
                summary["utterances"],
                summary["digest"],
            )
            failed |= summary["failed"]
            done += len(job.data.utterances)
            progress(done)
    if failed and not skip_bad:
        first, reason = next(iter(failed.items()))
        raise DataError(
            f"{len(failed)} of {len(names)} utterances cannot be packed, the first is {first}:"
            f" {reason}: mend them, or leave them out with --skip-bad (what is decoded already is"
            " kept)"
        )
    if len(failed) == len(names):
        raise DataError(f"{data.path}: none of {len(names)} utterances can be decoded")
    _write_tables(data, staging, packed.resolve(), index)
    write_text(
        staging / "fingerprint",
        hashlib.sha256(repr(sorted(digests.items())).encode()).hexdigest() + "\n",
    )
    for leftover in ("plan", *(f"{job.archive.name}.json" for job in jobs)):
        (staging / leftover).unlink(missing_ok=True)
    staging.replace(packed)
    return failed


def _pack_archive(job: Job) -> dict[str, Any]:
    """Write one archive and its summary, unless an earlier run did."""
    done = job.archive.with_name(f"{job.archive.name}.json")
    with suppress(FileNotFoundError, ValueError):
        finished: dict[str, Any] = json.loads(done.read_text(encoding="utf-8"))
        return finished
    utterances: dict[str, list[int]] = {}
    failed: dict[str, str] = {}
    digest = hashlib.sha256()
    with new_file(job.archive) as temporary, temporary.open("wb") as file:
        for name, samples in job.data.waveforms(job.rate, allow_pipes=job.allow_pipes):
            if isinstance(samples, Exception):
                failed[name] = str(samples)
                continue
            scaled = samples * np.float32(32768)
            pcm = np.clip(np.rint(scaled, out=scaled), -32768, 32767, out=scaled).astype("<i2")
            key = f"{name} ".encode()
            utterances[name] = [file.tell() + len(key), len(pcm)]
            for part in (key, _wav_header(pcm.nbytes, job.rate), pcm.data):
                digest.update(part)
                file.write(part)
    summary = {"utterances": utterances, "failed": failed, "digest": digest.hexdigest()}
    if not failed:  # what failed is tried again: it may have been mended
        write_text(done, json.dumps(summary))
    return summary


def _wav_header(size: int, rate: int) -> bytes:
    return struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        b"RIFF",
        36 + size,
        b"WAVE",
        b"fmt ",
        16,
        1,
        1,
        rate,
        2 * rate,
        2,
        16,
        b"data",
        size,
    )


def _write_tables(
    data: DataDir, staging: Path, packed: Path, index: dict[str, dict[str, list[int]]]
) -> None:
    where = {
        name: (archive, offset, samples)
        for archive, places in index.items()
        for name, (offset, samples) in places.items()
    }
    kept = data.select(where)
    recordings = {
        name: f"{packed / archive}:{offset}" for name, (archive, offset, _) in where.items()
    }
    DataDir(recordings, kept.speakers, {}, kept.text).write(staging)
    write_table(
        staging / "utt2num_samples", {name: samples for name, (_, _, samples) in where.items()}
    )
    labels = data.path / "phones.ctm" if data.path else None
    if labels and labels.exists():
        write_ctm(staging / "phones.ctm", labels_of(kept, read_ctm(labels)))
