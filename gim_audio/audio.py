"""Any recording that soundfile reads to mono float32 samples at a given rate."""

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from gim_audio.errors import AudioError

__all__ = ["AUDIO_SUFFIXES", "Waveform", "duration", "read", "to_mono"]

AUDIO_SUFFIXES = (".aif", ".aiff", ".au", ".caf", ".flac", ".mp3", ".ogg", ".opus", ".w64", ".wav")

Waveform = npt.NDArray[np.float32]


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
    name = name or str(source)
    if _is_cut(source):
        raise AudioError(f"{name}: is shorter than its header says: the file is cut short")
    try:
        with soundfile.SoundFile(io.BytesIO(source) if isinstance(source, bytes) else source) as file:
            own_rate, frames = file.samplerate, file.frames
            samples = file.read(dtype="float32", always_2d=True)
            compressed_by_frames = file.format == "MP3"  # its header only estimates the length
    except (soundfile.LibsndfileError, OSError, TypeError) as error:  # TypeError: headerless formats such as .raw
        raise AudioError(_explain(source, name, str(error))) from error
    if len(samples) < frames and not compressed_by_frames:
        raise AudioError(f"{name}: ends after {len(samples)} of {frames} samples: the file is cut short or damaged")
    if not len(samples):
        raise AudioError(f"{name}: holds no samples")
    if not np.isfinite(samples).all():
        raise AudioError(f"{name}: has samples that are not finite numbers")
    return to_mono(samples, own_rate, rate)


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


def duration(source: Path | bytes, name: str = "") -> float:
    """Length in seconds from the header alone.

    Raises:
        AudioError: the file is missing or not audio.
    """
    name = name or str(source)
    try:
        return float(soundfile.info(io.BytesIO(source) if isinstance(source, bytes) else str(source)).duration)
    except (soundfile.LibsndfileError, OSError) as error:
        raise AudioError(_explain(source, name, str(error))) from error


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
