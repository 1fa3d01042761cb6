"""Where features go: a folder of NumPy files or a Kaldi archive, each complete or not there at all."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from gim_audio.errors import DataError
from gim_audio.featurize.encoders import Features
from gim_audio.files import absent, new_folder, write_text
from gim_audio.kaldi import parse_wspecifier, write_archive, write_table

__all__ = ["Write", "check_output", "open_output"]

BESIDE = ("utt2num_frames", "frame_shift", "frame_offset", "features.json")

Write = Callable[[str, Features], None]
"""Takes an utterance's name and its features. Shape: `(frames, channels)`."""


def check_output(specifier: str) -> None:
    """Refuse what cannot be written, before any work is done.

    Raises:
        GimAudioError: something would be overwritten, or a wspecifier is not understood.
    """
    if not _is_archive(specifier):
        absent(Path(specifier))
        return
    archive, script = parse_wspecifier(specifier)
    for path in (archive, script, *(archive.parent / name for name in BESIDE)):
        if path:
            absent(path)


@contextmanager
def open_output(specifier: str, description: dict[str, Any]) -> Iterator[Write]:
    """Open a folder or a wspecifier; what describes the features is written beside them at the end.

    Args:
        specifier: a folder, `ark,scp:A,B` or `ark:A`.
        description: of the features, with `frame_shift` and `frame_offset` in seconds.
    """
    check_output(specifier)
    frames: dict[str, int] = {}
    if _is_archive(specifier):
        with write_archive(specifier) as append:

            def write_matrix(name: str, matrix: Features) -> None:
                if " " in name:
                    raise DataError(f"{name}: a Kaldi archive has no names with spaces: rename it, or write a folder")
                append(name, matrix)
                frames[name] = len(matrix)

            yield write_matrix
        _describe(parse_wspecifier(specifier)[0].parent, frames, description)
        return
    with new_folder(Path(specifier)) as folder:

        def write_file(name: str, matrix: Features) -> None:
            if "/" in name:
                raise DataError(f"{name}: an utterance name with `/` is no file name: rename it, or write an archive")
            np.save(folder / f"{name}.npy", matrix)
            frames[name] = len(matrix)

        yield write_file
        _describe(folder, frames, description)


def _is_archive(specifier: str) -> bool:
    return specifier.startswith(("ark:", "ark,"))


def _describe(folder: Path, frames: dict[str, int], description: dict[str, Any]) -> None:
    write_table(folder / "utt2num_frames", frames)
    write_text(folder / "frame_shift", f"{description['frame_shift']:g}\n")
    write_text(folder / "frame_offset", f"{description['frame_offset']:g}\n")
    write_text(folder / "features.json", json.dumps(description, indent=2) + "\n")
