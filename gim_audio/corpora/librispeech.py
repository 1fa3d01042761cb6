"""LibriSpeech (and Mini LibriSpeech) to a data directory.

It comes from a local tree, or is downloaded first.
"""

import errno
import http
import http.client
import os
import shutil
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from gim_audio.errors import DataError
from gim_audio.files import free_bytes, read_text, walk
from gim_audio.kaldi import DataDir

__all__ = ["SUBSETS", "download", "read_tree"]

SUBSETS = {
    "train-clean-100": (12, "2a93770f6d5c6c964bc36631d331a522"),
    "train-clean-360": (12, "c0e676e450a7ff2f54aeade5171606fa"),
    "train-other-500": (12, "d1a0fd59409feb2c614ce4d30c387708"),
    "dev-clean": (12, "42e2234ba48799c1f50f24a7926300a1"),
    "dev-other": (12, "c8d0bcc9cca99d4f8b62fcc847357931"),
    "test-clean": (12, "32fa31d27d2e1cad72775fee3f4849a9"),
    "test-other": (12, "fb5a50374b501bb3bac4815ee91d3135"),
    "train-clean-5": (31, "5df7d4e78065366204ca6845bb08f490"),
    "dev-clean-2": (31, "6d7ab67ac6a1d2c993d050e16d61080d"),
}
"""OpenSLR resource and MD5 of each archive, as in openslr.org/resources/12/md5sum.txt and
/31/md5sum.txt."""

MIRROR = "https://www.openslr.org/resources"
ATTEMPTS = 5
EXTRACTED = 1.1
"""Size of the extracted files over that of their archive: FLAC does not compress further."""

Progress = Callable[[int, int], None]


def read_tree(corpus: Path, subset: str, listed: Collection[str] | None = None) -> DataDir:
    """Return the data directory of a subset of LibriSpeech.

    The corpus has its own layout, `SUBSET/SPEAKER/CHAPTER/UTTERANCE.flac`.

    Args:
        corpus: the folder that holds `LibriSpeech/` or the subset itself.
        subset: such as `train-clean-100`.
        listed: utterances to keep; those of them that the tree lacks are not an error.

    Raises:
        DataError: The subset is missing, or none of its utterances is listed.
    """
    root = find(corpus, subset)
    if root is None:
        raise DataError(
            f"{corpus}: no folder LibriSpeech/{subset} in it: give the corpus's folder, or"
            " --download"
        )
    inside = [
        file
        for file in walk(root)
        if len(file.relative_to(root).parts) == len(("SPEAKER", "CHAPTER", "FILE"))
    ]
    files = {file.stem: os.path.realpath(file) for file in inside if file.suffix == ".flac"}
    names = sorted(files if listed is None else files.keys() & set(listed))
    if not names:
        raise DataError(
            f"{root}: none of its {len(files)} utterances is listed"
            if files
            else f"{root}: no FLAC files"
        )
    transcripts = (file for file in inside if file.name.endswith(".trans.txt"))
    text = dict(
        line.split(maxsplit=1)
        for file in transcripts
        for line in read_text(file).split("\n")
        if " " in line.strip()
    )
    return DataDir(
        recordings={name: files[name] for name in names},
        speakers={name: name.split("-")[0] for name in names},
        text={name: text[name] for name in names} if text.keys() >= set(names) else {},
        path=root,
    )


def find(corpus: Path, subset: str) -> Path | None:
    """Return the folder of a subset, if it exists."""
    places = (corpus / "LibriSpeech" / subset, corpus / subset)
    return next((place for place in places if place.is_dir()), None)


def download(
    corpus: Path,
    subset: str,
    *,
    mirror: str = MIRROR,
    progress: Progress = lambda done, total: None,
) -> None:
    """Fetch a subset into `corpus/LibriSpeech/`, unless it exists.

    A cut download is resumed where it was.

    Args:
        corpus: a folder; it is made.
        subset: The name of a subset, one of `SUBSETS`.
        mirror: address that has `/12` and `/31` below it.
        progress: called with bytes done and in all.

    Raises:
        DataError: the server cannot be reached, the archive has a wrong checksum, or the disk is
            too small.
    """
    import pooch

    if find(corpus, subset):
        return
    pooch.get_logger().setLevel("WARNING")
    resource, checksum = SUBSETS[subset]
    url = f"{mirror}/{resource}/{subset}.tar.gz"
    corpus.mkdir(parents=True, exist_ok=True)
    try:
        archive = pooch.retrieve(
            url,
            known_hash=f"md5:{checksum}",
            fname=f"{subset}.tar.gz",
            path=corpus,
            downloader=_Resume(corpus / f".{subset}.tar.gz.partial", progress),
        )
    except ValueError as error:  # pooch's word for a wrong hash, and for an address that is none
        if "hash" not in str(error):
            raise DataError(f"{url}: not an address to download from: {error}") from error
        raise DataError(
            f"{url}: wrong checksum, {corpus} keeps nothing of it: try again or another --mirror"
        ) from error
    temporary = corpus / f".{subset}.extracting"
    shutil.rmtree(temporary, ignore_errors=True)  # of a run that was killed
    with tarfile.open(archive) as tar:
        tar.extractall(temporary, filter="data")
    extracted = find(temporary, subset)
    if extracted is None:
        raise DataError(f"{url}: holds no LibriSpeech/{subset}")
    (corpus / "LibriSpeech").mkdir(exist_ok=True)
    extracted.replace(corpus / "LibriSpeech" / subset)
    shutil.rmtree(temporary)
    Path(archive).unlink()


class _Resume:
    """A downloader for pooch that keeps what it has got and asks for the rest."""

    def __init__(self, partial: Path, progress: Progress) -> None:
        self.partial, self.progress = partial, progress

    def __call__(self, url: str, output_file: str, pooch: Any) -> None:  # noqa: ARG002 - pooch's signature
        for attempt in range(1, ATTEMPTS + 1):
            try:
                self._fetch(url)
            except urllib.error.HTTPError as error:
                raise DataError(
                    f"{url}: the server refuses ({error.code} {error.reason}): try another --mirror"
                ) from error
            except (OSError, http.client.HTTPException) as error:
                if getattr(error, "errno", None) == errno.ENOSPC:
                    raise
                if attempt == ATTEMPTS:
                    raise DataError(
                        f"{url}: the connection broke {ATTEMPTS} times"
                        f" ({' '.join(str(error).split())}): run it again, it goes on from"
                        f" {self._size()} bytes"
                    ) from error
                time.sleep(min(2**attempt / 4, 8))
            else:
                shutil.move(self.partial, output_file)
                return

    def _size(self) -> int:
        return self.partial.stat().st_size if self.partial.exists() else 0

    def _fetch(self, url: str) -> None:
        done = self._size()
        request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})  # noqa: S310
        try:
            response = urllib.request.urlopen(request, timeout=30)  # noqa: S310 - the user names the mirror
        except urllib.error.HTTPError as error:
            if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and done:
                return  # the file is complete; the checksum decides
            raise
        with response:
            if response.status != http.HTTPStatus.PARTIAL_CONTENT:
                done = 0  # the server starts from the beginning
            rest = int(response.headers.get("Content-Length", 0))
            total = done + rest
            if free_bytes(self.partial.parent) < rest + EXTRACTED * total:
                raise DataError(
                    f"{self.partial.parent}: {(rest + EXTRACTED * total) / 1e9:.1f} GB are needed"
                    f" for {url}, {free_bytes(self.partial.parent) / 1e9:.1f} GB are free"
                )
            with self.partial.open("r+b" if done else "wb") as file:
                file.seek(done)
                while block := response.read1(1 << 20):
                    done += file.write(block)
                    self.progress(done, total)
        if rest and done < total:
            raise ConnectionError(f"{done} of {total} bytes")
