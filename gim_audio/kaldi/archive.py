"""Feature archives by Kaldi's specifiers, through kaldiio."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gim_audio.errors import DataError, GimAudioError
from gim_audio.files import absent, new_file, write_text
from gim_audio.kaldi.datadir import DataDir, read_table

__all__ = ["parse_wspecifier", "read_scp", "write_archive"]


def read_scp(path: Path) -> DataDir:
    """The recordings of an rspecifier `scp:FILE`, each its own speaker.

    Raises:
        DataError: there are none, or two have one name.
    """
    rows = read_table(path)
    recordings = dict(sorted(rows))
    if not rows or len(recordings) < len(rows):
        raise DataError(f"{path}: {'a name stands twice' if rows else 'lists no recordings'}")
    return DataDir(recordings, {name: name for name in recordings}, path=path)


def parse_wspecifier(specifier: str) -> tuple[Path, Path | None]:
    """The archive and the script file of `ark,scp:FILE.ark,FILE.scp`, or the archive of `ark:FILE.ark`.

    Raises:
        GimAudioError: it is neither.
    """
    kinds, _, names = specifier.partition(":")
    paths = names.split(",")
    if kinds not in {"ark", "ark,scp"} or len(paths) != len(kinds.split(",")) or not all(paths):
        raise GimAudioError(f"{specifier}: expected ark,scp:FILE.ark,FILE.scp or ark:FILE.ark")
    return Path(paths[0]), Path(paths[1]) if len(paths) == 2 else None


@contextmanager
def write_archive(specifier: str) -> Iterator[Callable[[str, npt.NDArray[np.float32]], None]]:
    """Yield a function that appends a matrix `(frames, channels)` under a name; files appear, whole, at the end.

    Raises:
        GimAudioError: a file exists already, or the specifier is not understood.
    """
    import kaldiio

    archive, script = parse_wspecifier(specifier)
    for path in filter(None, (archive, script)):
        absent(path)
    offsets: dict[str, int] = {}
    with new_file(archive) as temporary, temporary.open("wb") as file:

        def write(name: str, matrix: npt.NDArray[np.float32]) -> None:
            file.write(f"{name} ".encode())
            offsets[name] = file.tell()
            kaldiio.save_mat(file, matrix)

        yield write
    if script:
        write_text(script, "".join(f"{name} {archive}:{offset}\n" for name, offset in sorted(offsets.items())))
