"""What a person may name as audio: files, folders, a data directory, `scp:FILE`."""

from collections.abc import Sequence
from pathlib import Path

from gim_audio.audio import AUDIO_SUFFIXES
from gim_audio.errors import DataError
from gim_audio.kaldi import DataDir, read_scp

__all__ = ["gather"]


def gather(inputs: Sequence[str]) -> DataDir:
    """The utterances that the inputs stand for; a file's utterance is named by its stem.

    Raises:
        DataError: a folder has no audio, two files have one name, or a data directory is in a bad state.
    """
    if len(inputs) == 1 and inputs[0].startswith("scp:"):
        return read_scp(Path(inputs[0].removeprefix("scp:")))
    if len(inputs) == 1 and (Path(inputs[0]) / "wav.scp").exists():
        return DataDir.read(Path(inputs[0]))
    files: dict[str, str] = {}
    for name in inputs:
        for file in _files(Path(name)):
            if other := files.get(file.stem):
                raise DataError(f"{file} and {other} would both be {file.stem}: rename one, or name them in scp:FILE")
            files[file.stem] = str(file)
    names = sorted(files)
    return DataDir({name: files[name] for name in names}, {name: name for name in names}, path=Path(inputs[0]))


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(file for file in path.rglob("*") if file.suffix.lower() in AUDIO_SUFFIXES)
    if not found:
        raise DataError(f"{path}: neither a data directory nor a folder with audio ({' '.join(AUDIO_SUFFIXES)})")
    return found
