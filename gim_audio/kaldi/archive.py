"""Feature archives by Kaldi's specifiers, through kaldiio."""

import os
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from gim_audio.errors import GimAudioError
from gim_audio.files import absent, write_text
from gim_audio.kaldi.datadir import DataDir, read_table

__all__ = ["ArchiveWriter", "read_scp"]


def read_scp(path: Path) -> DataDir:
    """The recordings of an rspecifier `scp:FILE`, each its own speaker."""
    recordings = dict(sorted(read_table(path)))
    return DataDir(recordings, {name: name for name in recordings}, path=path)


class ArchiveWriter:
    """Write matrices to `ark,scp:A,B`; both files appear, whole, when the block succeeds.

    Args:
        specifier: `ark,scp:features.ark,features.scp` or `ark:features.ark`.

    Raises:
        GimAudioError: the specifier is neither, or a file exists.
    """

    def __init__(self, specifier: str) -> None:
        kinds, _, names = specifier.partition(":")
        paths = names.split(",")
        if kinds not in {"ark", "ark,scp"} or len(paths) != len(kinds.split(",")) or not all(paths):
            raise GimAudioError(f"{specifier}: expected ark,scp:FILE.ark,FILE.scp or ark:FILE.ark")
        self.archive = Path(paths[0])
        self.script = Path(paths[1]) if len(paths) == 2 else None
        for path in filter(None, (self.archive, self.script)):
            absent(path)
        self.folder = self.archive.parent
        self._partial = self.folder / f".{self.archive.name}.{os.getpid()}.partial"
        self._offsets: dict[str, int] = {}

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._file = self._partial.open("wb")
        return self

    def write(self, name: str, matrix: npt.NDArray[np.float32]) -> None:
        """Append one utterance. Shape: `(frames, channels)`."""
        import kaldiio

        kaldiio.save_ark(self._file, {name: matrix})
        self._offsets[name] = self._file.tell() - self._size(matrix)

    @staticmethod
    def _size(matrix: npt.NDArray[np.float32]) -> int:
        return 2 + len("FM ") + 2 * (1 + 4) + matrix.nbytes  # "\0B", the type, rows and columns, the numbers

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if kind is not None:
            self._partial.unlink(missing_ok=True)
            return
        self._partial.replace(self.archive)
        if self.script:
            lines = (f"{name} {self.archive}:{offset}\n" for name, offset in sorted(self._offsets.items()))
            write_text(self.script, "".join(lines))
