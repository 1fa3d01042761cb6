"""Several data directories as one."""

from collections.abc import Sequence
from typing import Any

from gim_audio.errors import DataError
from gim_audio.kaldi.datadir import DataDir

__all__ = ["combine"]


def combine(parts: Sequence[DataDir]) -> DataDir:
    """All utterances of several data directories; their transcripts, where all of them have some.

    Raises:
        DataError: two have an utterance or a recording of the same name, or only some have
            segments.
    """
    if len({bool(part.segments) for part in parts}) > 1:
        with_segments = next(part for part in parts if part.segments)
        raise DataError(
            f"{with_segments.path} has segments, others have none: pack it, and combine what that"
            " makes"
        )
    seen: dict[str, DataDir] = {}
    for part in parts:
        for name in sorted({*part.recordings, *part.utterances}):
            if name in seen:
                raise DataError(
                    f"{part.path}: {name} is in {seen[name].path} too: rename one of them"
                )
        seen |= dict.fromkeys((*part.recordings, *part.utterances), part)

    def together(table: str) -> dict[str, Any]:
        return dict(
            sorted((key, value) for part in parts for key, value in getattr(part, table).items())
        )

    text = together("text") if all(part.text for part in parts) else {}
    return DataDir(together("recordings"), together("speakers"), together("segments"), text)
