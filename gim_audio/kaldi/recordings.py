"""Extended file names: a file, a place in an archive, or a command."""

import os
import re
import subprocess
from pathlib import Path
from typing import BinaryIO

from gim_audio.containers import STREAMED
from gim_audio.errors import DataError

__all__ = ["identity", "locate", "read_wave"]


def locate(extended: str, *, allow_pipes: bool = False) -> Path | bytes:
    """Return the file or the bytes that an extended file name stands for.

    Raises:
        DataError: a pipe without `allow_pipes`, a command that fails, or an offset where no WAV
            begins.
    """
    if extended.endswith("|"):
        if not allow_pipes:
            raise DataError(
                f"`{extended}` is a command: --allow-pipes runs it, if you trust this data"
                " directory"
            )
        result = subprocess.run(extended[:-1], shell=True, capture_output=True, check=False)  # noqa: S602
        if result.returncode:
            reason = result.stderr.decode(errors="replace").strip().rsplit("\n", 1)[-1]
            raise DataError(f"`{extended}` failed with status {result.returncode}: {reason}")
        return result.stdout
    archive = re.fullmatch(r"(.+):(\d+)", extended)
    if not archive or os.path.lexists(extended):
        return Path(extended)
    try:
        with Path(archive[1]).open("rb") as file:
            file.seek(int(archive[2]))
            return read_wave(file, extended)
    except (OSError, OverflowError) as error:
        raise DataError(f"{archive[1]}: {getattr(error, 'strerror', None) or error}") from error


def read_wave(file: BinaryIO, name: str) -> bytes:
    """Return the WAV that lies next in an archive.

    Raises:
        DataError: There is none, or it does not say how long it is: what follows would be taken for
            it.
    """
    start = file.read(8)
    if start[:4] != b"RIFF":
        raise DataError(f"{name}: no WAV begins there")
    if not 0 < (length := int.from_bytes(start[4:], "little")) < STREAMED:
        raise DataError(
            f"{name}: a WAV of unknown length in an archive: nobody knows where it ends"
        )
    return start + file.read(length)


def identity(extended: str) -> tuple[int, int] | None:
    """Size and time of change of a recording's file.

    Another one under the same name is not taken for it.
    """
    archive = re.fullmatch(r"(.+):\d+", extended)
    try:
        stat = Path(archive[1] if archive and not os.path.lexists(extended) else extended).stat()
    except OSError:
        return None
    return stat.st_size, stat.st_mtime_ns
