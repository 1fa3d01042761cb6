"""A Kaldi data directory: which utterances there are, where their audio lies, who speaks."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from gim_audio import audio
from gim_audio.errors import AudioError, DataError
from gim_audio.kaldi.check import check
from gim_audio.kaldi.recordings import locate
from gim_audio.kaldi.tables import Segment, Tables, speakers_to_utterances, write_table

__all__ = ["DataDir"]

OVERSHOOT = 0.5
"""Seconds that a segment may reach beyond its recording, and is cut there, as in Kaldi."""


@dataclass(frozen=True)
class DataDir:
    """The contents of `wav.scp`, `segments`, `utt2spk` and `text`.

    Every mapping is in sorted order.

    `recordings` holds Kaldi's extended file names: a path, `archive:offset`, or a command that ends
    in `|`; paths are relative to the working directory, as Kaldi has it. Without `segments`, an
    utterance is a recording.
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
        path = Path(path)
        problems = check(path)
        if problems:
            more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
            raise DataError(
                f"{problems[0]}{more}: `gim-audio data check {path}` lists all, --fix mends what"
                " it can"
            )
        tables = Tables.read(path)
        return cls(tables.recordings, tables.speakers, tables.segments, tables.text, path)

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
            raise DataError(
                f"{self.path}: no utterance {missing[0]} ({len(missing)} of {len(wanted)} are"
                " missing)"
            )
        needed = (
            {self.segments[name].recording for name in wanted} if self.segments else set(wanted)
        )
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
                name: (
                    f"{s.recording} {s.start:.6f}"
                    f" {'-1' if math.isinf(s.end) else format(s.end, '.6f')}"
                )
                for name, s in self.segments.items()
            }
            write_table(path / "segments", lines)
        if self.text:
            write_table(path / "text", self.text)

    def waveforms(
        self, rate: int, *, allow_pipes: bool = False
    ) -> Iterator[tuple[str, "audio.Waveform | Exception"]]:
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
                yield (
                    name,
                    (
                        _cut(waveform, rate, name, cut)
                        if cut and not isinstance(waveform, Exception)
                        else waveform
                    ),
                )
            except DataError as error:
                yield name, error

    def _decode(
        self, recording: str, rate: int, *, allow_pipes: bool
    ) -> "audio.Waveform | Exception":
        where = self.recordings[recording]
        try:
            return audio.read(locate(where, allow_pipes=allow_pipes), rate, name=where)
        except (AudioError, DataError) as error:
            return error


def _cut(samples: "audio.Waveform", rate: int, name: str, cut: Segment) -> "audio.Waveform":
    seconds = len(samples) / rate
    end = seconds if math.isinf(cut.end) else cut.end
    if end > seconds + OVERSHOOT or cut.start >= seconds:
        raise DataError(
            f"{name}: segment {cut.start}-{cut.end} s of {cut.recording}, which lasts"
            f" {seconds:.2f} s"
        )
    inside = samples[round(cut.start * rate) : round(end * rate)]
    if not len(inside):
        raise DataError(
            f"{name}: segment {cut.start}-{cut.end} s of {cut.recording} is shorter than a sample"
        )
    return inside
