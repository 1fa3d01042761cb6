"""The outputs of features, in formats that other tools read."""

from pathlib import Path

from gim_audio.errors import GimAudioError
from gim_audio.featurize.outputs.archive import Archive
from gim_audio.featurize.outputs.folder import FileFormat, Folder
from gim_audio.featurize.outputs.output import Matrix, Output, Write
from gim_audio.featurize.outputs.tables import Arrow, Hdf5

__all__ = ["FileFormat", "Matrix", "Output", "Write", "parse_output"]

TABLES = {
    ".h5": "hdf5",
    ".hdf5": "hdf5",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
}
FILES = {".npy", ".npz", ".pt", ".safetensors", ".ark", ".scp", ".csv", ".mat", ".txt"}
"""Endings of what is no output by itself."""


def parse_output(
    specifier: str, form: FileFormat = "npy", dtype: str = "float32", *, compress: bool
) -> Output:
    """Return the output that a name asks for.

    It is `ark:A`, `ark,scp:A,B` or `ark,t:A` (`-` is standard output), a table by its ending, or a
    folder.

    Raises:
        GimAudioError: it is not understood, or does not go with the other settings.
    """
    kinds = specifier.partition(":")[0].split(",")
    if ":" in specifier and set(kinds) <= {"ark", "scp", "t"}:
        if dtype != "float32":
            raise GimAudioError(
                f"{specifier}: Kaldi has no {dtype}: leave --dtype out; --compress makes it smaller"
            )
        return Archive(specifier, compress=compress)
    if compress:
        raise GimAudioError(f"{specifier}: --compress is Kaldi's: it goes with ark: and ark,scp:")
    path = Path(specifier)
    if not specifier or specifier == "-" or path.suffix in FILES:
        raise GimAudioError(
            f"{specifier or 'OUTPUT'}: name a folder, ark:FILE (ark:- is standard output) or"
            " FILE.h5"
        )
    if kind := TABLES.get(path.suffix):
        if form != "npy":
            raise GimAudioError(f"{specifier}: --format {form} is of the files in a folder")
        return Hdf5(path) if kind == "hdf5" else Arrow(path, parquet=kind == "parquet")
    return Folder(path, form)
