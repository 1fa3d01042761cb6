"""One file an utterance: NumPy's, torch's (as fastabx reads them) or safetensors."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from gim_audio.featurize.outputs.output import Matrix, Output, Write, describe
from gim_audio.files import new_folder

__all__ = ["FileFormat", "Folder"]

LONGEST_NAME = 200
"""Bytes; a file system takes 255, and libraries put something behind it while they write."""

FileFormat = Literal["npy", "pt", "safetensors"]


class Folder(Output):
    """One file an utterance."""

    def __init__(self, path: Path, form: FileFormat) -> None:
        self.path, self.folder, self.form, self.paths = path, path, form, [path]

    def refuse(self, name: str) -> str:
        """See `Output.refuse`."""
        if "/" in name:
            return (
                f"{name}: an utterance name with `/` is no file name: rename it, or write an"
                " archive"
            )
        if len(f"{name}.{self.form}".encode(errors="surrogateescape")) > LONGEST_NAME:
            return f"{name}: is too long for a file name: rename it, or write an archive"
        return super().refuse(name)

    @contextmanager
    def open(self, description: dict[str, Any]) -> Iterator[Write]:
        """See `Output.open`."""
        rows: dict[str, int] = {}
        with new_folder(self.folder) as folder:

            def write(matrix: Matrix) -> None:
                file = folder / f"{matrix.name}.{self.form}"
                if self.form == "npy":
                    with file.open("wb") as stream:
                        _npy(stream, matrix)
                elif self.form == "pt":
                    import torch

                    with file.open("wb") as stream:
                        torch.save(torch.from_numpy(matrix.array()), stream)
                else:
                    from safetensors.numpy import save

                    told = {
                        "features.json": json.dumps(description)
                    }  # of several keys the order would be random
                    file.write_bytes(save({"features": matrix.array()}, told))
                rows[matrix.name] = matrix.shape[0]

            yield write
            describe(f"{folder}/", rows, description)


def _npy(stream: BinaryIO, matrix: Matrix) -> None:
    shape = matrix.shape[1:] if matrix.is_vector else matrix.shape
    header = {
        "descr": np.lib.format.dtype_to_descr(matrix.dtype),
        "fortran_order": False,
        "shape": shape,
    }
    np.lib.format.write_array_header_1_0(stream, header)
    stream.writelines(block.data for block in matrix.blocks())
