"""The 41 phones, alignments in CTM, and one label a frame with an explicit shift."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gim_audio.errors import DataError
from gim_audio.files import read_text, walk, write_text
from gim_audio.kaldi import DataDir, seconds_of

__all__ = [
    "LABEL_SECONDS",
    "PHONES",
    "Alignment",
    "frame_labels",
    "labels_of",
    "labels_of_part",
    "normalise",
    "read_alignments",
    "read_ctm",
    "read_textgrids",
    "write_ctm",
]

PHONES = (
    "SIL", "SPN", "aa", "ae", "ah", "ao", "aw", "ay", "b", "ch", "d", "dh", "eh", "er", "ey",
    "f", "g", "hh", "ih", "iy", "jh", "k", "l", "m", "n", "ng", "ow", "oy", "p", "r", "s", "sh",
    "t", "th", "uh", "uw", "v", "w", "y", "z", "zh",
)  # fmt: skip
"""Silence, spoken noise and the 39 ARPAbet phones without stress: the classes of the published
probe."""

SHORTEST = 1e-4
"""Seconds; what CTM files resolve. A shorter piece of a phone is rounding."""

LABEL_SECONDS = 0.010
"""Hop of the alignments that the published labels come from."""

_WINDOW_SECONDS = 0.025  # Kaldi's label t is centred on its window: 10 t + 12.5 ms
_BY_NAME = {phone.lower(): index for index, phone in enumerate(PHONES)}
_ALIASES = {
    "": 0,
    "sp": 0,
    "<eps>": 0,
    "pau": 0,
    "spn": 1,
    "nsn": 1,
    "<unk>": 1,
    "ax": _BY_NAME["ah"],
}


@dataclass(frozen=True)
class Alignment:
    """Phones of one utterance, in order of time.

    Shape: each array `(phones,)`; times in seconds from the utterance's start, labels index
    `PHONES`.
    """

    starts: npt.NDArray[np.float64]
    ends: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64]

    def at(self, moments: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
        """The label at each moment, -1 where the alignment says nothing. Shape: `(n,)` → `(n,)`."""
        index = np.searchsorted(self.starts, moments, side="right") - 1
        known = (index >= 0) & (moments < self.ends[index])
        return np.where(known, self.labels[index], -1)

    def cut(self, start: float, end: float) -> "Alignment":
        """Return the part between two times, in seconds from `start`."""
        inside = np.minimum(self.ends, end) - np.maximum(self.starts, start) > SHORTEST
        return Alignment(
            np.clip(self.starts[inside] - start, 0, None),
            np.clip(self.ends[inside], None, end) - start,
            self.labels[inside],
        )


def normalise(name: str) -> int:
    """The class of a phone's name: with or without stress (`AH0`) and word position (`ah_B`).

    Raises:
        DataError: it is none of the 41.
    """
    plain = name.lower().split("_")[0]
    plain = plain.rstrip("012") or plain  # a stress mark, but no number
    index = _BY_NAME.get(plain, _ALIASES.get(plain) if plain or not name else None)
    if index is None and plain.lstrip("-").isdecimal():
        raise DataError(
            f"phone `{name}` is a number: `utils/int2sym.pl -f 5 phones.txt` gives its name"
        )
    if index is None:
        raise DataError(f"phone `{name}` is none of the 41: {' '.join(PHONES)}")
    return index


def read_ctm(path: Path) -> dict[str, Alignment]:
    """Alignments of a CTM file: `utterance channel start duration phone` a line, times in seconds.

    Lines that are empty or begin with `;;` are passed over, as in NIST's format.

    Raises:
        DataError: a line has not five fields, times overlap, or a phone is unknown.
    """
    rows: dict[str, list[tuple[float, float, int]]] = {}
    try:
        lines = _lines_of(path)
    except FileNotFoundError as error:
        raise DataError(
            f"{path}: no such file: `gim-audio data align` makes it, or `gim-audio data labels` of"
            " an alignment"
        ) from error
    for number, line in lines:
        try:
            utterance, _, start, length, phone = line.split()[:5]
            begin, end = _stretch(start, length)
            rows.setdefault(utterance, []).append((begin, end, normalise(phone)))
        except (ValueError, DataError) as error:
            reason = (
                error
                if isinstance(error, DataError)
                else "expected `utterance channel start duration phone`"
            )
            raise DataError(f"{path}, line {number}: {reason}") from error
    return {name: _alignment(path, name, sorted(phones)) for name, phones in sorted(rows.items())}


def _stretch(start: str, length: str) -> tuple[float, float]:
    """Return the beginning and end of a line of a CTM."""
    float(start), float(length)  # what is no number at all is another error
    try:
        begin, end = seconds_of(start), seconds_of(start) + seconds_of(length)
        if not 0 <= begin <= end:
            raise ValueError
    except ValueError as error:
        raise DataError(f"from {start} s for {length} s is not a stretch of time") from error
    return begin, end


def _lines_of(path: Path) -> list[tuple[int, str]]:
    """Return the lines of a text file that say something, with their numbers."""
    lines = enumerate(read_text(path).split("\n"), start=1)
    return [(number, line) for number, line in lines if line.strip() and not line.startswith(";;")]


def _alignment(path: Path, name: str, phones: list[tuple[float, float, int]]) -> Alignment:
    starts = np.array([start for start, _, _ in phones], dtype=np.float64)
    ends = np.array([end for _, end, _ in phones], dtype=np.float64)
    if not (np.isfinite(ends).all() and (starts >= 0).all()):
        raise DataError(f"{path}: {name}: has times that are none")
    if (ends <= starts).any() or (starts[1:] < ends[:-1] - LABEL_SECONDS / 2).any():
        raise DataError(f"{path}: {name}: phones overlap or have no duration")
    return Alignment(starts, ends, np.array([label for _, _, label in phones], dtype=np.int64))


def read_alignments(path: Path) -> dict[str, Alignment]:
    """Read alignments: a folder of TextGrids, a CTM or the CPC authors' text.

    The first line shows which of the last two it is.

    Raises:
        DataError: the file is missing or in none of the formats.
    """
    if path.is_dir():
        return read_textgrids(path)
    try:
        lines = _lines_of(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read as text ({error.strerror})") from error
    names, first = (
        [line.split(maxsplit=1)[0] for _, line in lines],
        lines[0][1].split()[1:] if lines else [],
    )
    numbers = bool(first) and all(field.lstrip("-").isdecimal() for field in first)
    once = len(set(names)) == len(names)  # in a CTM, each phone has a line
    return read_cpc(path) if numbers and once else read_ctm(path)


def read_textgrids(folder: Path) -> dict[str, Alignment]:
    """Read Praat TextGrids, one an utterance, as the Montreal Forced Aligner writes them.

    Phones are in the tier `phones`.

    Raises:
        DataError: there are none, or one is damaged, has no such tier, or an unknown phone.
    """
    from praatio import textgrid
    from praatio.utilities.errors import PraatioException

    alignments = {}
    for path in sorted(path for path in walk(folder) if path.suffix.lower() == ".textgrid"):
        if path.stem in alignments:
            raise DataError(f"{path}: a second TextGrid of utterance {path.stem}")
        try:
            grid = textgrid.openTextgrid(str(path), includeEmptyIntervals=True)
            tier = next(
                name for name in grid.tierNames if name.split(" - ")[-1].lower() == "phones"
            )
            rows = [
                (start, end, normalise(name)) for start, end, name in grid.getTier(tier).entries
            ]
        except StopIteration as error:
            raise DataError(f"{path}: no tier named phones") from error
        except (DataError, PraatioException, ValueError, IndexError, UnicodeDecodeError) as error:
            raise DataError(
                f"{path}: {error if isinstance(error, DataError) else 'not a TextGrid'}"
            ) from error
        if rows:
            alignments[path.stem] = _alignment(path, path.stem, rows)
    if not alignments:
        raise DataError(f"{folder}: no .TextGrid with phones in it")
    return alignments


def labels_of(data: DataDir, alignments: Mapping[str, Alignment]) -> dict[str, Alignment]:
    """The alignments of a data directory's utterances, cut out of their recordings' where need be.

    Raises:
        DataError: none of the utterances has one.
    """
    found = {}
    for name in data.utterances:
        cut = data.segments.get(name)
        if name in alignments:
            found[name] = alignments[name]
        elif cut and cut.recording in alignments:
            inside = alignments[cut.recording].cut(cut.start, cut.end)
            if len(inside.labels):
                found[name] = inside
    if not found:
        raise DataError(
            f"{data.path}: none of its {len(data.utterances)} utterances is in the alignments"
        )
    return found


def labels_of_part(
    part: DataDir, whole: DataDir, known: Mapping[str, Alignment]
) -> dict[str, Alignment]:
    """Return the alignments of a part that `kaldi.split` made.

    Args:
        part: Utterances of `whole`, or, cut in time, NAME-a and NAME-b of its utterance NAME.
        whole: The data directory that was split.
        known: Alignments of its utterances, each in its own time.
    """
    found = {}
    for name in part.utterances:
        if name in known:
            found[name] = known[name]
        elif (parent := name[:-2]) in known:
            start = whole.segments[parent].start if whole.segments else 0.0
            cut = part.segments[name]
            inside = known[parent].cut(cut.start - start, cut.end - start)
            if len(inside.labels):
                found[name] = inside
    return found


def read_cpc(path: Path) -> dict[str, Alignment]:
    """Alignments in the CPC authors' text format.

    An utterance and one number from 0 to 40 for each 10 ms.

    The numbers are taken in the order of `PHONES` (the phone list of Kaldi's LibriSpeech recipe:
    silence, spoken noise, then the alphabet). Only the names depend on it: accuracies do not.
    """
    alignments = {}
    for number, line in _lines_of(path):
        utterance, *fields = line.split()
        try:
            labels = np.array([int(label) for label in fields], dtype=np.int64)
            if utterance in alignments:
                raise DataError(f"{path}, line {number}: {utterance} stands twice")
            if not len(labels) or labels.min() < 0 or labels.max() >= len(PHONES):
                raise ValueError
        except (ValueError, OverflowError) as error:
            raise DataError(
                f"{path}, line {number}: expected an utterance and numbers from 0 to 40"
            ) from error
        first = np.flatnonzero(np.r_[True, labels[1:] != labels[:-1]])
        last = np.r_[first[1:], len(labels)]
        starts, ends = (LABEL_SECONDS * edge.astype(np.float64) for edge in (first, last))
        alignments[utterance] = Alignment(starts, ends, labels[first])
    return alignments


def write_ctm(path: Path, alignments: Mapping[str, Alignment]) -> None:
    """Write alignments as CTM, sorted by utterance."""
    write_text(path, "".join(_lines(sorted(alignments.items()))))


def _lines(alignments: Iterable[tuple[str, Alignment]]) -> Iterable[str]:
    for name, alignment in alignments:
        for start, end, label in zip(
            alignment.starts, alignment.ends, alignment.labels, strict=True
        ):
            yield f"{name} 1 {start:.4f} {end - start:.4f} {PHONES[label]}\n"


def frame_labels(
    alignment: Alignment, frames: int, *, centre: float, hop: float, shift: int
) -> npt.NDArray[np.int64]:
    """One phone for each frame, -1 where the alignment says nothing.

    A frame takes label t of the 10 ms grid, t = (label whose window is centred nearest to the
    frame) + 1 - shift. For the reference encoder, whose frame i is centred on sample 160 i + 20,
    that is t = i - shift: a shift of 2 is the published code's, 1 is centred for alignments that
    follow Kaldi's windows, 0 is centred for alignments in true time.

    Args:
        alignment: The alignment of the utterance.
        frames: The number of frames.
        centre: time on which frame 0 is centred, in seconds.
        hop: seconds from one frame to the next.
        shift: The shift in labels of 10 ms.
    """
    times = centre + hop * np.arange(frames)
    nearest = np.floor((times - _WINDOW_SECONDS / 2) / LABEL_SECONDS + 0.5)
    return alignment.at((nearest + 1 - shift + 0.5) * LABEL_SECONDS)
