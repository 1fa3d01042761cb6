"""Write under a temporary name, then rename.

A killed process leaves the old file or the new one.
"""

import errno
import fcntl
import glob
import json
import os
import shutil
import socket
import sys
from collections import deque
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from gim_audio.errors import DataError, GimAudioError

__all__ = [
    "LOCKS",
    "absent",
    "follow",
    "free_bytes",
    "lock",
    "new_file",
    "new_folder",
    "read_json_lines",
    "read_text",
    "replace_link",
    "set_mode",
    "umask",
    "walk",
    "write_text",
]

LACKS = {errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM}
"""The errors of a file system that cannot do something."""
LOCKS = (".lock", ".locked")
"""A file that is locked and, where there are no locks, one that is a lock by being there."""


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path in `path`'s folder; rename it to `path` when the block succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    try:
        yield temporary
        with temporary.open("rb") as file, _if_it_can():
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise _named(error, path) from error
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
    temporary = _temporary(path)
    temporary.mkdir()
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise _named(error, path) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def absent(path: Path, *, but: Collection[str] = ()) -> None:
    """Refuse a path where something would be overwritten, or nothing can be made.

    Args:
        path: A file or folder to be made.
        but: Names of files that its folder may hold.

    Raises:
        GimAudioError: `path` exists, and not as a folder that holds nothing else; or its folder
            is closed.
    """
    empty = path.is_dir() and all(inside.name in but for inside in path.iterdir())
    if os.path.lexists(path) and not empty:
        raise GimAudioError(f"{path} exists already: remove it or choose another name")
    place = _nearest(path)
    if not place.is_dir():
        raise GimAudioError(f"{path}: {place} is a file, not a folder: choose another place")
    if not os.access(place, os.W_OK | os.X_OK, effective_ids=True):
        raise GimAudioError(f"{path}: {place} may not be written in: choose another place")


def read_text(path: Path) -> str:
    """Return what a text file in UTF-8 holds, without a byte order mark.

    Raises:
        DataError: It is not text in UTF-8; names the line.
        OSError: It cannot be opened.
    """
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}, line {line}: not UTF-8 text") from error
    if "\0" in text:
        raise DataError(
            f"{path}, line {text.count(chr(10), 0, text.index(chr(0))) + 1}: not text: it holds a"
            " zero byte"
        )
    return text


def read_json_lines(path: Path) -> Iterator[Any]:
    """Yield the values of a file with one JSON value a line.

    A killed process or a broken disk may leave parts: lines that are no JSON are passed over, and
    so is a last line without an end. A file that is missing has no lines.
    """
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            found = None
            with suppress(ValueError, RecursionError):
                found = json.loads(line) if line.endswith("\n") else None
            if found is not None:
                yield found


def write_text(path: Path, text: str) -> None:
    """Write a small text file in one piece."""
    with new_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def replace_link(link: Path, target: str) -> None:
    """Point the symbolic link `link` at `target`, without a moment in which it is missing.

    Where the file system has no links, it is a text file with the name of the target: see `follow`.
    """
    temporary = _temporary(link)
    try:
        temporary.symlink_to(target)
        temporary.replace(link)
    except OSError as error:
        if error.errno not in LACKS:
            raise
        _note(f"{link}: the file system has no links: it is a file with the name of the target")
        write_text(link, f"{target}\n")


def follow(link: Path) -> Path:
    """Return what a link of `replace_link` points at; another path is itself."""
    if link.is_symlink() or not link.is_file():
        return Path(os.path.realpath(link))
    return link.parent / read_text(link).strip()


@cache
def _note(text: str) -> None:
    """Tell the user once."""
    print(f"note: {text}", file=sys.stderr)  # noqa: T201 - the command line stands above this file


def set_mode(path: Path, mode: int) -> None:
    """Set permissions, where the file system has such."""
    with _if_it_can():
        path.chmod(mode)


@contextmanager
def _if_it_can() -> Iterator[None]:
    """Pass over what the file system cannot do.

    Some of networks and of removable disks lack locks, links or modes.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in LACKS:
            raise


def _own() -> str:
    """Return the name of this process for others; a fork has another than its parent."""
    return f"process {os.getpid()} of {socket.gethostname()}\n"


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Keep other processes that ask for it out of a folder.

    The lock goes with the process, however it ends.

    Raises:
        GimAudioError: another process is in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        file = held.enter_context((folder / LOCKS[0]).open("a+", encoding="utf-8"))
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise GimAudioError(
                f"{folder}: {file.read().strip()} is at work there: wait for it"
            ) from error
        except OSError as error:
            if error.errno not in LACKS:
                raise
            _note(
                f"{folder}: the file system has no locks: the file {LOCKS[1]} is one while this"
                " process runs"
            )
            held.enter_context(_lock_by_name(folder / LOCKS[1]))
        file.truncate(0)
        file.write(_own())
        file.flush()
        yield


@contextmanager
def _lock_by_name(path: Path) -> Iterator[None]:
    """Keep others out by a lock file, for file systems without locks.

    It may outlive its process.
    """
    process, _, host = "", "", ""
    with suppress(OSError, DataError):
        process, _, host = read_text(path).removeprefix("process ").strip().partition(" of ")
    if host == socket.gethostname() and process.isdecimal() and not _runs(int(process)):
        stale = _temporary(path)
        path.rename(stale)  # another process that finds it stale too must not remove our own
        stale.unlink()
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(_own())
    except FileExistsError as error:
        raise GimAudioError(
            f"{path.parent}: process {process} of {host} is at work there; if it is not, remove"
            f" {path}"
        ) from error
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def walk(folder: Path) -> Iterator[Path]:
    """Yield the files of a folder and of all folders below it, and folders that cannot be read.

    Links to folders are followed; a folder that is reached in two ways is entered once, by the
    shorter. Hidden files and folders are passed over: archives made on a Mac hold a `._NAME` beside
    each file.
    """
    seen, folders = set(), deque([folder])
    while folders:
        here = folders.popleft()
        try:
            stat, entries = (
                here.stat(),
                sorted(here.iterdir(), key=lambda entry: (entry.is_symlink(), entry)),
            )
            inside = [
                (entry, entry.is_dir()) for entry in entries if not entry.name.startswith(".")
            ]
        except OSError:
            yield here
            continue
        if (stat.st_dev, stat.st_ino) in seen:
            continue
        seen.add((stat.st_dev, stat.st_ino))
        for entry, is_folder in inside:
            if is_folder:
                folders.append(entry)
            else:
                yield entry


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True  # another user's
    return True


def umask() -> int:
    """Return the permissions that this process takes away from what it makes."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def free_bytes(path: Path) -> int:
    """Return the free space of the file system that holds `path`.

    While `path` is missing, it is that of its nearest parent.
    """
    return shutil.disk_usage(_nearest(path)).free


def _nearest(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path


def _named(error: OSError, path: Path) -> Exception:
    """An error of writing says only what went wrong; say also where."""
    named = error.filename is not None and not str(error.filename).endswith(".partial")
    return (
        error
        if named
        else GimAudioError(f"{path}: {error.strerror or error}; nothing was written there")
    )


def _temporary(path: Path) -> Path:
    """Return a name beside `path` for this process.

    What killed processes of this machine left is removed.
    """
    prefix = f".{path.name}.{socket.gethostname()}."
    for leftover in path.parent.glob(f"{glob.escape(prefix)}*.partial"):
        process = leftover.name.removeprefix(prefix).removesuffix(".partial")
        if (
            not process.isdigit()
            or int(process) == os.getpid()
            or not Path("/proc", process).exists()
        ):
            (
                shutil.rmtree(leftover)
                if leftover.is_dir() and not leftover.is_symlink()
                else leftover.unlink()
            )
    return path.parent / f"{prefix}{os.getpid()}.partial"
