"""Faults that libsndfile passes over.

They are a file that is cut short, or a recording that follows another.
"""

import io
import math
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Literal

__all__ = ["STREAMED", "Mp3File", "OggPages", "follows", "has_length", "problem"]

Order = Literal["little", "big"]

BLOCK_BYTES = 2**20
START_BYTES = 4096
"""The bytes in which the samples of most files begin."""
STREAMED = 0x7F000000
"""Lengths from here on are what a writer puts into a header that does not know the length."""
WHOLE: dict[bytes, tuple[int, int, Order, int]] = {
    b"RIFF": (4, 4, "little", 0),  # some writers count the first eight bytes, some do not
    b"RIFX": (4, 4, "big", 0),
    b"RF64": (20, 8, "little", 8),
    b"riff": (16, 8, "little", 0),  # W64
    b"FORM": (4, 4, "big", 0),  # AIFF
    b".snd": (8, 4, "big", 24),  # AU; where its samples begin is in the header
    b"dns.": (8, 4, "little", 24),
}
"""The place, width and order of a file's length, and what it does not count, by the file's first
bytes."""
CHUNKS: dict[bytes, tuple[int, int, Order, bytes]] = {
    b"RIFF": (12, 4, "little", b"data"),
    b"RIFX": (12, 4, "big", b"data"),
    b"FORM": (12, 4, "big", b"SSND"),
    b"caff": (8, 8, "big", b"data"),
}
"""The place of the first chunk, the width and order of lengths, and the chunk that holds the
samples."""

CUT = "is shorter than its header says: the file is cut short"
FOLLOWED = "another recording follows the first: make them one, `ffmpeg -i IN OUT.wav`"
FLAC = b"fLaC\x00\x00\x00\x22"
"""A FLAC stream and its first metadata block, of 34 bytes."""
MPEG_BYTES = 512
"""The first frame of an MP3, which may hold how many follow, does so in these."""
NIST = (b"sample_count", b"sample_n_bytes", b"channel_count")
"""The numbers in the header of a SPHERE file whose product is the size of its samples."""
RECORDING = re.compile(
    rb"RIFF....WAVE|RIFX....WAVE|RF64....WAVE|riff\x2e\x91\xcf\x11|FORM....AIF[FC]|\.snd\0\0|fLaC\0\0\0\x22|"
    rb"OggS\0\x02|caff\0\x01\0\0|NIST_1A\n",
    re.DOTALL,
)
"""The beginnings of recordings."""
START_LETTERS = 12


def problem(source: Path | bytes) -> str:
    """Return what is wrong with the container of a recording, for a message.

    It is empty where nothing is wrong.

    Args:
        source: A file, or the bytes of one. One that cannot be opened has no problem here: reading
            it will tell.
    """
    try:
        with _opened(source) as file:
            return _problem(file)
    except (OSError, ValueError):  # ValueError: a name is not UTF-8
        return ""


def _opened(source: Path | bytes) -> BinaryIO:
    return io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")


def _at(file: BinaryIO, place: int, count: int) -> bytes:
    """Return the bytes at a place; none where that lies before the file."""
    if place < 0:
        return b""
    file.seek(place)
    return file.read(count)


def _blocks(file: BinaryIO, begin: int) -> Iterator[bytes]:
    file.seek(begin)
    while block := file.read(BLOCK_BYTES):
        yield block


def _problem(file: BinaryIO) -> str:
    size, start = file.seek(0, io.SEEK_END), _at(file, 0, START_BYTES)
    begin = _tag_bytes(start)
    if start[:4] == b"OggS":
        pages = OggPages()
        for block in _blocks(file, 0):
            pages.push(block)
        return pages.problem(whole=True)
    if _at(file, begin, 4) == FLAC[:4]:
        return FOLLOWED if follows(_blocks(file, begin + 1)) else ""
    ends = list(_ends(start))
    if start[:4] == b"riff" and not ends:
        return "does not say how long it is: write it again where its writer can seek, or as WAV"
    if any(size < end for end in ends):
        return CUT
    return FOLLOWED if ends and follows(_blocks(file, min(ends))) else ""


def follows(blocks: Iterable[bytes]) -> bool:
    """Return whether a recording begins in what follows the samples of another.

    All blocks are taken.
    """
    rest, found = b"", False
    for block in blocks:
        found = found or bool(RECORDING.search(rest + block))
        rest = block[-START_LETTERS:]
    return found


class OggPages:
    """Follows the pages of an Ogg stream (RFC 3533).

    libsndfile decodes the first of several streams alone, and passes over pages that are damaged or
    missing.
    """

    def __init__(self) -> None:
        self._rest, self._found, self._sound, self._ended = b"", "", False, False
        self._numbers: dict[bytes, int] = {}

    def push(self, block: bytes) -> None:
        """Take the next bytes."""
        data, at = self._rest + block, 0
        while not self._found and len(data) >= at + 27:
            if data[at : at + 4] != b"OggS":
                self._found = (
                    "" if self._ended else "is damaged: its pages do not follow each other"
                )
                at = len(data)  # what follows the last page is a tag of another program
                break
            segments = data[at + 26]
            end = at + 27 + segments + sum(data[at + 27 : at + 27 + segments])
            if len(data) < end:
                break
            self._enter(data[at:end])
            at = end
        self._rest = data[at:]

    def _enter(self, page: bytes) -> None:
        """Look at a whole page."""
        first, last = page[5] & 2, page[5] & 4
        stream, number = page[14:18], int.from_bytes(page[18:22], "little")
        if first and self._sound:
            self._found = FOLLOWED
        elif number != self._numbers.get(stream, -1) + 1:
            self._found = f"is damaged: page {self._numbers.get(stream, -1) + 1} is missing"
        elif _checksum(page[:22] + bytes(4) + page[26:]) != int.from_bytes(page[22:26], "little"):
            self._found = f"is damaged: page {number} is not what was written"
        self._numbers[stream] = number
        self._sound, self._ended = self._sound or not first, bool(last)

    def problem(self, *, whole: bool) -> str:
        """Return what is wrong, for a message; with `whole`, the stream has come to its end."""
        if whole and not self._found and not self._ended:
            return "has no last page: the file is cut short"
        return self._found


_MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def _checksum(page: bytes) -> int:
    """Return the checksum of Ogg.

    It is the polynomial of zlib, with the highest bit of each byte first and no inversion.
    """
    mirrored = zlib.crc32(page.translate(_MIRRORED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{mirrored:032b}"[::-1], 2)


def _tag_bytes(start: bytes) -> int:
    """Return the length of an ID3v2 tag at the beginning of a file.

    Each byte of its length holds seven bits.
    """
    if start[:3] != b"ID3":
        return 0
    return 10 + sum(byte << 7 * place for place, byte in enumerate(reversed(start[6:10])))


def has_length(source: Path | bytes) -> bool:
    """Return whether an MP3 says how many frames it has.

    Its first frame then has a Xing, Info or VBRI header.
    """
    with _opened(source) as file:
        frame = _at(file, _tag_bytes(_at(file, 0, 10)), MPEG_BYTES)
    if frame.find(b"VBRI", 4, 64) > 0:
        return True
    at = max(frame.find(b"Xing", 4, 64), frame.find(b"Info", 4, 64))
    return at > 0 and bool(int.from_bytes(frame[at + 7 : at + 8], "big") & 1)


class Mp3File(io.RawIOBase):
    """An MP3, and how far it was read.

    libsndfile stops an MP3 at the number of frames that its header states. Where it states none, it
    stops at the number that the file's size and first frame suggest, which at a variable bit rate
    may be half of them. This class makes such a file look longer than any MP3 of its size can last:
    libsndfile then reads to the end.
    """

    TIMES = 64
    """A factor above the largest bit rate over the smallest (MPEG 1 layer III: 320 / 32; MPEG 2:
    160 / 8)."""

    def __init__(self, source: Path | bytes) -> None:
        super().__init__()
        self._file = _opened(source)
        self.has_length = has_length(source)
        self._size = self._file.seek(0, io.SEEK_END)
        self._seen = self._size if self.has_length else self.TIMES * self._size
        self._place = self._file.seek(0)

    def close(self) -> None:
        """See `io.IOBase.close`."""
        self._file.close()
        super().close()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """See `io.IOBase.seek`; beyond the end there seem to be zeros."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._seen}[whence]
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
            found = _at(self._file, self._place, len(buffer))
            count = len(found)
            buffer[:count] = found
        self._place += count
        return count

    @property
    def left(self) -> int:
        """Bytes behind what was read that are no tags.

        There are many where decoding stopped, or where another MP3 follows.
        """
        end = self._size
        while end > self._place:
            if _at(self._file, end - 128, 3) == b"TAG":
                end -= 128
            elif _at(self._file, end - 32, 8) == b"APETAGEX":
                end -= 32 + int.from_bytes(_at(self._file, end - 20, 4), "little")
            elif _at(self._file, end - 9, 9) in {b"LYRICS200", b"LYRICSEND"}:
                length = _at(self._file, end - 15, 6)
                end -= 15 + int(length) if length.isdigit() else 5100
            else:
                break
        behind = _at(self._file, self._place, max(0, end - self._place))
        return len(behind.rstrip(b"\0"))


def _ends(start: bytes) -> Iterator[int]:
    """Yield where a file that starts like this ends, as far as its header knows."""

    def length(at: int, width: int, order: Order) -> int | None:
        found = int.from_bytes(start[at : at + width], order)
        return found if found < (STREAMED if width == 4 else 2**63) else None

    if known := WHOLE.get(start[:4]):
        at, width, order, before = known
        if whole := length(at, width, order):  # writers that cannot seek leave 0
            yield before + whole
    if start[:8] == b"NIST_1A\n":
        sizes = [re.search(rb"%s -i (\d{1,12})" % name, start) for name in NIST]
        if all(sizes) and start[8:16].strip().isdigit():
            yield int(start[8:16]) + math.prod(int(size[1]) for size in sizes if size)
    if chunks := CHUNKS.get(start[:4]):
        at, width, order, wanted = chunks
        while at + 4 + width <= len(start) and (inside := length(at + 4, width, order)) is not None:
            end = at + 4 + width + inside
            if start[at : at + 4] == wanted:
                yield end
                return
            at = end + (inside % 2 if width == 4 else 0)
