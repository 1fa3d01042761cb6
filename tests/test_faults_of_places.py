"""File systems, memory, processes and files that fail.

The work continues, or one line says why not.
"""

import errno
import json
import os
import socket
import subprocess
import sys

import pytest
from conftest import TINY

from gim_audio import files
from gim_audio.checkpoints.folders import load_model, resolve
from gim_audio.errors import GimAudioError, is_out_of_memory

BOM = "\ufeff"


def lacking(monkeypatch, module, function, code):
    def refuse(*_, **__):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(module, function, refuse)


@pytest.mark.parametrize(
    ("module", "function", "code", "note"),
    [
        (files.fcntl, "flock", errno.ENOLCK, "the file system has no locks"),
        (files.Path, "symlink_to", errno.EPERM, "the file system has no links"),
        (files.Path, "chmod", errno.EPERM, ""),
        (files.os, "fsync", errno.EINVAL, ""),
    ],
    ids=["flock", "symlink", "chmod", "fsync"],
)
def test_file_systems_that_lack_something(
    corpus, noise, tmp_path, run, monkeypatch, module, function, code, note
):
    """Networks and removable disks lack locks, links, modes or a flush: the work continues."""
    lacking(monkeypatch, module, function, code)
    files._note.cache_clear()
    (tmp_path / "c.yaml").write_text(TINY)
    arguments = ["train", tmp_path / "c.yaml", "--data", corpus.path, "--out", tmp_path / "e"]
    status, _, err = run(*arguments)
    assert (status, note in err) == (0, True), err
    status, _, err = run(*arguments, "training.steps=8", "--resume")
    assert (status, "resuming" in err) == (0, True), err
    assert resolve(tmp_path / "e/latest").resolve() == resolve(tmp_path / "e")
    assert load_model(tmp_path / "e/latest")[0].training.steps == 8
    assert run("featurize", tmp_path / "e", noise.path, tmp_path / "out")[0] == 0
    assert not (tmp_path / "e/.locked").exists()


def test_a_lock_by_name_keeps_others_out(tmp_path, monkeypatch):
    lacking(monkeypatch, files.fcntl, "flock", errno.ENOLCK)
    with files.lock(tmp_path / "e"):
        with (
            pytest.raises(
                GimAudioError, match=r"is at work there; if it is not, remove .*\.locked"
            ),
            files.lock(tmp_path / "e"),
        ):
            pass
        assert (tmp_path / "e/.locked").exists()
    (tmp_path / "e/.locked").write_text(f"process 999999999 of {socket.gethostname()}\n")  # killed
    with files.lock(tmp_path / "e"):
        pass


def test_an_error_of_writing_is_still_one(tmp_path, monkeypatch):
    lacking(monkeypatch, files.os, "fsync", errno.EIO)
    with pytest.raises(GimAudioError, match="Input/output error"):
        files.write_text(tmp_path / "x", "y")


def test_a_damaged_log_stops_nothing(trained, run):
    """Checkpoints are whole without it; checksums come before settings."""
    arguments, experiment = trained
    (experiment / "provenance.json").write_text("")
    lines = (experiment / "metrics.jsonl").read_text().splitlines(keepends=True)
    (experiment / "metrics.jsonl").write_text(
        "".join([lines[0], '{"step": 2, "loss": [1.0, }\n', "[]\n", *lines[2:]])
    )
    status, _, err = run(*arguments, "training.steps=7", "--resume")
    assert (status, "trained: " in err) == (0, True), err
    kept = [
        json.loads(line)["step"] for line in (experiment / "metrics.jsonl").read_text().splitlines()
    ]
    assert kept == [1, 3, 4, 5, 6, 7]
    assert run("report", experiment, "--out", experiment / "report.html")[0] == 0
    assert len(json.loads((experiment / "provenance.json").read_text())) == 1
    (experiment / "step-000007/config.yaml").write_text("")
    status, _, err = run(*arguments, "training.steps=9", "--resume")
    assert (status, "step-000007/config.yaml: damaged" in err, "go on from" in err) == (
        2,
        True,
        True,
    )


@pytest.mark.parametrize("name", ["metrics.jsonl", "provenance.json", "config.yaml"])
def test_a_damaged_file_is_not_reported(trained, tmp_path, run, name):
    (trained[1] / name).write_text('{"step": "x"}\n')
    status, _, err = run("report", trained[1], "--out", tmp_path / "r.html")
    assert (status, f"{trained[1]}/{name}: damaged" in err) == (2, True), err


def test_memory_that_is_not_enough(trained, run, monkeypatch):
    """The line names the last good checkpoint and what to make smaller."""
    arguments, experiment = trained

    def refuse(*_, **__):
        raise RuntimeError(
            "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you"
            " tried …"
        )

    monkeypatch.setattr("gim_audio.training.step.Step.__call__", refuse)
    status, _, err = run(*arguments, "training.steps=9", "--resume")
    message = (
        "smaller training.batch or data.crop: training stops; the last good checkpoint is"
        f" {experiment}/step-000006"
    )
    assert (status, message in err) == (2, True), err
    assert not is_out_of_memory(RuntimeError("size mismatch"))
    assert is_out_of_memory(MemoryError())


def test_a_model_that_is_too_large(corpus, tmp_path, run):
    (tmp_path / "c.yaml").write_text(TINY)
    status, _, err = run(
        "train",
        tmp_path / "c.yaml",
        "model.context.hidden=2000000000",
        "--data",
        corpus.path,
        "--out",
        tmp_path / "e",
    )
    assert (status, "the memory is not enough" in err, len(err.splitlines())) == (2, True, 1), err


@pytest.mark.parametrize("missing", ["RANK", "port"])
def test_processes_that_cannot_meet(corpus, tmp_path, missing):
    (tmp_path / "c.yaml").write_text(TINY)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        world = {
            "WORLD_SIZE": "1",
            "RANK": "0",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(taken.getsockname()[1]),
        }
        world.pop(missing, None)
        arguments = ["train", tmp_path / "c.yaml", "training.parallel=data", "training.device=cpu"]
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "gim_audio",
                *map(str, arguments),
                "--data",
                corpus.path,
                "--out",
                tmp_path / "e",
            ],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            env=os.environ | {"OMP_NUM_THREADS": "1"} | world,
        )
    lines = [line for line in done.stderr.splitlines() if line.startswith("gim-audio")]
    assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr
    assert "the processes cannot meet" in lines[-1]
