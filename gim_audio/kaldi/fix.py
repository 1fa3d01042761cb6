"""Mending of a data directory."""

import shutil
from itertools import count
from pathlib import Path

from gim_audio.errors import DataError
from gim_audio.files import write_text
from gim_audio.kaldi.check import exists
from gim_audio.kaldi.datadir import DataDir
from gim_audio.kaldi.tables import TABLES, here, read_table, segment, write_table

__all__ = ["fix"]


def fix(path: Path) -> list[str]:
    """Sort, drop what cannot be used, rewrite `spk2utt`; the old files go to `.backup`.

    Returns:
        What was done, a line each.

    Raises:
        DataError: nothing would be left, or a table cannot be read.
    """
    tables = {
        name: read_table(path / name, optional=name not in {"wav.scp", "utt2spk"}, lenient=True)
        for name in TABLES
    }
    places = dict(tables["wav.scp"])
    if (path / "fingerprint").exists():
        places = here(path, places)
    recordings = {key: value for key, value in places.items() if exists(value)}
    speakers, text = dict(tables["utt2spk"]), dict(tables["text"])
    segments = {}
    for key, value in tables["segments"]:
        cut = segment(path, key, value)
        if cut.recording in recordings and 0 <= cut.start < cut.end:
            segments[key] = cut
    keep = (set(segments) if tables["segments"] else set(recordings)) & set(speakers)
    if text:
        keep &= set(text)
    if not keep:
        raise DataError(f"{path}: no utterance has audio and a speaker: nothing to keep")
    mended = DataDir(
        recordings, {name: speakers[name] for name in sorted(keep)}, segments, text, path
    ).select(keep)
    numbers = (f".{number}" if number > 1 else "" for number in count(1))
    backup = next(
        folder for number in numbers if not (folder := path / f".backup{number}").exists()
    )
    backup.mkdir()
    for name in TABLES:
        if (path / name).exists():
            shutil.copyfile(path / name, backup / name)
    mended.write(path)
    if tables["phones.ctm"]:
        labelled = keep | set(mended.recordings)  # a CTM may name recordings
        kept = sorted(
            (row for row in tables["phones.ctm"] if row[0] in labelled), key=lambda row: row[0]
        )
        write_text(path / "phones.ctm", "".join(f"{key} {value}\n" for key, value in kept))
    if tables["utt2num_samples"]:
        write_table(
            path / "utt2num_samples", {k: v for k, v in tables["utt2num_samples"] if k in keep}
        )
    named = {key for name in ("utt2spk", "text") for key, _ in tables[name]}
    named |= {key for key, _ in tables["segments" if tables["segments"] else "wav.scp"]}
    return [f"kept {len(keep)} of {len(named)} utterances", f"the files as they were: {backup}"]
