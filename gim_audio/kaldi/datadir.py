"""A Kaldi data directory: which utterances there are, where their audio lies, who speaks."""

import math
import os
import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

from gim_audio import audio
from gim_audio.containers import STREAMED
from gim_audio.errors import AudioError, DataError
from gim_audio.files import read_text, write_text

__all__ = ["DataDir", "Segment", "locate", "read_table", "read_wave", "seconds_of", "write_table"]

LONGEST = 1e6
"""Seconds, eleven days: no recording lasts longer."""
OVERSHOOT = 0.5
"""Seconds that a segment may reach beyond its recording, and is cut there, as in Kaldi."""


@dataclass(frozen=True, slots=True)  # there may be a million
class Segment:
    """A stretch of a recording, in seconds; an infinite end is that of the recording, which Kaldi writes as -1."""

    recording: str
    start: float
    end: float


@dataclass(frozen=True)
class DataDir:
    """What `wav.scp`, `segments`, `utt2spk` and `text` say. Every mapping is in sorted order.

    `recordings` holds Kaldi's extended file names: a path, `archive:offset`, or a command that ends in `|`;
    paths are relative to the working directory, as Kaldi has it. Without `segments`, an utterance is a
    recording.
    """

    recordings: Mapping[str, str]
    speakers: Mapping[str, str]
    segments: Mapping[str, Segment] = field(default_factory=dict)
    text: Mapping[str, str] = field(default_factory=dict)
    path: Path | None = None

    @classmethod
    def read(cls, path: Path | str) -> "DataDir":
        """Read a directory that `gim_audio.kaldi.check` finds nothing wrong with.

        Raises:
            DataError: something is missing, unsorted or contradicts itself.
        """
        from gim_audio.kaldi.check import check  # it needs the tables of this file

        path = Path(path)
        problems = check(path)
        if problems:
            more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
            raise DataError(f"{problems[0]}{more}: `gim-audio data check {path}` lists all, --fix mends what it can")
        return cls.tables(path)

    @classmethod
    def tables(cls, path: Path) -> "DataDir":
        """Read the files as they are, the last of repeated keys winning.

        A packed corpus may have been moved: its archives are those beside `wav.scp`.
        """
        recordings = dict(read_table(path / "wav.scp"))
        if (path / "fingerprint").exists():
            recordings = here(path, recordings)
        return cls(
            recordings=recordings,
            speakers=dict(read_table(path / "utt2spk")),
            segments={key: segment(path, key, value) for key, value in read_table(path / "segments", optional=True)},
            text=dict(read_table(path / "text", optional=True)),
            path=path,
        )

    @property
    def utterances(self) -> list[str]:
        """Names, sorted."""
        return list(self.segments or self.recordings)

    def select(self, utterances: Iterable[str]) -> "DataDir":
        """The same data with these utterances alone, and the recordings that they need.

        Raises:
            DataError: one of them is not here.
        """
        wanted = sorted(set(utterances))
        missing = [name for name in wanted if name not in self.speakers]
        if missing:
            raise DataError(f"{self.path}: no utterance {missing[0]} ({len(missing)} of {len(wanted)} are missing)")
        needed = {self.segments[name].recording for name in wanted} if self.segments else set(wanted)
        return replace(
            self,
            recordings={key: value for key, value in self.recordings.items() if key in needed},
            speakers={name: self.speakers[name] for name in wanted},
            segments={name: self.segments[name] for name in wanted} if self.segments else {},
            text={name: self.text[name] for name in wanted if name in self.text},
        )

    def write(self, path: Path) -> None:
        """Write `wav.scp`, `utt2spk`, `spk2utt` and, where there are any, `segments` and `text`."""
        path.mkdir(parents=True, exist_ok=True)
        write_table(path / "wav.scp", self.recordings)
        write_table(path / "utt2spk", self.speakers)
        write_table(path / "spk2utt", speakers_to_utterances(self.speakers))
        if self.segments:
            lines = {
                name: f"{s.recording} {s.start:.6f} {'-1' if math.isinf(s.end) else format(s.end, '.6f')}"
                for name, s in self.segments.items()
            }
            write_table(path / "segments", lines)
        if self.text:
            write_table(path / "text", self.text)

    def waveforms(self, rate: int, *, allow_pipes: bool = False) -> Iterator[tuple[str, "audio.Waveform | Exception"]]:
        """Decode the utterances in order: name and samples at `rate` Hz, or what was wrong with it.

        A recording that several neighbouring utterances are cut from is decoded once.
        """
        decoded: tuple[str, audio.Waveform | Exception] | None = None
        for name in self.utterances:
            cut = self.segments.get(name)
            recording = cut.recording if cut else name
            if decoded is None or decoded[0] != recording:
                decoded = recording, self._decode(recording, rate, allow_pipes=allow_pipes)
            waveform = decoded[1]
            try:
                yield name, _cut(waveform, rate, name, cut) if cut and not isinstance(waveform, Exception) else waveform
            except DataError as error:
                yield name, error

    def _decode(self, recording: str, rate: int, *, allow_pipes: bool) -> "audio.Waveform | Exception":
        where = self.recordings[recording]
        try:
            return audio.read(locate(where, allow_pipes=allow_pipes), rate, name=where)
        except (AudioError, DataError) as error:
            return error


def here(path: Path, recordings: Mapping[str, str]) -> dict[str, str]:
    """Return the places of a packed corpus's utterances, in the archives that lie in its folder."""
    archives = {place.rpartition(":")[0] for place in recordings.values()}
    local = {archive: (path / Path(archive).name).resolve() for archive in archives}
    found = {archive: str(local[archive]) if local[archive].exists() else archive for archive in archives}
    places = {name: place.rpartition(":") for name, place in recordings.items()}
    return {name: f"{found[archive]}:{offset}" for name, (archive, _, offset) in places.items()}


def _cut(samples: "audio.Waveform", rate: int, name: str, cut: Segment) -> "audio.Waveform":
    seconds = len(samples) / rate
    end = seconds if math.isinf(cut.end) else cut.end
    if end > seconds + OVERSHOOT or cut.start >= seconds:
        raise DataError(f"{name}: segment {cut.start}-{cut.end} s of {cut.recording}, which lasts {seconds:.2f} s")
    inside = samples[round(cut.start * rate) : round(end * rate)]
    if not len(inside):
        raise DataError(f"{name}: segment {cut.start}-{cut.end} s of {cut.recording} is shorter than a sample")
    return inside


def locate(extended: str, *, allow_pipes: bool = False) -> Path | bytes:
    """What soundfile can read of an extended file name.

    Raises:
        DataError: a pipe without `allow_pipes`, a command that fails, or an offset where no WAV begins.
    """
    if extended.endswith("|"):
        if not allow_pipes:
            raise DataError(f"`{extended}` is a command: --allow-pipes runs it, if you trust this data directory")
        result = subprocess.run(extended[:-1], shell=True, capture_output=True, check=False)  # noqa: S602
        if result.returncode:
            reason = result.stderr.decode(errors="replace").strip().rsplit("\n", 1)[-1]
            raise DataError(f"`{extended}` failed with status {result.returncode}: {reason}")
        return result.stdout
    archive = re.fullmatch(r"(.+):(\d+)", extended)
    if not archive or os.path.lexists(extended):
        return Path(extended)
    try:
        with Path(archive[1]).open("rb") as file:
            file.seek(int(archive[2]))
            return read_wave(file, extended)
    except (OSError, OverflowError) as error:
        raise DataError(f"{archive[1]}: {getattr(error, 'strerror', None) or error}") from error


def read_wave(file: BinaryIO, name: str) -> bytes:
    """Return the WAV that lies next in an archive.

    Raises:
        DataError: There is none, or it does not say how long it is: what follows would be taken for it.
    """
    start = file.read(8)
    if start[:4] != b"RIFF":
        raise DataError(f"{name}: no WAV begins there")
    if not 0 < (length := int.from_bytes(start[4:], "little")) < STREAMED:
        raise DataError(f"{name}: a WAV of unknown length in an archive: nobody knows where it ends")
    return start + file.read(length)


def identity(extended: str) -> tuple[int, int] | None:
    """Size and time of change of a recording's file: another one under the same name is not taken for it."""
    archive = re.fullmatch(r"(.+):\d+", extended)
    try:
        stat = Path(archive[1] if archive and not os.path.lexists(extended) else extended).stat()
    except OSError:
        return None
    return stat.st_size, stat.st_mtime_ns


def segment(path: Path, name: str, value: str) -> Segment:
    """One line of `segments`."""
    try:
        recording, *edges = value.split()
        start, end = map(seconds_of, edges)
        return Segment(recording, start, math.inf if end == -1 else end)
    except ValueError as error:
        raise DataError(f"{path}/segments: {name}: expected `recording start end`, found `{value}`") from error


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


def read_table(path: Path, *, optional: bool = False, lenient: bool = False) -> list[tuple[str, str]]:
    """The lines of a Kaldi table: a key, white space, the rest. With `lenient`, empty lines are passed over.

    Raises:
        DataError: the file is missing (unless `optional`), not UTF-8, or a line has no value, or a speaker's name has
            a space in it.
    """
    try:
        text = read_text(path)
    except FileNotFoundError as error:
        if optional:
            return []
        raise DataError(f"{path}: no such file") from error
    rows = []
    # Not splitlines: a transcript may hold other characters that Python takes for the end of a line.
    for number, line in enumerate(text.removesuffix("\n").split("\n") if text else [], start=1):
        if lenient and not line.strip():
            continue
        key, value = [*line.split(maxsplit=1), "", ""][:2]
        if not key or (not value and path.name != "text"):
            raise DataError(f"{path}, line {number}: expected a name and a value, found `{line}`")
        if path.name == "utt2spk" and len(value.split()) > 1:  # spk2utt could not say it
            raise DataError(
                f"{path}, line {number}: `{value.strip()}`: a name of a speaker with a space in it: write "
                f"`{'_'.join(value.split())}`"
            )
        rows.append((key, value.strip()))
    return rows


def write_table(path: Path, table: Mapping[str, object]) -> None:
    """Write a Kaldi table, sorted by key."""
    write_text(path, "".join(f"{key} {table[key]}\n" for key in sorted(table)))
