"""The inputs that may be named as audio.

They are files, folders, a data directory, `scp:FILE`, an archive, standard input.
"""

import io
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import soundfile

from gim_audio import audio
from gim_audio.audio import AUDIO_SUFFIXES, OTHER_SUFFIXES, Waveform
from gim_audio.containers import STREAMED, OggPages, follows
from gim_audio.errors import AudioError, DataError
from gim_audio.files import walk
from gim_audio.kaldi import DataDir, locate, read_scp, read_wave

__all__ = ["Source", "gather", "one_by_one", "standard_input", "wave_archive"]

Source = Callable[[int], Iterable[tuple[str, str, Iterable[Waveform]]]]
"""Takes a sampling rate; gives name, what error messages call it, and samples in blocks, of one
utterance after another."""

UNKNOWN = STREAMED - 2**16
"""Bytes of samples that a header of unknown length stands for, less what else is in the file."""
WIDTHS = {"PCM_16": 2, "PCM_24": 3, "PCM_32": 4, "FLOAT": 4, "DOUBLE": 8}
"""Bytes of a sample."""
PIECE = 2**16
LONGEST_KEY = 1000
"""Bytes of an utterance's name in an archive."""
LETTERS = 4
LIVE = (b"RIFF", b".snd", b"OggS")
"""The beginnings of files that can be decoded while they come."""


def gather(inputs: Sequence[str]) -> DataDir:
    """Return the utterances that the inputs stand for.

    A file is named by its stem, a file in a folder by its path in there, without the suffix and
    with `-` for `/`. What a folder holds that looks like audio but cannot be read is among them: it
    will fail, and say why.

    Raises:
        DataError: a folder has no audio, two files have one name, or a data directory is in a bad
            state.
    """
    if len(inputs) == 1 and inputs[0].startswith("scp:"):
        return read_scp(Path(inputs[0].removeprefix("scp:")))
    if len(inputs) == 1 and (Path(inputs[0]) / "wav.scp").exists():
        return DataDir.read(Path(inputs[0]))
    for name in inputs:
        if not name or name.startswith(("scp:", "ark:")) or (Path(name) / "wav.scp").exists():
            raise DataError(
                f"INPUT {name or 'is empty'}: a data directory, scp:FILE or ark:FILE stands alone"
            )
    files: dict[str, str] = {}
    for given in dict.fromkeys(inputs):
        for name, file in _files(Path(given)):
            other = files.get(name)
            if other and os.path.realpath(other) == os.path.realpath(file):
                continue  # it was named twice
            if other:
                raise DataError(
                    f"{file} and {other} would both be {name}: rename one, or name them in scp:FILE"
                )
            files[name] = str(file)
    names = sorted(files)
    return DataDir(
        {name: files[name] for name in names}, {name: name for name in names}, path=Path(inputs[0])
    )


def _files(path: Path) -> list[tuple[str, Path]]:
    if not path.is_dir():
        return [(path.stem, path)]
    found = [
        file
        for file in walk(path)
        if file.suffix.lower() in (*AUDIO_SUFFIXES, *OTHER_SUFFIXES)
        or file.is_dir()  # one that cannot be read
    ]
    if not found:
        raise DataError(
            f"{path}: neither a data directory nor a folder with audio ({' '.join(AUDIO_SUFFIXES)})"
        )
    return [(_name(file, path), file) for file in found]


def _name(file: Path, folder: Path) -> str:
    """Return the name of a file's utterance, or of a folder that cannot be read."""
    if file == folder:
        return folder.name or str(folder)
    inside = file.relative_to(folder)
    return "-".join((inside if file.is_dir() else inside.with_suffix("")).parts)


def one_by_one(data: DataDir, *, allow_pipes: bool) -> Source:
    """The utterances of a data directory."""

    def source(rate: int) -> Iterator[tuple[str, str, Iterable[Waveform]]]:
        if data.segments:
            for name, waveform in data.waveforms(rate, allow_pipes=allow_pipes):
                yield name, name, _raise_or(waveform)
            return
        for name, where in data.recordings.items():
            yield name, where, _decode(where, rate, allow_pipes=allow_pipes)

    return source


def _decode(where: str, rate: int, *, allow_pipes: bool) -> Iterator[Waveform]:
    yield from audio.blocks(locate(where, allow_pipes=allow_pipes), rate, where)


def _raise_or(waveform: Waveform | Exception) -> Iterator[Waveform]:
    if isinstance(waveform, Exception):
        raise waveform
    yield waveform


def standard_input(pcm: int | None = None) -> Source:
    """Return the source of one recording, called `stdin`.

    It is decoded while it arrives where its format allows that (WAV, AU, Ogg).

    Args:
        pcm: The rate in Hz of 16-bit little-endian samples of one channel without a header; None
            for a recording.

    Raises:
        DataError: it is closed.
    """
    where = "standard input"
    if sys.stdin is None:
        raise DataError("standard input: is closed")
    # Without Python's buffer, whose lock a thread that waits for input would hold when the process
    # ends.
    file = io.FileIO(sys.stdin.fileno(), closefd=False)
    return lambda rate: [("stdin", where, _stream(file, rate, where, pcm))]


def _stream(file: io.FileIO, rate: int, where: str, pcm: int | None) -> Iterator[Waveform]:
    try:
        if pcm:
            form = {"samplerate": pcm, "channels": 1, "format": "RAW", "subtype": "PCM_16"}
            with soundfile.SoundFile(file.fileno(), closefd=False, **form) as stream:
                yield from audio.decode(stream, rate, where, claimed=0)
            return
        magic = b""
        while len(magic) < LETTERS and (more := file.read(LETTERS - len(magic))):
            magic += more
        if magic not in LIVE:
            yield from audio.blocks(magic + file.read(), rate, where)
            return
        pages = OggPages() if magic == b"OggS" else None
        pipe = _with(magic, file, pages)
        with os.fdopen(pipe, "rb", buffering=0), soundfile.SoundFile(pipe, closefd=False) as stream:
            # Of a header that does not know the length, the number is as large as the field allows.
            size = stream.frames * stream.channels * WIDTHS.get(stream.subtype, 1)
            yield from audio.decode(stream, rate, where, stream.frames if size < UNKNOWN else 0)
            # All is taken: a writer with something left would be killed by SIGPIPE.
            if follows(iter(lambda: os.read(pipe, PIECE), b"")):
                raise AudioError(
                    f"{where}: another recording follows the first: send one, or an archive to"
                    " ark:-"
                )
            if pages and (found := pages.problem(whole=True)):
                raise AudioError(f"{where}: {found}")
    except (soundfile.LibsndfileError, OSError) as error:
        raise AudioError(
            f"{where}: cannot be decoded ({str(error).rsplit(': ', 1)[-1]}): is it audio?"
        ) from error


def _with(magic: bytes, file: io.FileIO, pages: OggPages | None) -> int:
    """Return a pipe that gives what was read of a file already, and then the file.

    `pages` follows it.
    """
    out, into = os.pipe()

    def pump() -> None:
        block = magic
        # An error may end the reading.
        with (
            suppress(BrokenPipeError),
            os.fdopen(into, "wb", buffering=0) as pipe,
        ):
            while block:
                if pages:
                    pages.push(block)
                while block:
                    block = block[pipe.write(block) :]
                block = file.read(PIECE)  # what has arrived, without waiting

    threading.Thread(target=pump, daemon=True).start()
    return out


def wave_archive(name: str) -> Source:
    """The recordings of a Kaldi archive of WAVs, `-` for standard input.

    A damaged archive ends there.
    """

    def source(rate: int) -> Iterator[tuple[str, str, Iterable[Waveform]]]:
        if name == "-" and sys.stdin is None:
            raise DataError("standard input: is closed")
        with sys.stdin.buffer if name == "-" else Path(name).open("rb") as file:
            while (key := _word(file)) is not None:
                utterance, where = (
                    key.decode(errors="replace"),
                    f"ark:{name}: {key.decode(errors='replace')}",
                )
                try:
                    recording = read_wave(file, where)
                except DataError as error:
                    yield utterance, where, _raise_or(error)
                    return
                yield utterance, where, audio.blocks(recording, rate, where)

    return source


def _word(file: BinaryIO) -> bytes | None:
    """Return what stands before the next space, after white space and the pad byte of an odd WAV.

    At the end it is None.
    """
    letter = file.read(1)
    while letter and letter in b" \t\r\n\0":
        letter = file.read(1)
    letters = [letter]
    while letter and (letter := file.read(1)) not in {b"", b" "} and len(letters) < LONGEST_KEY:
        letters.append(letter)
    return b"".join(letters).strip() or None
