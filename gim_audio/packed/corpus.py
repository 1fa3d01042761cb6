"""A packed corpus, open for reading."""

import io
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gim_audio.errors import DataError
from gim_audio.files import read_text

__all__ = ["PackedCorpus"]

HEADER = 44
"""Bytes of the WAV header that `pack` writes."""


BLOCK = 2**20
"""Samples that are looked at together."""


class PackedCorpus:
    """A packed corpus, open for reading.

    Args:
        path: The folder that `pack` made. It may have been moved: archives are found by their names
            in it (other tools follow `wav.scp`, which says where they were packed).

    Attributes:
        utterances: names, sorted.
        speakers: The speaker of each utterance.
        samples: The number of samples of each utterance. Shape: `(utterances,)`.
        rate: The sampling rate in Hz.
        fingerprint: The digest of the archives' bytes.

    Raises:
        DataError: it is not a packed corpus, or an archive has another length than the index says.
    """

    def __init__(self, path: Path | str) -> None:
        path = Path(path)
        if not (path / "fingerprint").exists():
            raise DataError(f"{path}: not a packed corpus: `gim-audio pack DATA {path}` makes one")
        self.path = path
        self.fingerprint = read_text(path / "fingerprint").strip()
        self.speakers, lengths, places = (
            _read(path / name) for name in ("utt2spk", "utt2num_samples", "wav.scp")
        )
        self.utterances = list(self.speakers)
        try:
            if not self.utterances == list(lengths) == list(places):
                raise ValueError
            self.samples = np.array([int(length) for length in lengths.values()])
            located = [place.rpartition(":") for place in places.values()]
            self._offsets = np.array([int(offset) for _, _, offset in located]) + HEADER
        except ValueError as error:
            raise DataError(
                f"{path}: wav.scp, utt2spk and utt2num_samples do not agree: pack it again"
            ) from error
        names = [archive.rpartition("/")[2] for archive, _, _ in located]
        numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
        self._archives = np.array([numbers[name] for name in names])
        self._files = [_open(path / name) for name in numbers]
        ends = np.array([file.seek(0, 2) for file in self._files])
        beyond = self._offsets + 2 * self.samples > ends[self._archives]
        if beyond.any():
            name = self.utterances[int(beyond.argmax())]
            raise DataError(f"{path}: {name} lies beyond the end of its archive: pack it again")
        self.rate = int.from_bytes(
            os.pread(self._files[0].fileno(), 4, int(self._offsets[0]) - 20), "little"
        )

    def __len__(self) -> int:
        return len(self.utterances)

    def read(self, index: int) -> npt.NDArray[np.int16]:
        """PCM of an utterance. Shape: `(samples,)`."""
        pcm = np.empty(self.samples[index], dtype="<i2")
        self.fill(pcm, index)
        return pcm

    def fill(self, pcm: npt.NDArray[np.int16], index: int, start: int = 0) -> None:
        """Read a part of an utterance into `pcm`, from sample `start` on.

        A read asks for a crop at once, where a memory map would fault it in page by page from a
        cold disk, and count it as the process's memory.

        Raises:
            DataError: the archive ends before.
            ValueError: `pcm` holds other numbers than 16-bit integers.
        """
        if pcm.dtype != np.dtype("<i2"):
            raise ValueError(f"an array of {pcm.dtype}: expected int16")
        file, byte = self._files[self._archives[index]], int(self._offsets[index]) + 2 * start
        left = memoryview(pcm.data).cast("B")
        while left:
            got = os.preadv(file.fileno(), [left], byte)
            if not got:
                raise DataError(
                    f"{file.name}: cut short since it was opened: pack the corpus again"
                )
            left, byte = left[got:], byte + got

    def statistics(self) -> tuple[float, float]:
        """Mean and standard deviation of all samples in [-1, 1]."""
        total, squares = 0, 0
        for index, samples in enumerate(self.samples.tolist()):
            for start in range(0, samples, BLOCK):
                block = np.empty(min(BLOCK, samples - start), dtype="<i2")
                self.fill(block, index, start)
                pcm = block.astype(np.int64)
                total, squares = total + int(pcm.sum()), squares + int((pcm * pcm).sum())
        mean = total / int(self.samples.sum())
        variance = squares / int(self.samples.sum()) - mean * mean
        return mean / 32768, float(np.sqrt(variance)) / 32768


def _read(path: Path) -> dict[str, str]:
    """A table that `pack` wrote: lines of a name, a space and a value."""
    try:
        lines = read_text(path).removesuffix("\n").split("\n")
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
