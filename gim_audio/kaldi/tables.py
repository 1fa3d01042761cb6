"""The tables of a data directory: a name and a value a line."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gim_audio.errors import DataError
from gim_audio.files import read_text, write_text

__all__ = [
    "TABLES",
    "Segment",
    "Tables",
    "read_table",
    "seconds_of",
    "speakers_to_utterances",
    "write_table",
]

TABLES = ("wav.scp", "segments", "utt2spk", "spk2utt", "text", "phones.ctm", "utt2num_samples")
"""Names of all tables, those first that say which utterances there are."""
LONGEST = 1e6
"""Seconds, eleven days: no recording lasts longer."""


@dataclass(frozen=True, slots=True)  # there may be a million
class Segment:
    """A stretch of a recording, in seconds.

    An infinite end is that of the recording, which Kaldi writes as -1.
    """

    recording: str
    start: float
    end: float


@dataclass(frozen=True)
class Tables:
    """The contents of the tables, the last of repeated keys winning: see `DataDir`."""

    recordings: Mapping[str, str]
    speakers: Mapping[str, str]
    segments: Mapping[str, Segment]
    text: Mapping[str, str]

    @classmethod
    def read(cls, path: Path) -> "Tables":
        """Read the tables of a folder.

        A packed corpus may have been moved: its archives are those beside `wav.scp`.

        Raises:
            DataError: A table is missing or cannot be read.
        """
        recordings = dict(read_table(path / "wav.scp"))
        if (path / "fingerprint").exists():
            recordings = here(path, recordings)
        return cls(
            recordings=recordings,
            speakers=dict(read_table(path / "utt2spk")),
            segments={
                key: segment(path, key, value)
                for key, value in read_table(path / "segments", optional=True)
            },
            text=dict(read_table(path / "text", optional=True)),
        )


def here(path: Path, recordings: Mapping[str, str]) -> dict[str, str]:
    """Return the places of a packed corpus's utterances, in the archives that lie in its folder."""
    archives = {place.rpartition(":")[0] for place in recordings.values()}
    local = {archive: (path / Path(archive).name).resolve() for archive in archives}
    found = {
        archive: str(local[archive]) if local[archive].exists() else archive for archive in archives
    }
    places = {name: place.rpartition(":") for name, place in recordings.items()}
    return {name: f"{found[archive]}:{offset}" for name, (archive, _, offset) in places.items()}


def segment(path: Path, name: str, value: str) -> Segment:
    """One line of `segments`."""
    try:
        recording, *edges = value.split()
        start, end = map(seconds_of, edges)
        return Segment(recording, start, math.inf if end == -1 else end)
    except ValueError as error:
        raise DataError(
            f"{path}/segments: {name}: expected `recording start end`, found `{value}`"
        ) from error


def seconds_of(text: str) -> float:
    """Return a number of seconds, which may be negative.

    Raises:
        ValueError: It is none, or none of a recording: infinite or longer than `LONGEST`.
    """
    found = float(text)
    if not abs(found) <= LONGEST or "_" in text:  # Python takes 1_0 for 10
        raise ValueError(f"{text} is no number of seconds")
    return found


def speakers_to_utterances(speakers: Mapping[str, str]) -> dict[str, str]:
    """`spk2utt` of an `utt2spk`."""
    spoken: dict[str, list[str]] = {}
    for utterance, speaker in speakers.items():
        spoken.setdefault(speaker, []).append(utterance)
    return {speaker: " ".join(sorted(names)) for speaker, names in spoken.items()}


def read_table(
    path: Path, *, optional: bool = False, lenient: bool = False
) -> list[tuple[str, str]]:
    """The lines of a Kaldi table: a key, white space, the rest.

    With `lenient`, empty lines are passed over.

    Raises:
        DataError: the file is missing (unless `optional`), not UTF-8, or a line has no value, or a
            speaker's name has a space in it.
    """
    try:
        text = read_text(path)
    except FileNotFoundError as error:
        if optional:
            return []
        raise DataError(f"{path}: no such file") from error
    rows = []
    # Not splitlines: a transcript may hold other characters that Python takes for the end of a
    # line.
    for number, line in enumerate(text.removesuffix("\n").split("\n") if text else [], start=1):
        if lenient and not line.strip():
            continue
        key, value = [*line.split(maxsplit=1), "", ""][:2]
        if not key or (not value and path.name != "text"):
            raise DataError(f"{path}, line {number}: expected a name and a value, found `{line}`")
        if path.name == "utt2spk" and len(value.split()) > 1:  # spk2utt could not say it
            raise DataError(
                f"{path}, line {number}: `{value.strip()}`: a name of a speaker with a space in it:"
                f" write `{'_'.join(value.split())}`"
            )
        rows.append((key, value.strip()))
    return rows


def write_table(path: Path, table: Mapping[str, object]) -> None:
    """Write a Kaldi table, sorted by key."""
    write_text(path, "".join(f"{key} {table[key]}\n" for key in sorted(table)))
