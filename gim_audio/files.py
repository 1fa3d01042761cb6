"""Write under a temporary name, then rename: a killed process leaves the old file or the new one."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gim_audio.errors import GimAudioError

__all__ = ["absent", "free_bytes", "new_file", "new_folder", "replace_link", "write_text"]


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path in `path`'s folder; rename it to `path` when the block succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{os.getpid()}.partial"
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; rename it to `path` when the block succeeds.

    Raises:
        GimAudioError: `path` exists already and is not an empty folder.
    """
    absent(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent))
    temporary.chmod(0o755)  # mkdtemp makes it private to this user
    try:
        yield temporary
        temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def absent(path: Path) -> None:
    """Refuse a path where something would be overwritten.

    Raises:
        GimAudioError: `path` is a file or a folder that is not empty.
    """
    if path.is_file() or (path.is_dir() and any(path.iterdir())):
        raise GimAudioError(f"{path} exists already: remove it or choose another name")


def write_text(path: Path, text: str) -> None:
    """Write a small text file in one piece."""
    with new_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def replace_link(link: Path, target: str) -> None:
    """Point the symbolic link `link` at `target`, without a moment in which it is missing."""
    temporary = link.parent / f".{link.name}.{os.getpid()}.partial"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    temporary.replace(link)


def free_bytes(path: Path) -> int:
    """Free space of the file system that holds `path` or, while that is missing, its nearest parent."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free
