"""The base of every output, which is checked before any work, and complete or not there at all."""

import json
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gim_audio.files import absent, write_text
from gim_audio.kaldi import write_table

__all__ = ["BESIDE", "Matrix", "Output", "Write", "describe", "spaced"]

BESIDE = ("utt2num_frames", "frame_shift", "frame_offset", "features.json")
"""The files that describe features: in their folder, or beside an archive with its name before
theirs."""


@dataclass(frozen=True)
class Matrix:
    """The features of an utterance, wherever they lie.

    Attributes:
        name: The name of the utterance.
        shape: `(rows, columns)`; a vector has one row.
        is_vector: True where it is written without its first dimension.
        dtype: The type of the numbers.
        blocks: gives them, some rows at a time.
    """

    name: str
    shape: tuple[int, int]
    is_vector: bool
    dtype: np.dtype[Any]
    blocks: Callable[[], Iterator[npt.NDArray[Any]]]

    def array(self) -> npt.NDArray[Any]:
        """All at once. Shape: `(rows, columns)`, of a vector `(columns,)`."""
        parts = list(self.blocks())
        whole = np.concatenate(parts) if parts else np.empty(self.shape, self.dtype)
        return whole[0] if self.is_vector else whole


Write = Callable[[Matrix], None]


class Output(ABC):
    """An output that a user named."""

    path: Path | None
    """The first path of the output; None is standard output."""

    paths: Sequence[Path]
    """All that it writes: files, or a folder."""

    def check(self) -> None:
        """Refuse, before any work is done, what cannot be written.

        Raises:
            GimAudioError: something would be overwritten, or a library is missing.
        """
        for path in self.paths:
            absent(path)

    def remove(self) -> None:
        """Remove what an interrupted run has written."""
        for path in self.paths:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    @abstractmethod
    def open(self, description: dict[str, Any]) -> AbstractContextManager[Write]:
        """A context: yields what takes one utterance after another.

        The file is complete when the context ends.
        """

    def refuse(self, name: str) -> str:
        """Return why an utterance cannot be called that here; nothing if it can."""
        broken = name.splitlines() not in ([], [name]) or "\0" in name
        return (
            f"{name!r}: a name with a line break or a zero byte in it: rename it" if broken else ""
        )


def spaced(name: str) -> bool:
    """Return whether a name holds white space, which separates the columns of Kaldi's tables."""
    return any(character.isspace() for character in name)


def describe(prefix: str, rows: dict[str, int], description: dict[str, Any]) -> None:
    """Write the description of the features, each file's name after the prefix."""
    counts, shift, offset, everything = (Path(f"{prefix}{name}") for name in BESIDE)
    if description["frame_shift"] is not None:
        write_table(counts, rows)  # of a name with spaces, the number is what stands last
        write_text(shift, f"{description['frame_shift']:g}\n")
        write_text(offset, f"{description['frame_offset']:g}\n")
    write_text(everything, json.dumps(description, indent=2) + "\n")
