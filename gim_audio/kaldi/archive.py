"""Kaldi's specifiers of recordings and of feature archives."""

from collections import Counter
from pathlib import Path

from gim_audio.errors import DataError, GimAudioError
from gim_audio.kaldi.datadir import DataDir
from gim_audio.kaldi.tables import read_table

__all__ = ["parse_wspecifier", "read_scp"]


def read_scp(path: Path) -> DataDir:
    """The recordings of an rspecifier `scp:FILE`, each its own speaker.

    Raises:
        DataError: there are none, or two have one name.
    """
    rows = read_table(path)
    recordings = dict(sorted(rows))
    if not rows or len(recordings) < len(rows):
        twice = next(
            (name for name, count in Counter(name for name, _ in rows).items() if count > 1), ""
        )
        raise DataError(
            f"{path}: {f'the name {twice} stands twice' if rows else 'lists no recordings'}"
        )
    return DataDir(recordings, {name: name for name in recordings}, path=path)


def parse_wspecifier(specifier: str) -> tuple[Path, Path | None]:
    """Return the archive and the script file of a Kaldi output.

    They are those of `ark,scp:FILE.ark,FILE.scp`, or the archive of `ark:FILE.ark`.

    Raises:
        GimAudioError: it is neither.
    """
    kinds, _, names = specifier.partition(":")
    paths = names.split(",")
    if kinds not in {"ark", "ark,scp"} or len(paths) != len(kinds.split(",")) or not all(paths):
        raise GimAudioError(f"{specifier}: expected ark,scp:FILE.ark,FILE.scp or ark:FILE.ark")
    if any(part.strip().startswith("|") or part.strip().endswith("|") for part in paths):
        raise GimAudioError(
            f"{specifier}: commands are not run: write to ark:- and send that on, `… ark:- |"
            " COMMAND`"
        )
    return Path(paths[0]), Path(paths[1]) if len(paths) == 2 else None
