"""The packed corpus: decoded once, read in place, and itself a Kaldi data directory.

PCM16 WAVs lie one after another in `wav.N.ark`, each after its utterance's name and a space, as Kaldi's
wav archives have it; `wav.scp` has their offsets. Any Kaldi tool can read it.
"""

import hashlib
import io
import json
import os
import shutil
import signal
import struct
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gim_audio.audio import Waveform
from gim_audio.errors import DataError
from gim_audio.files import absent, new_file, write_text
from gim_audio.kaldi import DataDir, write_table
from gim_audio.phones import labels_of, read_ctm, write_ctm

__all__ = ["Crops", "PackedCorpus", "pack"]

HEADER = 44
"""Bytes of the WAV header that `pack` writes."""


@dataclass(frozen=True)
class Job:
    """One archive to write."""

    data: DataDir
    archive: Path
    rate: int
    allow_pipes: bool


def pack(
    data: DataDir,
    packed: Path,
    *,
    rate: int = 16000,
    nj: int = 1,
    allow_pipes: bool = False,
    skip_bad: bool = False,
    progress: Callable[[int], None] = lambda done: None,
) -> dict[str, str]:
    """Decode every utterance of a data directory into a packed corpus.

    Archives are written by `nj` processes into a hidden folder that becomes `packed` at the end; a second
    run after an interruption keeps those that are whole.

    Args:
        data: what to pack.
        packed: the folder to make.
        rate: sampling rate, Hz.
        nj: processes.
        allow_pipes: run the commands in `wav.scp`.
        skip_bad: leave out utterances that cannot be decoded, instead of refusing to finish.
        progress: called with the number of utterances that are done.

    Returns:
        The utterances left out, with the reason.

    Raises:
        DataError: an utterance cannot be decoded and `skip_bad` is not set, or none is left.
        GimAudioError: `packed` exists.
    """
    absent(packed)
    staging = packed.parent / f".{packed.name}.partial"
    sources = [_identity(extended) for extended in data.recordings.values()]
    plan = hashlib.sha256(repr((data.recordings, sources, data.segments, rate)).encode()).hexdigest()
    if not (staging / "plan").exists() or (staging / "plan").read_text(encoding="utf-8") != plan:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        write_text(staging / "plan", plan)
    names = data.utterances
    size = max(1, min(500, -(-len(names) // 8)))  # so that eight processes have work, and no archive is huge
    shards = [names[start : start + size] for start in range(0, len(names), size)]
    jobs = [
        Job(data.select(shard), staging / f"wav.{number}.ark", rate, allow_pipes)
        for number, shard in enumerate(shards, start=1)
    ]
    index: dict[str, dict[str, list[int]]] = {}
    digests: dict[str, str] = {}
    failed: dict[str, str] = {}
    done = 0
    with ProcessPoolExecutor(nj, mp_context=get_context("spawn"), initializer=_leave_ctrl_c_to_the_parent) as pool:
        futures = {pool.submit(_pack_archive, job): job for job in jobs}
        try:
            for future in as_completed(futures):
                job = futures[future]
                summary = future.result()
                index[job.archive.name], digests[job.archive.name] = summary["utterances"], summary["digest"]
                failed |= summary["failed"]
                done += len(job.data.utterances)
                progress(done)
        except BaseException:
            pool.shutdown(cancel_futures=True)  # what has begun is finished and kept
            raise
    if failed and not skip_bad:
        first, reason = next(iter(failed.items()))
        raise DataError(
            f"{len(failed)} of {len(names)} utterances cannot be packed, the first is {first}: {reason}: "
            "mend them, or leave them out with --skip-bad (what is decoded already is kept)"
        )
    if len(failed) == len(names):
        raise DataError(f"{data.path}: none of {len(names)} utterances can be decoded")
    _write_tables(data, staging, packed.resolve(), index)
    write_text(staging / "fingerprint", hashlib.sha256(repr(sorted(digests.items())).encode()).hexdigest() + "\n")
    for leftover in ("plan", *(f"{job.archive.name}.json" for job in jobs)):
        (staging / leftover).unlink(missing_ok=True)
    staging.replace(packed)
    return failed


def _identity(extended: str) -> tuple[int, int] | None:
    """Size and time of change of a recording's file: another one under the same name is not taken for it."""
    try:
        stat = Path(extended).stat()
    except OSError:
        return None
    return stat.st_size, stat.st_mtime_ns


def _leave_ctrl_c_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _pack_archive(job: Job) -> dict[str, Any]:
    """Write one archive and its summary, unless an earlier run did."""
    done = job.archive.with_name(f"{job.archive.name}.json")
    if done.exists():
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


def _write_tables(data: DataDir, staging: Path, packed: Path, index: dict[str, dict[str, list[int]]]) -> None:
    where = {
        name: (archive, offset, samples)
        for archive, places in index.items()
        for name, (offset, samples) in places.items()
    }
    kept = data.select(where)
    recordings = {name: f"{packed / archive}:{offset}" for name, (archive, offset, _) in where.items()}
    DataDir(recordings, kept.speakers, {}, kept.text).write(staging)
    write_table(staging / "utt2num_samples", {name: samples for name, (_, _, samples) in where.items()})
    labels = data.path / "phones.ctm" if data.path else None
    if labels and labels.exists():
        write_ctm(staging / "phones.ctm", labels_of(kept, read_ctm(labels)))


class PackedCorpus:
    """A packed corpus, open for reading.

    Args:
        path: what `pack` made. It may have been moved: archives are found by their names in it (other tools
            follow `wav.scp`, which says where they were packed).

    Attributes:
        utterances: names, sorted.
        speakers: of each utterance.
        samples: how many each utterance has. Shape: `(utterances,)`.
        rate: Hz.
        fingerprint: of the archives' bytes.

    Raises:
        DataError: it is not a packed corpus, or an archive has another length than the index says.
    """

    def __init__(self, path: Path) -> None:
        if not (path / "fingerprint").exists():
            raise DataError(f"{path}: not a packed corpus: `gim-audio pack DATA {path}` makes one")
        self.path = path
        self.fingerprint = (path / "fingerprint").read_text(encoding="utf-8").strip()
        self.speakers, lengths, places = (_read(path / name) for name in ("utt2spk", "utt2num_samples", "wav.scp"))
        self.utterances = list(self.speakers)
        try:
            if not self.utterances == list(lengths) == list(places):
                raise ValueError
            self.samples = np.array([int(length) for length in lengths.values()])
            located = [place.rpartition(":") for place in places.values()]
            self._offsets = np.array([int(offset) for _, _, offset in located]) + HEADER
        except ValueError as error:
            raise DataError(f"{path}: wav.scp, utt2spk and utt2num_samples do not agree: pack it again") from error
        names = [archive.rpartition("/")[2] for archive, _, _ in located]
        numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
        self._archives = np.array([numbers[name] for name in names])
        self._files = [_open(path / name) for name in numbers]
        ends = np.array([file.seek(0, 2) for file in self._files])
        beyond = self._offsets + 2 * self.samples > ends[self._archives]
        if beyond.any():
            name = self.utterances[int(beyond.argmax())]
            raise DataError(f"{path}: {name} lies beyond the end of its archive: pack it again")
        self.rate = int.from_bytes(os.pread(self._files[0].fileno(), 4, int(self._offsets[0]) - 20), "little")

    def __len__(self) -> int:
        return len(self.utterances)

    def read(self, index: int) -> npt.NDArray[np.int16]:
        """PCM of an utterance. Shape: `(samples,)`."""
        pcm = np.empty(self.samples[index], dtype="<i2")
        self.read_at(int(self._archives[index]), int(self._offsets[index]), pcm)
        return pcm

    def places(self, starts: npt.NDArray[np.int64], indices: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Archive and byte of a sample of some utterances, for `read_at`. Shape: `(n,)`, `(n,)` → `(2, n)`."""
        return np.stack([self._archives[indices], self._offsets[indices] + 2 * starts])

    def read_at(self, archive: int, byte: int, pcm: npt.NDArray[np.int16]) -> None:
        """Fill `pcm` from a place.

        A read asks for a crop at once, where a memory map would fault it in page by page from a cold disk, and count
        it as the process's memory.

        Raises:
            DataError: the archive ends before.
        """
        file, left = self._files[archive], memoryview(pcm.data).cast("B")
        while left:
            got = os.preadv(file.fileno(), [left], byte)
            if not got:
                raise DataError(f"{file.name}: cut short since it was opened: pack the corpus again")
            left, byte = left[got:], byte + got

    def statistics(self) -> tuple[float, float]:
        """Mean and standard deviation of all samples in [-1, 1]."""
        total, squares = 0, 0
        for index in range(len(self)):
            pcm = self.read(index).astype(np.int64)
            total, squares = total + int(pcm.sum()), squares + int((pcm * pcm).sum())
        mean = total / int(self.samples.sum())
        variance = squares / int(self.samples.sum()) - mean * mean
        return mean / 32768, float(np.sqrt(variance)) / 32768


def _read(path: Path) -> dict[str, str]:
    """A table that `pack` wrote: lines of a name, a space and a value."""
    try:
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file: pack the corpus again") from error
    return {name: value for name, _, value in (line.partition(" ") for line in lines)}


def _open(path: Path) -> io.FileIO:
    try:
        return io.FileIO(path)
    except FileNotFoundError as error:
        raise DataError(f"{path}: missing: pack the corpus again") from error
    except OSError as error:  # such as too many open files
        raise DataError(f"{path}: cannot be opened ({error.strerror})") from error


class Crops:
    """Training batches: each a pure function of (corpus, seed, step), so resuming needs only the step.

    In an epoch, every utterance gives one crop, in random order, from a random multiple of `hop`. Batches run
    on over the end of an epoch.

    Args:
        corpus: utterances shorter than `crop` are left out; `left_out` counts them.
        crop: samples.
        hop: crops start on its multiples.
        batch: crops a step.
        seed: of the order and the places.

    Raises:
        DataError: every utterance is shorter than `crop`.
    """

    def __init__(self, corpus: PackedCorpus, *, crop: int, hop: int, batch: int, seed: int) -> None:
        self.corpus, self.crop, self.hop, self.batch, self.seed = corpus, crop, hop, batch, seed
        self.usable = np.flatnonzero(corpus.samples >= crop)
        self.left_out = len(corpus) - len(self.usable)
        if not len(self.usable):
            raise DataError(
                f"{corpus.path}: all {len(corpus)} utterances are shorter than a crop of {crop} samples: "
                "choose a smaller data.crop"
            )
        self._plan: tuple[int, npt.NDArray[np.int64]] = (-1, np.empty((2, 0), dtype=np.int64))

    def __call__(self, step: int) -> Waveform:
        """The batch of a step, counted from 0. Shape: `(batch, crop)`, samples in [-1, 1]."""
        pcm = np.empty((self.batch, self.crop), dtype="<i2")
        for position, row in enumerate(pcm, start=step * self.batch):
            epoch, turn = divmod(position, len(self.usable))
            archive, byte = self._epoch(epoch)[:, turn].tolist()
            self.corpus.read_at(archive, byte, row)
        waveforms = pcm.astype(np.float32)
        waveforms /= np.float32(32768)
        return waveforms

    def _epoch(self, epoch: int) -> npt.NDArray[np.int64]:
        """Where the crops of an epoch lie, in their order; kept until the next. Shape: `(2, utterances)`."""
        if epoch != self._plan[0]:
            generator = np.random.default_rng((self.seed, epoch))
            order = generator.permutation(self.usable)
            choices = (self.corpus.samples[order] - self.crop) // self.hop + 1
            starts = (generator.random(len(order)) * choices).astype(np.int64) * self.hop
            self._plan = epoch, self.corpus.places(starts, order)
        return self._plan[1]
