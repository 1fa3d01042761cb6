"""What is wrong with a data directory, and how to put it right."""

import re
import shutil
from itertools import count, pairwise
from pathlib import Path

from gim_audio.errors import DataError
from gim_audio.files import write_text
from gim_audio.kaldi.datadir import DataDir, here, read_table, segment, speakers_to_utterances, write_table

__all__ = ["check", "fix"]

TABLES = ("wav.scp", "segments", "utt2spk", "spk2utt", "text", "phones.ctm", "utt2num_samples")


def check(path: Path) -> list[str]:
    """Every problem of a data directory, one line each, with the file and the utterance."""
    if not path.is_dir():
        return [f"{path}: no such data directory"]
    try:
        tables = {name: read_table(path / name, optional=name in {"segments", "text"}) for name in TABLES[:5]}
        data = DataDir.tables(path)
    except DataError as error:
        return [str(error)]
    problems = []
    for name, rows in tables.items():
        keys = [key for key, _ in rows]
        for before, after in pairwise(keys):
            if after == before:
                problems.append(f"{path}/{name}: {after} stands twice")
            elif after < before:
                problems.append(f"{path}/{name}: not sorted: {after} comes after {before}")
                break
    problems += _missing(data, path)
    utterances, speakers = set(data.utterances), set(data.speakers)
    problems += [f"{path}/utt2spk: no speaker of utterance {name}" for name in sorted(utterances - speakers)]
    problems += [f"{path}/utt2spk: {name} has no audio" for name in sorted(speakers - utterances)]
    if data.text:
        problems += [f"{path}/text: no transcript of {name}" for name in sorted(utterances - set(data.text))]
        problems += [f"{path}/text: {name} has no audio" for name in sorted(set(data.text) - utterances)]
    expected = speakers_to_utterances(data.speakers)
    listed = {speaker: " ".join(sorted(names.split())) for speaker, names in tables["spk2utt"]}
    problems += [
        f"{path}/spk2utt: speaker {speaker} does not have the utterances that utt2spk says"
        for speaker in sorted(set(expected) | set(listed))
        if expected.get(speaker) != listed.get(speaker)
    ]
    if not utterances:
        problems.append(f"{path}: no utterances")
    return problems


def _missing(data: DataDir, path: Path) -> list[str]:
    problems = [
        f"{path}/wav.scp: {name}: {extended} is missing"
        for name, extended in data.recordings.items()
        if not _exists(extended)
    ]
    for name, cut in data.segments.items():
        if cut.recording not in data.recordings:
            problems.append(f"{path}/segments: {name}: no recording {cut.recording} in wav.scp")
        if not 0 <= cut.start < cut.end:
            problems.append(f"{path}/segments: {name}: from {cut.start} to {cut.end} s is not a stretch of time")
    return problems


def _exists(extended: str) -> bool:
    return extended.endswith("|") or Path(extended).exists() or Path(re.sub(r":\d+$", "", extended)).exists()


def fix(path: Path) -> list[str]:
    """Sort, drop what cannot be used, write `spk2utt` anew; the old files go to `.backup`.

    Returns:
        What was done, a line each.

    Raises:
        DataError: nothing would be left, or a table cannot be read.
    """
    tables = {
        name: read_table(path / name, optional=name not in {"wav.scp", "utt2spk"}, lenient=True) for name in TABLES
    }
    places = dict(tables["wav.scp"])
    if (path / "fingerprint").exists():
        places = here(path, places)
    recordings = {key: value for key, value in places.items() if _exists(value)}
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
    mended = DataDir(recordings, {name: speakers[name] for name in sorted(keep)}, segments, text, path).select(keep)
    numbers = (f".{number}" if number > 1 else "" for number in count(1))
    backup = next(folder for number in numbers if not (folder := path / f".backup{number}").exists())
    backup.mkdir()
    for name in TABLES:
        if (path / name).exists():
            shutil.copyfile(path / name, backup / name)
    mended.write(path)
    if tables["phones.ctm"]:
        labelled = keep | set(mended.recordings)  # a CTM may name recordings
        kept = sorted((row for row in tables["phones.ctm"] if row[0] in labelled), key=lambda row: row[0])
        write_text(path / "phones.ctm", "".join(f"{key} {value}\n" for key, value in kept))
    if tables["utt2num_samples"]:
        write_table(path / "utt2num_samples", {k: v for k, v in tables["utt2num_samples"] if k in keep})
    named = {key for name in ("utt2spk", "text") for key, _ in tables[name]}
    named |= {key for key, _ in tables["segments" if tables["segments"] else "wav.scp"]}
    return [f"kept {len(keep)} of {len(named)} utterances", f"the files as they were: {backup}"]
