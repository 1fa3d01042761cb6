"""Cut a data directory in two.

It goes by utterances of each speaker, by speakers, or through each utterance in time.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import numpy as np

from gim_audio import audio
from gim_audio.errors import DataError
from gim_audio.kaldi.datadir import DataDir
from gim_audio.kaldi.recordings import locate
from gim_audio.kaldi.tables import Segment, speakers_to_utterances

__all__ = ["split"]

By = Literal["utterances", "speakers", "time"]


def split(data: DataDir, by: By, share: float, seed: int = 0) -> tuple[DataDir, DataDir]:
    """The first part, with about `share` of the data, and the rest.

    Args:
        data: The data directory to split.
        by: `utterances` keeps every speaker in both parts, `speakers` in one of them; `time` makes
            of each utterance two segments, UTTERANCE-a and UTTERANCE-b.
        share: between 0 and 1.
        seed: The seed of the random choice.

    Raises:
        DataError: a part would be empty.
    """
    if by == "time":
        return _by_time(data, share)
    generator = np.random.default_rng(seed)
    spoken = {
        speaker: names.split()
        for speaker, names in sorted(speakers_to_utterances(data.speakers).items())
    }
    if by == "speakers":
        chosen = set(_some(list(spoken), share, generator))
        first = [name for name, speaker in data.speakers.items() if speaker in chosen]
    else:
        first = [name for names in spoken.values() for name in _some(names, share, generator)]
    rest = sorted(set(data.speakers) - set(first))
    if not first or not rest:
        raise DataError(f"{data.path}: cannot be cut by {by} at {share}: one part would be empty")
    return data.select(first), data.select(rest)


def _some(names: list[str], share: float, generator: np.random.Generator) -> list[str]:
    """A random share of the names, and of two or more names neither none nor all."""
    count = round(share * len(names))
    if len(names) > 1:
        count = min(max(count, 1), len(names) - 1)
    return [names[index] for index in generator.permutation(len(names))[:count]]


def _by_time(data: DataDir, share: float) -> tuple[DataDir, DataDir]:
    cuts = {name: (cut.recording, cut.start, cut.end) for name, cut in data.segments.items()} or {
        name: (name, 0.0, math.inf) for name in data.recordings
    }
    whole = sorted({recording for recording, _, end in cuts.values() if math.isinf(end)})
    commands = [name for name in whole if data.recordings[name].endswith("|")]
    if commands:
        raise DataError(
            f"{data.path}: {commands[0]} is a command, whose length nobody knows: pack it and cut"
            " that"
        )
    places = {name: data.recordings[name] for name in whole}
    lengths = {name: audio.header(locate(where), where).seconds for name, where in places.items()}

    def part(suffix: str, between: Callable[[str, float, float], tuple[float, float]]) -> DataDir:
        return replace(
            data,
            segments={
                f"{name}-{suffix}": Segment(rec, *between(rec, start, end))
                for name, (rec, start, end) in cuts.items()
            },
            speakers={f"{name}-{suffix}": speaker for name, speaker in data.speakers.items()},
            text={},  # nobody knows which words fall into which part
        )

    def middle(recording: str, start: float, end: float) -> float:
        return round(start + share * (min(end, lengths.get(recording, end)) - start), 2)

    return (
        part("a", lambda recording, start, end: (start, middle(recording, start, end))),
        part("b", lambda recording, start, end: (middle(recording, start, end), end)),
    )
