"""The finished part of a run, in a folder beside its output.

A run that was killed continues from there.
"""

import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from gim_audio.errors import GimAudioError
from gim_audio.featurize.encoders import Features
from gim_audio.files import lock, read_json_lines, write_text

__all__ = ["IndexEntry", "Shard", "Work", "named"]

BLOCK_BYTES = 2**22
PLAN, WRITING = "plan.json", "writing"


@dataclass(frozen=True, slots=True)  # there may be a million
class IndexEntry:
    """The outcome of an utterance: where its features of one module lie, or why there are none.

    Attributes:
        name: The name of the utterance.
        module: number, from 1.
        failed: the reason, where there is one.
        note: A note on the audio for the user.
        seconds: The length of the audio.
        file: The file that holds the features; from `offset` on, `rows` times `columns` numbers.
    """

    name: str
    module: int = 0
    failed: str = ""
    note: str = ""
    seconds: float = 0.0
    file: str = ""
    offset: int = 0
    rows: int = 0
    columns: int = 0


class Shard:
    """The work of one process.

    It is a file of frames for each module, and an index that is written after them.
    """

    def __init__(self, folder: Path, dtype: np.dtype[Any], modules: Sequence[int]) -> None:
        self.number, self.dtype = 0, dtype
        while True:  # another process may be about to take the same number
            try:
                self._index = (folder / f"shard-{self.number}.index").open("x", encoding="utf-8")
                break
            except FileExistsError:
                self.number += 1
        self._files = {m: (folder / f"shard-{self.number}.module-{m}").open("wb") for m in modules}

    def append(self, done: IndexEntry, pieces: Iterable[Sequence[Features]]) -> list[IndexEntry]:
        """Write the frames of an utterance as they come, a matrix a module.

        Return index entries, with the places of the features.
        """
        begin = {module: file.tell() for module, file in self._files.items()}
        rows, columns = dict.fromkeys(begin, 0), dict.fromkeys(begin, 0)
        try:
            for matrices in pieces:
                for (module, file), matrix in zip(self._files.items(), matrices, strict=True):
                    file.write(np.ascontiguousarray(matrix, self.dtype).data)
                    rows[module] += len(matrix)
                    columns[module] = matrix.shape[1]
        except BaseException:
            for module, file in self._files.items():
                file.seek(begin[module])
                file.truncate()
            raise
        return [
            replace(
                done,
                module=module,
                file=Path(file.name).name,
                offset=begin[module],
                rows=rows[module],
                columns=columns[module],
            )
            for module, file in self._files.items()
        ]

    def enter(self, utterances: Iterable[list[IndexEntry]]) -> None:
        """Enter in the index what has been appended.

        A line holds an utterance with all of its modules, or none.
        """
        for file in self._files.values():
            file.flush()
        lines = ([asdict(entry) for entry in entries] for entries in utterances)
        self._index.write("".join(json.dumps(line) + "\n" for line in lines))
        self._index.flush()

    def clear(self) -> None:
        """Forget the frames: they have been read."""
        for file in self._files.values():
            file.seek(0)
            file.truncate()


class Work:
    """The folder: a plan, and shards."""

    def __init__(self, folder: Path, dtype: str) -> None:
        self.folder, self.dtype = folder, np.dtype(dtype)

    @classmethod
    @contextmanager
    def begin(cls, folder: Path, dtype: str, plan: dict[str, Any]) -> Iterator["Work"]:
        """Continue what was begun by the same plan, or begin.

        The folder is kept when the block is left by an error.

        Raises:
            GimAudioError: another process works on it, or nothing more can be written.
        """
        with lock(folder):
            if not cls._goes_on(folder, plan):
                for leftover in (*folder.glob("shard-*"), folder / WRITING):
                    leftover.unlink(missing_ok=True)
                write_text(folder / PLAN, _text(plan))
            with named(folder):
                yield cls(folder, dtype)
            shutil.rmtree(folder)

    @classmethod
    def was_writing(cls, folder: Path, plan: dict[str, Any]) -> bool:
        """Return whether a run of this plan was interrupted while it wrote.

        The output there is then its own.
        """
        return cls._goes_on(folder, plan) and (folder / WRITING).exists()

    @staticmethod
    def _goes_on(folder: Path, plan: dict[str, Any]) -> bool:
        return (folder / PLAN).exists() and (folder / PLAN).read_text(encoding="utf-8") == _text(
            plan
        )

    def writes(self) -> None:
        """Note that the output is written from now on."""
        (self.folder / WRITING).touch()

    def done(self) -> dict[str, list[IndexEntry]]:
        """Return the entries of each utterance.

        There is one for each module, or one that says why there is none.
        """
        found: dict[str, list[IndexEntry]] = {}
        for index in self.folder.glob("shard-*.index"):
            for line in read_json_lines(index):
                with suppress(TypeError, IndexError):  # the line is no whole entry
                    entries = [IndexEntry(**entry) for entry in line]
                    name = entries[0].name
                    # What failed once may have been tried again.
                    if name not in found or found[name][0].failed:
                        found[name] = entries
        return found

    def shard(self, modules: Sequence[int]) -> Shard:
        """A new one."""
        return Shard(self.folder, self.dtype, modules)

    def blocks(self, done: IndexEntry) -> Iterator[Features]:
        """Yield the features of an utterance in blocks of rows. Shape: `(rows, columns)`."""
        with (self.folder / done.file).open("rb") as file:
            file.seek(done.offset)
            step, left = (
                max(1, BLOCK_BYTES // (self.dtype.itemsize * max(1, done.columns))),
                done.rows,
            )
            while left:
                rows = min(step, left)
                yield np.fromfile(file, self.dtype, rows * done.columns).reshape(rows, done.columns)
                left -= rows


@contextmanager
def named(folder: Path) -> Iterator[None]:
    """An error of writing says only what went wrong; say also where, and what is to be done."""
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        reason = f"{error.strerror or error}: what is done is kept there, the same command goes on"
        raise GimAudioError(f"{folder}: {reason}") from error


def _text(plan: dict[str, Any]) -> str:
    return json.dumps(plan, indent=2, sort_keys=True)
