"""Any recording that soundfile reads to mono float32 samples at a given rate."""

import io
import os
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from gim_audio import containers
from gim_audio.errors import AudioError

__all__ = [
    "AUDIO_SUFFIXES",
    "OTHER_SUFFIXES",
    "Header",
    "Waveform",
    "blocks",
    "decode",
    "header",
    "read",
    "to_mono",
]

AUDIO_SUFFIXES = (
    *(
        ".aif",
        ".aifc",
        ".aiff",
        ".au",
        ".bwf",
        ".caf",
        ".flac",
        ".iff",
        ".ircam",
        ".mp2",
        ".mp3",
        ".nist",
        ".oga",
    ),
    *(
        ".ogg",
        ".opus",
        ".paf",
        ".pvf",
        ".rf64",
        ".sf",
        ".snd",
        ".sph",
        ".svx",
        ".w64",
        ".wav",
        ".wave",
    ),
)
"""Suffixes of recordings that libsndfile reads whole, but for those of other things as a rule
(.htk, .mat, .raw)."""

OTHER_SUFFIXES = (
    *(
        ".3gp",
        ".aac",
        ".ac3",
        ".amr",
        ".ape",
        ".avr",
        ".dsf",
        ".m4a",
        ".m4b",
        ".mka",
        ".mp4",
        ".mpc",
        ".sd2",
        ".sds",
    ),
    *(".sox", ".spx", ".tta", ".voc", ".webm", ".wma", ".wv", ".wve"),
)
"""Suffixes of recordings that it does not read, or not reliably."""

HALF_READ = {"AVR", "SDS", "VOC", "WVE"}
"""Formats of which libsndfile makes samples where there are none, or does not notice that the file
is cut short."""

Waveform = npt.NDArray[np.float32]

BLOCK_SECONDS = 10.0
UNREADABLE = (soundfile.LibsndfileError, OSError, TypeError, UnicodeEncodeError)
"""TypeError: headerless formats such as .raw."""
MOST_FRAMES = 2**62
"""The most frames; larger numbers stand for an unknown one."""
RATES = (1_000, 2_000_000)
"""Hz; a header that says less or more is damaged, and to resample what it says would fill the
memory."""
MOST_LEFT = 2**13
"""Bytes of an MP3 that may stay behind: a broken frame, or a tag that is not known."""
LOUDEST = 10.0
"""Times full scale; a file of floats beyond it holds integers, or something else than sound."""
LEFT_OUT = 1152
"""Samples of an MP3's first frame, which some encoders count though it holds none."""


def read(source: Path | str | bytes, rate: int, name: str = "") -> Waveform:
    """Decode a whole recording, average its channels and resample it.

    Args:
        source: a file, or the bytes of one.
        rate: sampling rate of the result, Hz.
        name: The name for error messages; the path unless given.

    Returns:
        Samples in [-1, 1]. Shape: `(samples,)`, with round(n · rate / own rate) of them.

    Raises:
        AudioError: it is missing, empty, not audio, ends before its header says, or has samples
            that are not numbers.
    """
    return np.concatenate(list(blocks(source, rate, name)))


def blocks(
    source: Path | str | bytes, rate: int, name: str = "", seconds: float = BLOCK_SECONDS
) -> Iterator[Waveform]:
    """Decode a recording block by block, in constant memory; together they are what `read` gives.

    An error may come after good blocks: only the last one proves the recording whole.

    Args:
        source: A file or its bytes, as in `read`.
        rate: The sampling rate of the result in Hz.
        name: The name for error messages.
        seconds: The length of a block of the recording.

    Raises:
        AudioError: see `read`.
    """
    source, name = _given(source, name)
    if not (isinstance(rate, int | np.integer) and rate > 0):
        raise AudioError(f"a rate of {rate}: expected a whole number of Hz")
    if found := containers.problem(source):
        raise AudioError(f"{name}: {found}")
    try:
        with ExitStack() as opened:
            file = opened.enter_context(_open(source))
            claimed, mp3 = file.frames if file.frames < MOST_FRAMES else 0, None
            if file.format == "MP3":
                mp3 = opened.enter_context(containers.Mp3File(source))
                file = opened.enter_context(_Forward(mp3))
                claimed = file.frames if mp3.has_length else 0
            yield from decode(file, rate, name, claimed, seconds, spare=LEFT_OUT if mp3 else 0)
            if mp3 and mp3.left > MOST_LEFT:
                raise AudioError(
                    f"{name}: {mp3.left} bytes were not decoded: another recording follows, or it"
                    " is damaged"
                )
    except UNREADABLE as error:
        raise AudioError(_explain(source, name, str(error))) from error


def _open(source: Path | bytes) -> soundfile.SoundFile:
    return _Forward(io.BytesIO(source) if isinstance(source, bytes) else source)


def decode(
    file: soundfile.SoundFile,
    rate: int,
    name: str,
    claimed: int,
    seconds: float = BLOCK_SECONDS,
    spare: int = 0,
) -> Iterator[Waveform]:
    """Yield the blocks of an open file of `claimed` frames, of which `spare` may be missing.

    See `blocks`.
    """
    if file.format in HALF_READ:
        raise AudioError(
            f"{name}: libsndfile does not read {file.format} reliably: convert it, `ffmpeg -i IN"
            " OUT.flac`"
        )
    if file.subtype.startswith("MPEG") and file.format != "MP3":
        raise AudioError(
            f"{name}: is an MP3 in a {file.format} file, of which a part is read: `ffmpeg -i IN"
            " OUT.wav`"
        )
    lowest, highest = RATES
    if not lowest <= file.samplerate <= highest:
        raise AudioError(
            f"{name}: its header says {file.samplerate} Hz, which is no rate of sound: is it"
            " damaged?"
        )
    resampler = None
    if file.samplerate != rate:
        resampler = soxr.ResampleStream(file.samplerate, rate, 1, dtype="float32")
    size, heard, given, last = max(1, round(seconds * file.samplerate)), 0, 0, False
    while not last:
        # What follows in a pipe is not taken away.
        wanted = min(size, claimed - heard) if claimed else size
        samples = file.read(wanted, dtype="float32", always_2d=True)
        heard += len(samples)
        last = len(samples) < wanted or heard == claimed
        if not np.isfinite(samples).all():
            raise AudioError(f"{name}: has samples that are not finite numbers")
        if (peak := float(np.abs(samples).max(initial=0))) > LOUDEST:
            raise AudioError(
                f"{name}: has samples up to {peak:.4g}, where full scale is 1: scale them to"
                " [-1, 1]"
            )
        mono = _average(samples)
        block = (
            np.asarray(resampler.resample_chunk(mono, last=last), np.float32) if resampler else mono
        )
        given += len(block)
        if len(block):
            yield np.ascontiguousarray(block)
    if heard < claimed - spare:
        raise AudioError(
            f"{name}: ends after {heard} of {claimed} samples: the file is cut short or damaged"
        )
    if not heard:
        raise AudioError(
            f"{name}: holds no samples, or was never closed: `sox --ignore-length IN OUT` mends"
            " that"
        )
    if not given:
        raise AudioError(
            f"{name}: its {heard} samples at {file.samplerate} Hz give none at {rate} Hz: it is too"
            " short"
        )


def _given(source: Path | str | bytes, name: str) -> tuple[Path | bytes, str]:
    """Return a source that can be read, and what it is called.

    Raises:
        AudioError: The file system says that it cannot be read.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        return bytes(source), name or "the recording"
    path = Path(source)
    if found := _wrong_with(path):
        raise AudioError(f"{_printable(name or str(path))}: {found}")
    return path, name or str(path)


class _Forward(soundfile.SoundFile):  # type: ignore[misc]
    """A file of soundfile that does not seek.

    soundfile seeks to where it is after each read, which breaks an MP3.
    """

    def seekable(self) -> bool:
        return False


def to_mono(samples: npt.NDArray[np.float32], own_rate: int, rate: int) -> Waveform:
    """Average the channels of samples `(samples, channels)` and resample them to `rate` Hz."""
    mono = _average(samples)
    if own_rate == rate:
        return np.ascontiguousarray(mono)
    return np.asarray(soxr.resample(mono, own_rate, rate), dtype=np.float32)


def _average(samples: npt.NDArray[np.float32]) -> Waveform:
    mono: Waveform = (
        samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1, dtype=np.float32)
    )
    return mono


@dataclass(frozen=True, slots=True)  # there may be a million
class Header:
    """The rate in Hz, the channels and the seconds of a recording."""

    rate: int
    channels: int
    seconds: float


def header(source: Path | str | bytes, name: str = "") -> Header:
    """Read it, without the samples but for an MP3 that does not say how many there are.

    Raises:
        AudioError: the file is missing or not audio.
    """
    source, name = _given(source, name)
    try:
        info = soundfile.info(io.BytesIO(source) if isinstance(source, bytes) else str(source))
        seconds = float(info.duration)
        # What libsndfile says is a guess.
        if info.format == "MP3" and not containers.has_length(source):
            seconds = sum(map(len, blocks(source, info.samplerate, name))) / info.samplerate
    except UNREADABLE as error:
        raise AudioError(_explain(source, name, str(error))) from error
    return Header(info.samplerate, info.channels, seconds)


def _explain(source: Path | bytes, name: str, error: str) -> str:
    if isinstance(source, Path) and (found := _wrong_with(source)):
        return f"{_printable(name)}: {found}"
    if (suffix := Path(name).suffix.lower()) in OTHER_SUFFIXES:
        return f"{name}: libsndfile does not read {suffix}: convert it, `ffmpeg -i IN OUT.flac`"
    reason = error.rsplit(": ", 1)[-1].rstrip(".")
    return (
        f"{name}: cannot be decoded ({reason}): is it audio, and whole? If so, convert it: `ffmpeg"
        " -i IN OUT.flac`"
    )


def _printable(name: str) -> str:
    return name.encode(errors="backslashreplace").decode()


def _wrong_with(file: Path) -> str:
    """Return what the file system says is wrong; empty where nothing is."""
    try:
        stat = file.stat()
        str(file).encode()
        with suppress(IsADirectoryError):
            os.close(os.open(file, os.O_RDONLY | os.O_NONBLOCK))
    except FileNotFoundError:
        return "no such file"
    except OSError as error:
        return error.strerror or "cannot be opened"
    except UnicodeEncodeError:
        return "a name that is not UTF-8: rename it"
    if file.is_fifo():
        return "is a pipe: give it on standard input, as `-`"
    if not file.is_file():
        return (
            "is a folder, not a recording"
            if file.is_dir()
            else "is a device or a socket, not a recording"
        )
    return "" if stat.st_size else "is empty"
