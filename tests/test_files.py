import os
import socket
import tempfile
from pathlib import Path

import pytest

from gim_audio.errors import GimAudioError
from gim_audio.files import absent, new_file, new_folder, replace_link, write_text


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a/b.txt"
    with pytest.raises(ZeroDivisionError), new_file(path) as temporary:
        temporary.write_text("half")
        _ = 1 / 0
    assert list(path.parent.iterdir()) == []
    write_text(path, "whole")
    with pytest.raises(ZeroDivisionError), new_file(path) as temporary:
        temporary.write_text("half")
        _ = 1 / 0
    assert path.read_text() == "whole"


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    with pytest.raises(ZeroDivisionError), new_folder(tmp_path / "f") as temporary:
        (temporary / "x").touch()
        _ = 1 / 0
    assert list(tmp_path.iterdir()) == []
    with new_folder(tmp_path / "f") as temporary:
        (temporary / "x").touch()
    assert [p.name for p in (tmp_path / "f").iterdir()] == ["x"]
    with pytest.raises(GimAudioError, match="exists already"), new_folder(tmp_path / "f"):
        pass


def test_where_nothing_can_be_made_is_told_before_any_work(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(
        GimAudioError, match=f"{tmp_path}/file/a/out: {tmp_path}/file is a file, not a folder"
    ):
        absent(tmp_path / "file/a/out")
    own = os.geteuid()
    with (
        tempfile.TemporaryDirectory() as folder
    ):  # what pytest makes is closed to others altogether
        Path(folder).chmod(0o755)
        (Path(folder) / "closed").mkdir(mode=0o555)
        if own == 0:
            os.seteuid(65534)  # root may write everywhere
        try:
            with pytest.raises(
                GimAudioError, match=f"closed/a/out: {folder}/closed may not be written in"
            ):
                absent(Path(folder) / "closed/a/out")
        finally:
            os.seteuid(own)


def test_what_a_killed_process_left_is_removed(tmp_path):
    dead = (
        max(int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()) + 100_000
    )
    host = socket.gethostname()
    leftover, alive = (
        tmp_path / f".f.{host}.{dead}.partial",
        tmp_path / f".f.{host}.{os.getppid()}.partial",
    )
    other = tmp_path / f".f.elsewhere.{dead}.partial"
    for folder in (leftover, alive, other):
        folder.mkdir()
        (folder / "x").touch()
    with new_folder(tmp_path / "f"):
        pass
    assert not leftover.exists()
    assert alive.exists()
    assert other.exists()


def test_a_link_is_replaced(tmp_path):
    dead = (
        max(int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()) + 100_000
    )
    (tmp_path / "folder").mkdir()
    # Its maker was killed.
    (tmp_path / f".latest.{socket.gethostname()}.{dead}.partial").symlink_to("folder")
    replace_link(tmp_path / "latest", "one")
    replace_link(tmp_path / "latest", "two")
    assert (tmp_path / "latest").readlink() == Path("two")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder", "latest"]
