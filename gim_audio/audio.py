"""Any recording that soundfile reads to mono float32 samples at a given rate."""

import io
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from gim_audio.errors import AudioError

__all__ = ["AUDIO_SUFFIXES", "Header", "Waveform", "blocks", "decode", "header", "read", "to_mono"]

AUDIO_SUFFIXES = (".aif", ".aiff", ".au", ".caf", ".flac", ".mp3", ".ogg", ".opus", ".w64", ".wav")

Waveform = npt.NDArray[np.float32]

BLOCK_SECONDS = 10.0
UNREADABLE = (soundfile.LibsndfileError, OSError, TypeError, UnicodeEncodeError)
"""TypeError: headerless formats such as .raw."""
HEADER_BYTES = 4096
"""In which the samples of most files begin."""
STREAMED = 0x7F000000
"""Lengths from here on are what a writer puts into a header that does not know the length."""
WHOLE: dict[bytes, tuple[int, int, Literal["little", "big"], int]] = {
    b"RIFF": (4, 4, "little", 0),  # some writers count the first eight bytes, some do not
    b"RIFX": (4, 4, "big", 0),
    b"RF64": (20, 8, "little", 8),
    b"riff": (16, 8, "little", 0),  # W64
    b"FORM": (4, 4, "big", 0),  # AIFF
    b".snd": (8, 4, "big", 24),  # AU
    b"dns.": (8, 4, "little", 24),
}
"""By a file's first bytes: where its length stands, its width and order, and what it does not count."""
CHUNKS: dict[bytes, tuple[int, int, Literal["little", "big"], bytes]] = {
    b"RIFF": (12, 4, "little", b"data"),
    b"RIFX": (12, 4, "big", b"data"),
    b"FORM": (12, 4, "big", b"SSND"),
    b"caff": (8, 8, "big", b"data"),
}
"""Where chunks begin, the width and order of their lengths, and the one that holds the samples."""


def read(source: Path | bytes, rate: int, name: str = "") -> Waveform:
    """Decode a whole recording, average its channels and resample it.

    Args:
        source: a file, or the bytes of one.
        rate: sampling rate of the result, Hz.
        name: what error messages call it; the path unless given.

    Returns:
        Samples in [-1, 1]. Shape: `(samples,)`, with round(n · rate / own rate) of them.

    Raises:
        AudioError: it is missing, empty, not audio, ends before its header says, or has samples that are not numbers.
    """
    return np.concatenate(list(blocks(source, rate, name)))


def blocks(source: Path | bytes, rate: int, name: str = "", seconds: float = BLOCK_SECONDS) -> Iterator[Waveform]:
    """Decode a recording block by block, in constant memory; together they are what `read` gives.

    An error may come after good blocks: only the last one proves the recording whole.

    Args:
        source: see `read`.
        rate: see `read`.
        name: see `read`.
        seconds: of the recording in a block.

    Raises:
        AudioError: see `read`.
    """
    name = name or str(source)
    if _is_cut(source):
        raise AudioError(f"{name}: is shorter than its header says: the file is cut short")
    try:
        with _Forward(io.BytesIO(source) if isinstance(source, bytes) else source) as file:
            known = file.format != "MP3" and file.frames < STREAMED**2  # an MP3's header only estimates the length
            claimed = file.frames if known else 0
            yield from decode(file, rate, name, claimed, seconds)
    except UNREADABLE as error:
        raise AudioError(_explain(source, name, str(error))) from error


def decode(
    file: soundfile.SoundFile, rate: int, name: str, claimed: int, seconds: float = BLOCK_SECONDS
) -> Iterator[Waveform]:
    """The blocks of an open file of at least `claimed` frames, read forward: see `blocks`."""
    resampler = None
    if file.samplerate != rate:
        resampler = soxr.ResampleStream(file.samplerate, rate, 1, dtype="float32")
    size, heard, last = max(1, round(seconds * file.samplerate)), 0, False
    while not last:
        wanted = min(size, claimed - heard) if claimed else size  # what follows in a pipe is not taken away
        samples = file.read(wanted, dtype="float32", always_2d=True)
        heard += len(samples)
        last = len(samples) < wanted or heard == claimed
        if not np.isfinite(samples).all():
            raise AudioError(f"{name}: has samples that are not finite numbers")
        mono = _average(samples)
        block = np.asarray(resampler.resample_chunk(mono, last=last), np.float32) if resampler else mono
        if len(block):
            yield np.ascontiguousarray(block)
    if heard < claimed:
        raise AudioError(f"{name}: ends after {heard} of {claimed} samples: the file is cut short or damaged")
    if not heard:
        raise AudioError(f"{name}: holds no samples, or was never closed: `sox --ignore-length IN OUT` mends that")


class _Forward(soundfile.SoundFile):  # type: ignore[misc]
    """soundfile seeks to where it is after each read, if it can; an MP3, which needs what came before, breaks there."""

    def seekable(self) -> bool:
        return False


def to_mono(samples: npt.NDArray[np.float32], own_rate: int, rate: int) -> Waveform:
    """Average the channels of samples `(samples, channels)` and resample them to `rate` Hz."""
    mono = _average(samples)
    if own_rate == rate:
        return np.ascontiguousarray(mono)
    return np.asarray(soxr.resample(mono, own_rate, rate), dtype=np.float32)


def _average(samples: npt.NDArray[np.float32]) -> Waveform:
    mono: Waveform = samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1, dtype=np.float32)
    return mono


def _is_cut(source: Path | bytes) -> bool:
    """Whether a file ends before the lengths in its header; libsndfile reads such a file without a word."""
    try:
        if isinstance(source, bytes):
            start, size = source[:HEADER_BYTES], len(source)
        else:
            with source.open("rb") as file:
                start, size = file.read(HEADER_BYTES), source.stat().st_size
    except (OSError, UnicodeEncodeError):
        return False  # reading it will tell
    return any(size < end for end in _ends(start))


def _ends(start: bytes) -> Iterator[int]:
    """Where a file that starts like this ends, as far as its header knows."""

    def length(at: int, width: int, order: Literal["little", "big"]) -> int | None:
        found = int.from_bytes(start[at : at + width], order)
        return found if found < (STREAMED if width == 4 else 2**63) else None

    if known := WHOLE.get(start[:4]):
        at, width, order, before = known
        if (whole := length(at, width, order)) is not None:
            yield before + whole
    if chunks := CHUNKS.get(start[:4]):
        at, width, order, wanted = chunks
        while at + 4 + width <= len(start) and (inside := length(at + 4, width, order)) is not None:
            end = at + 4 + width + inside
            if start[at : at + 4] == wanted:
                yield end
                return
            at = end + (inside % 2 if width == 4 else 0)


@dataclass(frozen=True, slots=True)  # there may be a million
class Header:
    """What a recording says of itself: Hz, channels and seconds."""

    rate: int
    channels: int
    seconds: float


def header(source: Path | bytes, name: str = "") -> Header:
    """Read it, without the samples.

    Raises:
        AudioError: the file is missing or not audio.
    """
    name = name or str(source)
    try:
        info = soundfile.info(io.BytesIO(source) if isinstance(source, bytes) else str(source))
    except UNREADABLE as error:
        raise AudioError(_explain(source, name, str(error))) from error
    return Header(info.samplerate, info.channels, float(info.duration))


def _explain(source: Path | bytes, name: str, error: str) -> str:
    if isinstance(source, Path) and (found := _wrong_with(source)):
        return f"{name.encode(errors='backslashreplace').decode()}: {found}"
    reason = error.rsplit(": ", 1)[-1].rstrip(".")
    return f"{name}: cannot be decoded ({reason}): is it audio, and whole?"


def _wrong_with(file: Path) -> str:
    """What the file system says; nothing if it has nothing to say."""
    try:
        stat = file.stat()
        with suppress(IsADirectoryError):
            os.close(os.open(file, os.O_RDONLY | os.O_NONBLOCK))
        str(file).encode()
    except FileNotFoundError:
        return "no such file"
    except OSError as error:
        return error.strerror or "cannot be opened"
    except UnicodeEncodeError:
        return "a name that is not UTF-8: rename it"
    if file.is_dir():
        return "is a folder, not a recording"
    if file.is_fifo():
        return "is a pipe: give it on standard input, as `-`"
    return "" if stat.st_size else "is empty"
