import hashlib
import http.server
import io
import tarfile
import threading

import numpy as np
import pytest
import soundfile

from gim_audio.corpora import librispeech
from gim_audio.errors import DataError
from gim_audio.kaldi import check


def tree(folder, subset="dev-clean-2", transcripts=True):
    for speaker, chapter, number in [(84, 121, 0), (84, 121, 1), (174, 50, 0), (84, 99, 0)]:
        place = folder / "LibriSpeech" / subset / str(speaker) / str(chapter)
        place.mkdir(parents=True, exist_ok=True)
        name = f"{speaker}-{chapter}-{number:04d}"
        soundfile.write(
            place / f"{name}.flac",
            0.1 * np.random.default_rng(number).standard_normal(20000),
            16000,
        )
        if transcripts:
            with (place / f"{speaker}-{chapter}.trans.txt").open("a") as file:
                file.write(f"{name} SOME WORDS {number}\n")
    return folder


class Server(http.server.BaseHTTPRequestHandler):
    """Serve one archive, breaking the connection after each number of bytes in `cuts`."""

    archive = b""
    cuts: list[int] = []  # noqa: RUF012
    ranges: list[str | None] = []  # noqa: RUF012
    honours_range = True

    def do_GET(self):
        if not self.path.endswith("/31/dev-clean-2.tar.gz"):
            self.send_error(404)
            return
        wanted = self.headers.get("Range")
        self.ranges.append(wanted)
        start = (
            int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.honours_range else 0
        )
        if start >= len(self.archive):
            self.send_error(416)
            return
        body = self.archive[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        cut = self.cuts.pop(0) if self.cuts else len(body)
        self.wfile.write(body[:cut])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    tree(tmp_path / "source")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        tar.add(tmp_path / "source" / "LibriSpeech", "LibriSpeech")
    Server.archive, Server.cuts, Server.ranges, Server.honours_range = (
        buffer.getvalue(),
        [],
        [],
        True,
    )
    checksum = hashlib.md5(Server.archive).hexdigest()
    monkeypatch.setitem(librispeech.SUBSETS, "dev-clean-2", (31, checksum))
    monkeypatch.setattr(librispeech.time, "sleep", lambda _: None)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_download_and_read(server, tmp_path):
    seen = []
    librispeech.download(
        tmp_path / "c",
        "dev-clean-2",
        mirror=server,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen[-1] == (len(Server.archive), len(Server.archive))
    data = librispeech.read_tree(tmp_path / "c", "dev-clean-2")
    assert data.utterances == ["174-50-0000", "84-121-0000", "84-121-0001", "84-99-0000"]
    assert [file.name for file in (tmp_path / "c").iterdir()] == [
        "LibriSpeech"
    ]  # nothing else is left
    # It exists: nothing is downloaded.
    librispeech.download(tmp_path / "c", "dev-clean-2", mirror="http://127.0.0.1:9")


@pytest.mark.parametrize("honours_range", [True, False])
def test_a_cut_connection_is_resumed(server, tmp_path, honours_range):
    Server.cuts, Server.honours_range = [1000, 2000], honours_range
    librispeech.download(tmp_path / "c", "dev-clean-2", mirror=server)
    assert len(librispeech.read_tree(tmp_path / "c", "dev-clean-2").utterances) == 4
    assert Server.ranges[:2] == [None, "bytes=1000-"]
    assert Server.ranges[2] == ("bytes=3000-" if honours_range else "bytes=2000-")


def test_another_day_goes_on_where_it_was(server, tmp_path):
    Server.cuts = [700] + [0] * 4
    with pytest.raises(DataError, match="the connection broke 5 times .* goes on from 700 bytes"):
        librispeech.download(tmp_path / "c", "dev-clean-2", mirror=server)
    Server.ranges.clear()
    librispeech.download(tmp_path / "c", "dev-clean-2", mirror=server)
    assert Server.ranges == ["bytes=700-"]


def test_a_wrong_checksum_is_refused(server, tmp_path, monkeypatch):
    monkeypatch.setitem(librispeech.SUBSETS, "dev-clean-2", (31, "0" * 32))
    with pytest.raises(DataError, match="wrong checksum"):
        librispeech.download(tmp_path / "c", "dev-clean-2", mirror=server)
    assert list((tmp_path / "c").iterdir()) == []


def test_no_server_and_no_file(server, tmp_path):
    with pytest.raises(DataError, match="404"):
        librispeech.download(tmp_path / "c", "dev-clean", mirror=server)
    with pytest.raises(DataError, match="the connection broke"):
        librispeech.download(tmp_path / "c", "dev-clean-2", mirror="http://127.0.0.1:9")


def test_too_small_a_disk_is_said_first(server, tmp_path, monkeypatch):
    monkeypatch.setattr(librispeech, "free_bytes", lambda _: 1000)
    with pytest.raises(DataError, match="are needed for"):
        librispeech.download(tmp_path / "c", "dev-clean-2", mirror=server)


def test_command_line(server, tmp_path, run):
    status, _, err = run("data", "librispeech", tmp_path / "c", tmp_path / "d", "--subset", "dev-clean-2", "--download", "--mirror", server)  # fmt: skip
    assert status == 0
    assert "4 utterances, 2 speakers" in err
    assert check(tmp_path / "d") == []
    assert "84-121-0001 SOME WORDS 1" in (tmp_path / "d/text").read_text()
    listed = tmp_path / "list"
    listed.write_text("84-121-0001\n1-1-0001\n")
    status, _, err = run(
        "data",
        "librispeech",
        tmp_path / "c",
        tmp_path / "e",
        "--subset",
        "dev-clean-2",
        "--utterances",
        listed,
    )
    assert (status, "1 of 2 listed utterances" in err) == (0, True)
    for arguments, message in [
        (["--subset", "dev-other"], "no folder LibriSpeech/dev-other"),
        (["--subset", "dev-nothing", "--download"], "no subset dev-nothing to download"),
        (["--subset", "dev-clean-2", "--utterances", tmp_path / "nolist"], "nolist: No such file"),
    ]:
        status, _, err = run("data", "librispeech", tmp_path / "c", tmp_path / "f", *arguments)
        assert status == 2
        assert message in err
        assert len(err.strip().splitlines()) == 1


def test_a_subset_of_ones_own_needs_no_download(tmp_path, run):
    tree(tmp_path / "c", subset="mine")
    status, _, err = run(
        "data", "librispeech", tmp_path / "c", tmp_path / "d", "--subset", "mine", "--download"
    )
    assert (status, "4 utterances" in err) == (0, True)


def test_a_tree_without_transcripts(tmp_path):
    data = librispeech.read_tree(tree(tmp_path, transcripts=False), "dev-clean-2")
    assert data.text == {}
    with pytest.raises(DataError, match="none of its 4 utterances is listed"):
        librispeech.read_tree(tmp_path, "dev-clean-2", ["x"])
    (tmp_path / "LibriSpeech/empty").mkdir()
    with pytest.raises(DataError, match="no FLAC files"):
        librispeech.read_tree(tmp_path, "empty")


def test_the_sample(sample):
    data = librispeech.read_tree(sample, "train-clean-100")
    assert len(data.utterances) == len(set(data.speakers.values())) == 251
