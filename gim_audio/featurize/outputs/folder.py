"""One file an utterance: NumPy's, torch's (as fastabx reads them) or safetensors."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from gim_audio.featurize.outputs.output import Matrix, Output, Write, describe
from gim_audio.files import absent, new_folder

__all__ = ["FileFormat", "Folder"]

FileFormat = Literal["npy", "pt", "safetensors"]


class Folder(Output):
    """One file an utterance."""

    refuses = ("/", "an utterance name with `/` is no file name: rename it, or write an archive")

    def __init__(self, path: Path, form: FileFormat) -> None:
        self.path, self.folder, self.form = path, path, form

    def check(self) -> None:
        """See `Output.check`."""
        absent(self.folder)

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

                    torch.save(torch.from_numpy(matrix.array()), file)
                else:
                    from safetensors.numpy import save_file

                    save_file({"features": matrix.array()}, file, {k: str(v) for k, v in description.items()})
                rows[matrix.name] = matrix.shape[0]

            yield write
            describe(f"{folder}/", rows, description)


def _npy(stream: BinaryIO, matrix: Matrix) -> None:
    shape = matrix.shape[1:] if matrix.is_vector else matrix.shape
    header = {"descr": np.lib.format.dtype_to_descr(matrix.dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, header)
    stream.writelines(block.data for block in matrix.blocks())
