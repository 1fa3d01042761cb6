"""Problems of a data directory."""

import re
from itertools import pairwise
from pathlib import Path

from gim_audio.errors import DataError
from gim_audio.kaldi.tables import TABLES, Tables, read_table, speakers_to_utterances

__all__ = ["check", "exists"]


def check(path: Path) -> list[str]:
    """Every problem of a data directory, one line each, with the file and the utterance."""
    if not path.is_dir():
        return [f"{path}: no such data directory"]
    try:
        tables = {
            name: read_table(path / name, optional=name in {"segments", "text"})
            for name in TABLES[:5]
        }
        data = Tables.read(path)
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
    utterances, speakers = set(data.segments or data.recordings), set(data.speakers)
    problems += [
        f"{path}/utt2spk: no speaker of utterance {name}" for name in sorted(utterances - speakers)
    ]
    problems += [f"{path}/utt2spk: {name} has no audio" for name in sorted(speakers - utterances)]
    if data.text:
        problems += [
            f"{path}/text: no transcript of {name}" for name in sorted(utterances - set(data.text))
        ]
        problems += [
            f"{path}/text: {name} has no audio" for name in sorted(set(data.text) - utterances)
        ]
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


def _missing(data: Tables, path: Path) -> list[str]:
    problems = [
        f"{path}/wav.scp: {name}: {extended} is missing"
        for name, extended in data.recordings.items()
        if not exists(extended)
    ]
    for name, cut in data.segments.items():
        if cut.recording not in data.recordings:
            problems.append(f"{path}/segments: {name}: no recording {cut.recording} in wav.scp")
        if not 0 <= cut.start < cut.end:
            problems.append(
                f"{path}/segments: {name}: from {cut.start} to {cut.end} s is not a stretch of time"
            )
    return problems


def exists(extended: str) -> bool:
    """Return whether the file of an extended file name exists; a command may run."""
    return (
        extended.endswith("|")
        or Path(extended).exists()
        or Path(re.sub(r":\d+$", "", extended)).exists()
    )
