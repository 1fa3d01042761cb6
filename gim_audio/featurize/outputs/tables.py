"""One file for all utterances: HDF5, Parquet or Arrow."""

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from gim_audio.errors import GimAudioError
from gim_audio.featurize.outputs.output import Matrix, Output, Write
from gim_audio.files import new_file

__all__ = ["Arrow", "Hdf5"]

ROW_GROUP_BYTES = 2**26


class Hdf5(Output):
    """A dataset an utterance."""

    def __init__(self, path: Path) -> None:
        self.path, self.file, self.paths = path, path, [path]

    def check(self) -> None:
        """See `Output.check`."""
        super().check()
        _library("h5py", str(self.file))

    def refuse(self, name: str) -> str:
        """See `Output.refuse`."""
        if "/" in name or name == ".":
            return f"{name}: HDF5 takes `/` and `.` for groups: rename it"
        return super().refuse(name)

    @contextmanager
    def open(self, description: dict[str, Any]) -> Iterator[Write]:
        """See `Output.open`."""
        import h5py

        with new_file(self.file) as temporary, _Patient(temporary, "w+") as raw:
            with h5py.File(raw, "w", libver="latest") as file:
                file.attrs.update(_told(description))

                def write(matrix: Matrix) -> None:
                    if matrix.is_vector:
                        file.create_dataset(matrix.name, data=matrix.array())
                    else:
                        dataset, at = (
                            file.create_dataset(matrix.name, matrix.shape, matrix.dtype),
                            0,
                        )
                        for block in matrix.blocks():
                            dataset[at : at + len(block)] = block
                            at += len(block)
                    raw.complain()

                yield write
            raw.complain()


class _Patient(io.FileIO):
    """Keeps its first error until it is asked.

    HDF5 writes in destructors too, each of which would print its own.
    """

    error: OSError | None = None

    def write(self, data: Any) -> int:
        """Return all rows, or those before the error."""
        left = memoryview(data).cast("B")
        size = len(left)
        try:
            while len(left) and not self.error:
                left = left[super().write(left) :]
        except OSError as error:
            self.error = error
        return size

    def truncate(self, size: int | None = None) -> int:
        """See `io.FileIO.truncate`."""
        try:
            return super().truncate(size)
        except OSError as error:
            self.error = self.error or error
            return size or 0

    def complain(self) -> None:
        """Raise the error, if there was one."""
        if self.error:
            raise self.error


class Arrow(Output):
    """A row an utterance: its name, and its frames as a list of lists."""

    def __init__(self, path: Path, *, parquet: bool) -> None:
        self.path, self.file, self.parquet, self.paths = path, path, parquet, [path]

    def check(self) -> None:
        """See `Output.check`."""
        super().check()
        _library("pyarrow", str(self.file))

    @contextmanager
    def open(self, description: dict[str, Any]) -> Iterator[Write]:
        """See `Output.open`."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        metadata = _told(description)
        columns, number = (
            description["channels"],
            pa.from_numpy_dtype(np.dtype(description["dtype"])),
        )
        frame = pa.list_(number, columns)
        vectors = description["frame_shift"] is None
        schema = pa.schema(
            [("utterance", pa.string()), ("features", frame if vectors else pa.list_(frame))],
            metadata,
        )
        names: list[str] = []
        held: list[Any] = []
        with new_file(self.file) as temporary:
            writer = (
                pq.ParquetWriter(temporary, schema)
                if self.parquet
                else pa.ipc.new_file(str(temporary), schema)
            )

            def flush() -> None:
                if names:
                    frames = pa.FixedSizeListArray.from_arrays(
                        pa.array(np.concatenate(held).reshape(-1)), columns
                    )
                    offsets = np.cumsum([0, *map(len, held)])
                    features = frames if vectors else pa.LargeListArray.from_arrays(offsets, frames)
                    if not vectors:
                        features = features.cast(pa.list_(frame))
                    writer.write_batch(pa.record_batch([pa.array(names), features], schema=schema))
                names.clear()
                held.clear()

            def write(matrix: Matrix) -> None:
                names.append(matrix.name)
                held.append(np.atleast_2d(matrix.array()))
                if sum(part.nbytes for part in held) > ROW_GROUP_BYTES:
                    flush()

            with writer:
                yield write
                flush()


def _told(description: dict[str, Any]) -> dict[str, str]:
    """Return the description of the features: text as it is, all else as JSON."""
    return {
        key: value if isinstance(value, str) else json.dumps(value)
        for key, value in description.items()
    }


def _library(name: str, output: str) -> None:
    from importlib.util import find_spec

    if not find_spec(name):
        raise GimAudioError(
            f"{output}: needs {name}: pip install 'gim-audio[formats]', or choose another format"
        )
