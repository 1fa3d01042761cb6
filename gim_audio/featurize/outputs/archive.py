"""Kaldi's archive: binary, compressed or text, with a script file or without; or a stream."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from gim_audio.errors import GimAudioError
from gim_audio.featurize.outputs.output import BESIDE, Matrix, Output, Write, describe, spaced
from gim_audio.files import new_file, write_text
from gim_audio.kaldi import parse_wspecifier

__all__ = ["Archive"]

SUFFIXES = {".ark", ".txt"}


class Archive(Output):
    """A Kaldi archive: `ark:A`, `ark,scp:A,B` or `ark,t:A`; `-` is standard output."""

    def __init__(self, specifier: str, *, compress: bool) -> None:
        kinds, _, names = specifier.partition(":")
        self.text = ",t" in kinds
        if self.text and compress:
            raise GimAudioError(f"{specifier}: text is not compressed: leave --compress out")
        archive, self.script = parse_wspecifier(f"{kinds.replace(',t', '')}:{names}")
        self.compress = compress
        self.path = None if str(archive) == "-" else archive
        self._prefix = f"{archive.with_suffix('') if archive.suffix in SUFFIXES else archive}."
        beside = [Path(f"{self._prefix}{name}") for name in BESIDE]
        self.paths = [path for path in (archive, self.script, *beside) if path] if self.path else []
        if self.path is None and self.script:
            raise GimAudioError(f"{specifier}: standard output has no script file: ark:-")

    def refuse(self, name: str) -> str:
        """See `Output.refuse`."""
        reason = "a Kaldi archive has no names with spaces: rename it, or write a folder"
        return f"{name}: {reason}" if spaced(name) else ""

    @contextmanager
    def open(self, description: dict[str, Any]) -> Iterator[Write]:
        """See `Output.open`."""
        if self.path is None:
            if sys.stdout is None:
                raise GimAudioError("standard output: is closed")
            pipe = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
            try:
                yield lambda matrix: self._write_on(pipe, matrix)
            finally:
                with suppress(OSError):  # it has been reported
                    pipe.close()
            return
        rows: dict[str, int] = {}
        offsets: dict[str, int] = {}
        with new_file(self.path) as temporary, temporary.open("wb") as stream:

            def write(matrix: Matrix) -> None:
                offsets[matrix.name] = stream.tell() + len(f"{matrix.name} ".encode())
                self._write(stream, matrix)
                rows[matrix.name] = matrix.shape[0]

            yield write
        if self.script:
            write_text(
                self.script,
                "".join(f"{name} {self.path}:{at}\n" for name, at in sorted(offsets.items())),
            )
        describe(self._prefix, rows, description)

    def _write_on(self, stream: BinaryIO, matrix: Matrix) -> None:
        try:
            self._write(stream, matrix)
        except BrokenPipeError as error:
            raise GimAudioError(
                f"standard output: its reader went away before {matrix.name} was written"
            ) from error
        except OSError as error:
            raise GimAudioError(f"standard output: {error.strerror}, at {matrix.name}") from error

    def _write(self, stream: BinaryIO, matrix: Matrix) -> None:
        import kaldiio

        stream.write(f"{matrix.name} ".encode())
        if self.text or self.compress or matrix.is_vector:
            if self.text:
                _text(stream, matrix)
            else:
                # 2: a byte a number, for features.
                method = 2 if self.compress and not matrix.is_vector else None
                kaldiio.save_mat(stream, matrix.array(), compression_method=method)
        else:  # as kaldiio writes it, which would want the whole matrix twice
            stream.write(
                b"\0BFM " + b"".join(b"\4" + n.to_bytes(4, "little") for n in matrix.shape)
            )
            stream.writelines(block.data for block in matrix.blocks())
        stream.flush()


def _text(stream: BinaryIO, matrix: Matrix) -> None:
    stream.write(b" [" + (b" " if matrix.is_vector else b"\n"))
    for block in matrix.blocks():
        np.savetxt(stream, block, fmt="%.9g", newline=" ]\n" if matrix.is_vector else "\n")
    if not matrix.is_vector:
        stream.write(b"]\n")
