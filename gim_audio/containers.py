"""What libsndfile passes over in a file: that it is cut short, or that another recording follows the first."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Literal

__all__ = ["STREAMED", "OggPages", "UnendingMp3", "has_length", "problem"]

Order = Literal["little", "big"]

BLOCK_BYTES = 2**20
START_BYTES = 4096
"""In which the samples of most files begin."""
STREAMED = 0x7F000000
"""Lengths from here on are what a writer puts into a header that does not know the length."""
WHOLE: dict[bytes, tuple[int, int, Order, int]] = {
    b"RIFF": (4, 4, "little", 0),  # some writers count the first eight bytes, some do not
    b"RIFX": (4, 4, "big", 0),
    b"RF64": (20, 8, "little", 8),
    b"riff": (16, 8, "little", 0),  # W64
    b"FORM": (4, 4, "big", 0),  # AIFF
    b".snd": (8, 4, "big", 24),  # AU
    b"dns.": (8, 4, "little", 24),
}
"""By a file's first bytes: where its length stands, its width and order, and what it does not count."""
CHUNKS: dict[bytes, tuple[int, int, Order, bytes]] = {
    b"RIFF": (12, 4, "little", b"data"),
    b"RIFX": (12, 4, "big", b"data"),
    b"FORM": (12, 4, "big", b"SSND"),
    b"caff": (8, 8, "big", b"data"),
}
"""Where chunks begin, the width and order of their lengths, and the one that holds the samples."""

CUT = "is shorter than its header says: the file is cut short"
FOLLOWED = "another recording follows the first: make them one, `ffmpeg -i IN OUT.wav`"
FLAC = b"fLaC\x00\x00\x00\x22"
"""A FLAC stream and its first metadata block, of 34 bytes."""
FRAME_BYTES = 1441
"""Of a frame of an MP3, at most."""
MPEG_BYTES = 512
"""The first frame of an MP3, which may hold how many follow, does so in these."""


def problem(source: Path | bytes) -> str:
    """Return what is wrong with the container of a recording, for a message; empty where nothing is.

    Args:
        source: A file, or the bytes of one. One that cannot be opened has no problem here: reading it will tell.
    """
    try:
        with _opened(source) as file:
            return _problem(file)
    except (OSError, ValueError):  # ValueError: a name is not UTF-8
        return ""


def _opened(source: Path | bytes) -> BinaryIO:
    return io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")


def _at(file: BinaryIO, place: int, count: int) -> bytes:
    file.seek(place)
    return file.read(count)


def _blocks(file: BinaryIO) -> Iterator[bytes]:
    file.seek(0)
    while block := file.read(BLOCK_BYTES):
        yield block


def _problem(file: BinaryIO) -> str:
    size, start = file.seek(0, io.SEEK_END), _at(file, 0, START_BYTES)
    if start[:4] == b"OggS":
        pages = OggPages()
        for block in _blocks(file):
            pages.push(block)
        return pages.problem(whole=True)
    if start[:4] == FLAC[:4]:
        return FOLLOWED if _second_flac(file) else ""
    if claimed := _mp3_bytes(file):
        # Encoders do not all count the same bytes, nor the first frame.
        end = _tag_bytes(start) + claimed
        after = _at(file, end, 3)
        followed = (after == b"ID3" or _is_frame(after[:2])) and size > end + 2 * FRAME_BYTES
        return FOLLOWED if followed else CUT if size < 0.99 * end else ""
    ends = list(_ends(start))
    if any(size < end for end in ends):
        return CUT
    return FOLLOWED if any(_at(file, at, 4) in WHOLE for end in ends for at in (end, end + 8)) else ""


def _second_flac(file: BinaryIO) -> bool:
    """Return whether a FLAC stream begins behind the first."""
    rest = b""
    for number, block in enumerate(_blocks(file)):
        if (rest + block).find(FLAC, 0 if number else 1) >= 0:
            return True
        rest = block[-len(FLAC) + 1 :]
    return False


class OggPages:
    """Follows the pages of an Ogg stream (RFC 3533); libsndfile decodes the first of several streams alone."""

    def __init__(self) -> None:
        self._rest, self._found, self._sound, self._ended = b"", "", False, False

    def push(self, block: bytes) -> None:
        """Take the next bytes."""
        data, at = self._rest + block, 0
        while not self._found and len(data) >= at + 27:
            if data[at : at + 4] != b"OggS":
                self._found = "" if self._ended else "is damaged: its pages do not follow each other"
                at = len(data)  # what follows the last page is a tag of another program
                break
            segments = data[at + 26]
            end = at + 27 + segments + sum(data[at + 27 : at + 27 + segments])
            if len(data) < end:
                break
            first, last = data[at + 5] & 2, data[at + 5] & 4
            if first and self._sound:
                self._found = FOLLOWED
            self._sound, self._ended, at = self._sound or not first, bool(last), end
        self._rest = data[at:]

    def problem(self, *, whole: bool) -> str:
        """Return what is wrong, for a message; with `whole`, the stream has come to its end."""
        if whole and not self._found and not self._ended:
            return "has no last page: the file is cut short"
        return self._found


def has_length(source: Path | bytes) -> bool:
    """Return whether an MP3 says how many frames it has."""
    with _opened(source) as file:
        return bool(_mp3_bytes(file))


def _tag_bytes(start: bytes) -> int:
    """Return the length of an ID3v2 tag at the beginning of an MP3, in which each byte holds seven bits."""
    if start[:3] != b"ID3":
        return 0
    return 10 + sum(byte << 7 * place for place, byte in enumerate(reversed(start[6:10])))


def _is_frame(start: bytes) -> bool:
    return len(start) == 2 and start[0] == 0xFF and start[1] & 0xE0 == 0xE0


def _mp3_bytes(file: BinaryIO) -> int:
    """Return the length that the first frame of an MP3 gives (a Xing, Info or VBRI header), 0 where it gives none."""
    frame = _at(file, _tag_bytes(_at(file, 0, 10)), MPEG_BYTES)
    if not _is_frame(frame[:2]):
        return 0
    if (at := frame.find(b"VBRI", 4, 64)) > 0:
        return int.from_bytes(frame[at + 10 : at + 14], "big")
    at = max(frame.find(b"Xing", 4, 64), frame.find(b"Info", 4, 64))
    if at < 0:
        return 0
    has_frames, has_bytes = frame[at + 7] & 1, frame[at + 7] & 2
    place = at + 8 + 4 * has_frames
    return int.from_bytes(frame[place : place + 4], "big") if has_frames and has_bytes else 0


class UnendingMp3(io.RawIOBase):
    """A file that seems to be longer than any MP3 of its size can last.

    libsndfile stops an MP3 that does not say how many frames it has at the number that its size and its first frame
    suggest: of a variable bit rate that may be half of it. At a number that is too large it goes on to the end.
    """

    TIMES = 64
    """More than the largest bit rate over the smallest (MPEG 1 layer III: 320 / 32; MPEG 2: 160 / 8)."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self._file, self._size = file, file.seek(0, io.SEEK_END)
        self._place = file.seek(0)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """See `io.IOBase.seek`; beyond the end there seem to be zeros."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self.TIMES * self._size}[whence]
        self._place = base + offset
        return self._place

    def tell(self) -> int:
        """See `io.IOBase.tell`."""
        return self._place

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """See `io.RawIOBase.readinto`."""
        if self._place > self._size:  # it looks for a tag at the end
            buffer[:] = bytes(len(buffer))
            count = len(buffer)
        else:
            self._file.seek(self._place)
            found = self._file.read(len(buffer))
            count = len(found)
            buffer[:count] = found
        self._place += count
        return count


def _ends(start: bytes) -> Iterator[int]:
    """Yield where a file that starts like this ends, as far as its header knows."""

    def length(at: int, width: int, order: Order) -> int | None:
        found = int.from_bytes(start[at : at + width], order)
        return found if found < (STREAMED if width == 4 else 2**63) else None

    if known := WHOLE.get(start[:4]):
        at, width, order, before = known
        if whole := length(at, width, order):  # writers that cannot seek leave 0
            yield before + whole
    if chunks := CHUNKS.get(start[:4]):
        at, width, order, wanted = chunks
        while at + 4 + width <= len(start) and (inside := length(at + 4, width, order)) is not None:
            end = at + 4 + width + inside
            if start[at : at + 4] == wanted:
                yield end
                return
            at = end + (inside % 2 if width == 4 else 0)
