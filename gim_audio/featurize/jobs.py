"""The utterances that are encoded together.

They are planned by length, so that a continued run gives the same bits.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from gim_audio import audio
from gim_audio.errors import AudioError, DataError, GimAudioError
from gim_audio.kaldi import DataDir, Segment, identity, locate

__all__ = ["EncodingJob", "batches", "fingerprint_of_inputs", "headers", "plan", "share"]

BATCH_SECONDS = {"cpu": 2}
"""The seconds of a batch, were all as long as the longest."""
LONG_BATCH_SECONDS = 240
"""The same on other devices."""
BATCH = 256
"""Utterances at most."""


@dataclass(frozen=True)
class EncodingJob:
    """Some utterances that are encoded together.

    They are a batch of files, one long file, or all that is cut from a recording.

    Attributes:
        data: The utterances.
        seconds: The length of the audio, as the headers have it.
    """

    data: DataDir
    seconds: float


def share(data: DataDir, number: int, count: int) -> DataDir:
    """Return the share of one of several commands that divide the work.

    It is every n-th utterance, or every n-th recording where there are segments.

    Raises:
        GimAudioError: it has nothing to do.
    """
    recordings = list(data.recordings)[number - 1 :: count]
    names = recordings
    if data.segments:
        mine = set(recordings)
        names = [name for name, cut in data.segments.items() if cut.recording in mine]
    if not names:
        raise GimAudioError(
            f"--job {number}/{count}: there are {len(data.recordings)} recordings: take fewer jobs"
        )
    return data.select(names)


def plan(data: DataDir, known: Mapping[str, audio.Header], device: str) -> list[EncodingJob]:
    """Return jobs for all utterances of a data directory, the longest jobs first."""
    if data.segments:
        cuts: dict[str, dict[str, Segment]] = {}
        for name, cut in data.segments.items():
            cuts.setdefault(cut.recording, {})[name] = cut
        found = [
            EncodingJob(
                DataDir({name: data.recordings[name]}, dict.fromkeys(of_it, ""), of_it),
                sum(_length(cut, known.get(name)) for cut in of_it.values()),
            )
            for name, of_it in cuts.items()
        ]
    else:
        length = {name: known[name].seconds if name in known else 0.0 for name in data.recordings}
        found = [
            EncodingJob(
                DataDir({name: data.recordings[name] for name in names}, dict.fromkeys(names, "")),
                sum(length[name] for name in names),
            )
            for names in map(sorted, batches(length, device))
        ]
    return sorted(found, key=lambda job: (-job.seconds, job.data.utterances))


def _length(cut: Segment, header: audio.Header | None) -> float:
    end = (header.seconds if header else cut.start) if math.isinf(cut.end) else cut.end
    return end - cut.start


def batches(length: Mapping[str, float], device: str) -> list[list[str]]:
    """Group names of similar lengths, as many as a device likes.

    They are counted as if each were as long as the longest.

    Those of an unknown length, 0, stand alone.
    """
    most, found = BATCH_SECONDS.get(device, LONG_BATCH_SECONDS), list[list[str]]()
    for name in sorted(length, key=lambda name: (length[name], name)):
        last = found[-1] if found else []
        if (
            last
            and length[last[0]]
            and (len(last) + 1) * length[name] <= most
            and len(last) < BATCH
        ):
            last.append(name)
        else:
            found.append([name])
    return found


def headers(data: DataDir) -> dict[str, audio.Header]:
    """Return the headers that can be read; decoding the others will say what is wrong."""
    found = {}
    for name, extended in data.recordings.items():
        if not extended.endswith("|"):
            with suppress(AudioError, DataError):
                found[name] = audio.header(locate(extended), extended)
    return found


def fingerprint_of_inputs(data: DataDir) -> str:
    """Return a digest of what must stay the same for a run to continue.

    It covers names, places and times of change.
    """
    digest = hashlib.sha256()
    files = ((name, where, identity(where)) for name, where in data.recordings.items())
    cuts = ((name, cut.recording, cut.start, cut.end) for name, cut in data.segments.items())
    for part in chain([str(data.path or Path())], files, cuts):
        digest.update(json.dumps(part).encode())
    return digest.hexdigest()
