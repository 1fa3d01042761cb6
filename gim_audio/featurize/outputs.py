"""Where features go: a folder of NumPy files or a Kaldi archive, each complete or not there at all."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from gim_audio.errors import DataError
from gim_audio.featurize.encoders import Features
from gim_audio.files import absent, new_folder, write_text
from gim_audio.kaldi import ArchiveWriter, write_table

__all__ = ["Output", "open_output"]

BESIDE = ("utt2num_frames", "frame_shift", "frame_offset", "features.json")


class Output(Protocol):
    """Takes the features of one utterance at a time."""

    def write(self, name: str, matrix: Features) -> None:
        """Write one utterance. Shape: `(frames, channels)`."""


class _Folder:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.frames: dict[str, int] = {}

    def write(self, name: str, matrix: Features) -> None:
        np.save(self.path / f"{name}.npy", matrix)
        self.frames[name] = len(matrix)


class _Archive:
    def __init__(self, writer: ArchiveWriter) -> None:
        self.writer = writer
        self.frames: dict[str, int] = {}

    def write(self, name: str, matrix: Features) -> None:
        if " " in name:
            raise DataError(f"{name}: a Kaldi archive has no names with spaces: rename it, or write a folder")
        self.writer.write(name, matrix)
        self.frames[name] = len(matrix)


@contextmanager
def open_output(specifier: str, description: dict[str, Any]) -> Iterator[Output]:
    """Open a folder or a wspecifier; what describes the features is written beside them at the end.

    Args:
        specifier: a folder, `ark,scp:A,B` or `ark:A`.
        description: of the features, with `frame_shift` and `frame_offset` in seconds.

    Raises:
        GimAudioError: something would be overwritten.
    """
    if specifier.startswith(("ark:", "ark,")):
        writer = ArchiveWriter(specifier)
        for name in BESIDE:
            absent(writer.folder / name)
        with writer:
            archive = _Archive(writer)
            yield archive
        _describe(writer.folder, archive.frames, description)
        return
    with new_folder(Path(specifier)) as temporary:
        folder = _Folder(temporary)
        yield folder
        _describe(temporary, folder.frames, description)


def _describe(folder: Path, frames: dict[str, int], description: dict[str, Any]) -> None:
    write_table(folder / "utt2num_frames", frames)
    write_text(folder / "frame_shift", f"{description['frame_shift']:g}\n")
    write_text(folder / "frame_offset", f"{description['frame_offset']:g}\n")
    write_text(folder / "features.json", json.dumps(description, indent=2) + "\n")
