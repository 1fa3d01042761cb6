"""Any recording that soundfile reads to mono float32 samples at a given rate."""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from gim_audio.errors import AudioError

__all__ = ["AUDIO_SUFFIXES", "Header", "Waveform", "blocks", "decode", "header", "read", "to_mono"]

AUDIO_SUFFIXES = (".aif", ".aiff", ".au", ".caf", ".flac", ".mp3", ".ogg", ".opus", ".w64", ".wav")

Waveform = npt.NDArray[np.float32]

BLOCK_SECONDS = 10.0


def read(source: Path | bytes, rate: int, name: str = "") -> Waveform:
    """Decode a whole recording, average its channels and resample it.

    Args:
        source: a file, or the bytes of one.
        rate: sampling rate of the result, Hz.
        name: what error messages call it; the path unless given.

    Returns:
        Samples in [-1, 1]. Shape: `(samples,)`, with round(n · rate / own rate) of them.

    Raises:
        AudioError: it is missing, empty, not audio, ends before its header says, or has samples that are
            not numbers.
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
            claimed = file.frames if file.format != "MP3" else 0  # whose header only estimates the length
            yield from decode(file, rate, name, claimed, seconds)
    except (soundfile.LibsndfileError, OSError, TypeError) as error:  # TypeError: headerless formats such as .raw
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
        mono = samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1, dtype=np.float32)
        block = np.asarray(resampler.resample_chunk(mono, last=last), np.float32) if resampler else mono
        if len(block):
            yield np.ascontiguousarray(block)
    if heard < claimed:
        raise AudioError(f"{name}: ends after {heard} of {claimed} samples: the file is cut short or damaged")
    if not heard:
        raise AudioError(f"{name}: holds no samples")


class _Forward(soundfile.SoundFile):  # type: ignore[misc]
    """soundfile seeks to where it is after each read, if it can; an MP3, which needs what came before, breaks there."""

    def seekable(self) -> bool:
        return False


def to_mono(samples: npt.NDArray[np.float32], own_rate: int, rate: int) -> Waveform:
    """Average the channels of samples `(samples, channels)` and resample them to `rate` Hz."""
    mono = samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1, dtype=np.float32)
    if own_rate == rate:
        return np.ascontiguousarray(mono)
    return np.asarray(soxr.resample(mono, own_rate, rate), dtype=np.float32)


def _is_cut(source: Path | bytes) -> bool:
    """Whether a WAV ends before the length in its header; libsndfile reads such a file without a word."""
    try:
        if isinstance(source, bytes):
            header, size = source[:8], len(source)
        else:
            with source.open("rb") as file:
                header, size = file.read(8), source.stat().st_size
    except OSError:
        return False  # reading it will tell
    claimed = int.from_bytes(header[4:], "little")
    streamed = claimed >= 0x7FFFF000  # what a writer puts that does not know the length
    return header[:4] == b"RIFF" and not streamed and claimed > size - 8


@dataclass(frozen=True)
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
    except (soundfile.LibsndfileError, OSError, TypeError) as error:
        raise AudioError(_explain(source, name, str(error))) from error
    return Header(info.samplerate, info.channels, float(info.duration))


def _explain(source: Path | bytes, name: str, error: str) -> str:
    if isinstance(source, Path):
        if not source.exists():
            return f"{name}: no such file"
        if source.is_dir():
            return f"{name}: is a folder, not a recording"
        if source.stat().st_size == 0:
            return f"{name}: is empty"
    reason = error.rsplit(": ", 1)[-1].rstrip(".")
    return f"{name}: cannot be decoded ({reason}): is it audio, and whole?"
