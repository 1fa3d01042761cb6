"""Audio from standard input, folders and pipes."""

import subprocess
import sys
import threading

import pytest
from test_containers import au, encoded, featurize, loud_and_quiet, pages

from gim_audio.errors import DataError
from gim_audio.featurize import gather
from gim_audio.files import walk


def test_two_oggs_on_standard_input(tmp_path):
    one = encoded(loud_and_quiet(4), "OGG")
    done = featurize("-", tmp_path / "two", input=2 * one)
    assert (done.returncode, b"another recording follows the first" in done.stderr) == (2, True)
    done = featurize("-", tmp_path / "one", input=one)
    assert (done.returncode, (tmp_path / "one/utt2num_frames").read_text()) == (0, "stdin 398\n")


@pytest.mark.parametrize(
    "kind", ["AU twice", "chunk between", "FLAC behind", "hole", "damaged page", "no samples"]
)
def test_standard_input_is_believed_no_more_than_files(tmp_path, kind):
    """A pipe is refused for what a file of these bytes is refused for, in one line."""
    wav, ogg = encoded(loud_and_quiet(4), "WAV"), pages(encoded(loud_and_quiet(16), "OGG"))
    given = {
        "AU twice": 2 * au(loud_and_quiet(4)),
        "chunk between": wav + b"LIST\x10\0\0\0" + bytes(16) + wav,
        "FLAC behind": wav + encoded(loud_and_quiet(4), "FLAC"),
        "hole": b"".join(ogg[:-3] + ogg[-2:]),
        "damaged page": b"".join([*ogg[:-2], ogg[-2][:-1] + bytes([ogg[-2][-1] ^ 1]), ogg[-1]]),
        "no samples": wav[:40] + bytes(4) + wav[44:],
    }[kind]
    done = featurize("-", tmp_path / "out", input=given)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert not (tmp_path / "out").exists()


def test_a_writer_is_heard_to_the_end(tmp_path):
    """A program that writes a chunk behind the samples is not killed by SIGPIPE.

    A script with pipefail would see it.
    """
    wav = encoded(loud_and_quiet(4), "WAV")
    command = [sys.executable, "-m", "gim_audio", "featurize", "mfcc", "-", str(tmp_path / "out")]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    failures = []

    def write():
        try:
            process.stdin.write(wav + b"LIST" + bytes(5_000_000))
            process.stdin.close()
        except BrokenPipeError as error:
            failures.append(error)

    thread = threading.Thread(target=write)
    thread.start()
    assert process.wait(timeout=120) == 0, process.stderr.read()
    thread.join(timeout=10)
    assert not failures


@pytest.fixture
def tree(tmp_path):
    """A folder with all that such a folder may hold."""
    root = tmp_path / "tree"
    (root / "sub/deep").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    wav = encoded(loud_and_quiet(4), "WAV")
    for name in (
        "tree/a.wav",
        "tree/sub/a.WAV",
        "tree/sub/deep/a.wave",
        "elsewhere/b.wav",
        "tree/.hidden.wav",
    ):
        (tmp_path / name).write_bytes(wav)
    (root / "._a.wav").write_bytes(b"\0\5\26\7Mac OS X")
    (root / ".Trash").mkdir()
    (root / ".Trash/c.wav").write_bytes(wav)
    for name, form in (("d.oga", "OGG"), ("e.snd", "AU"), ("f.aifc", "AIFF"), ("g.sph", "NIST")):
        (root / name).write_bytes(encoded(loud_and_quiet(4), form))
    (root / "notes.txt").write_text("not audio")
    (root / "linked").symlink_to("../elsewhere")
    (root / "sub/loop").symlink_to("..")
    (root / "sub/again").symlink_to("../../elsewhere")
    return root


def test_a_folder_is_walked_with_open_eyes(tree):
    """Links are followed once, hidden files are none, and names are those of the path."""
    names = gather([str(tree)]).utterances
    assert names == ["a", "d", "e", "f", "g", "linked-b", "sub-a", "sub-deep-a"]
    assert featurize(tree, tree.parent / "out").returncode == 0
    assert sorted(file.stem for file in (tree.parent / "out").glob("*.npy")) == names


def test_what_a_folder_holds_in_vain_is_named(tree, monkeypatch):
    """Audio that libsndfile does not read, a link to nothing and a folder that may not be read.

    The others are done.
    """
    (tree / "h.m4a").write_bytes(b"\0\0\0\x20ftypM4A ")
    (tree / "i.wav").symlink_to("nowhere.wav")
    (tree / "j.wav").symlink_to("j.wav")
    done = featurize(tree, tree.parent / "out")
    error = done.stderr.decode()
    assert done.returncode == 2
    assert "h.m4a: libsndfile does not read .m4a: convert it" in error
    assert "i.wav: no such file" in error
    assert "j.wav: Too many levels of symbolic links" in error
    assert "3 of 11 utterances failed, 8 are in" in error
    closed = tree / "sub"
    iterdir = type(tree).iterdir

    def refuse(path):
        if path == closed:
            raise PermissionError(13, "Permission denied", str(path))
        return iterdir(path)

    monkeypatch.setattr(type(tree), "iterdir", refuse)
    assert closed in list(walk(tree))
    assert gather([str(tree)]).recordings["sub"] == str(closed)
    closed = tree
    assert gather([str(tree)]).recordings == {"tree": str(tree)}


def test_two_files_of_one_name(tree):
    (tree / "a.flac").write_bytes(encoded(loud_and_quiet(4), "FLAC"))
    with pytest.raises(DataError, match=r"a\.wav and .*a\.flac would both be a"):
        gather([str(tree)])


def test_a_named_pipe_is_refused_at_once(tree):
    import os

    os.mkfifo(tree / "p.wav")
    done = featurize(tree, tree.parent / "out")
    assert (done.returncode, b"p.wav: is a pipe: give it on standard input" in done.stderr) == (
        2,
        True,
    )
    assert len(list((tree.parent / "out").glob("*.npy"))) == 8
    assert featurize(tree / "p.wav", tree.parent / "none").returncode == 2
