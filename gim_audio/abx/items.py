"""Tokens: phones with their neighbours, from alignments or from an item file."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from gim_audio.errors import DataError
from gim_audio.files import read_text
from gim_audio.kaldi import seconds_of
from gim_audio.phones import LABEL_SECONDS, PHONES, Alignment

__all__ = ["Item", "items_of", "read_items"]

SILENT = {"SIL", "SPN"}


@dataclass(frozen=True)
class Item:
    """A token.

    Attributes:
        utterance: The utterance that holds the token.
        onset: The beginning of the phone before it, in seconds.
        offset: The end of the phone after it, in seconds.
        phone: The name of the phone.
        context: the phones before and after it.
        speaker: The speaker of the utterance.
    """

    utterance: str
    onset: float
    offset: float
    phone: str
    context: tuple[str, str]
    speaker: str


def items_of(alignments: Mapping[str, Alignment], speakers: Mapping[str, str]) -> list[Item]:
    """All phones that have a phone before and after them; silence and noise are none."""
    items = []
    for name, alignment in sorted(alignments.items()):
        names = [PHONES[label] for label in alignment.labels]
        together = [
            second - first < LABEL_SECONDS / 2
            for first, second in zip(alignment.ends[:-1], alignment.starts[1:], strict=True)
        ]
        for middle, (before, after) in enumerate(pairwise(together), start=1):
            three = names[middle - 1 : middle + 2]
            if before and after and not SILENT & set(three):
                onset, offset = (
                    float(alignment.starts[middle - 1]),
                    float(alignment.ends[middle + 1]),
                )
                items.append(
                    Item(name, onset, offset, three[1], (three[0], three[2]), speakers[name])
                )
    return items


def read_items(path: Path) -> list[Item]:
    """An item file as libri-light and ZeroSpeech have it.

    Lines are `file onset offset phone before after speaker`; a first line that is not is a heading,
    lines that are empty or begin with `;;` mean nothing.

    Raises:
        DataError: the file is missing or a line is none of these.
    """
    try:
        lines = read_text(path).split("\n")
    except OSError as error:
        raise DataError(f"{path}: cannot be read as text ({error.strerror})") from error
    items = []
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith(";;"):
            continue
        try:
            items.append(_item(line))
        except DataError as error:
            raise DataError(f"{path}, line {number}: {error}") from error
        except ValueError as error:
            if number > 1:
                expected = "`file onset offset phone before after speaker`"
                raise DataError(f"{path}, line {number}: expected {expected}") from error
    if not items:
        raise DataError(f"{path}: no items after the heading")
    return items


def _item(line: str) -> Item:
    utterance, onset, offset, phone, before, after, speaker = line.split()
    float(onset), float(offset)  # what is no number at all is another error
    try:
        begin, end = seconds_of(onset), seconds_of(offset)
        if not 0 <= begin < end:
            raise ValueError
    except ValueError as error:
        raise DataError(f"from {onset} to {offset} s is not a stretch of time") from error
    return Item(utterance, begin, end, phone, (before, after), speaker)
