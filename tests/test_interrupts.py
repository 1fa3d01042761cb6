"""Events in the life of a run of days."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import TINY, training_command
from safetensors.torch import load_file

from gim_audio.checkpoints.folders import checkpoints, resolve
from gim_audio.config import load
from gim_audio.errors import CheckpointError, GimAudioError
from gim_audio.packed import PackedCorpus, pack
from gim_audio.training import train

KILLER = """
import os, random, signal, sys, time
from pathlib import Path
from gim_audio.config import load
from gim_audio.packed import PackedCorpus
from gim_audio.training import train

conf, packed, experiment, kills = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])

def start():
    process = os.fork()  # nothing was computed yet: threads are not an issue
    if process == 0:
        try:
            train(load(conf), PackedCorpus(packed), experiment, resume=True, say=lambda line: None)
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
        os._exit(0)
    return process

moments = random.Random(5)
writing = 0
for kill in range(kills):
    process = start()
    time.sleep(moments.uniform(0.02, 0.5))
    if kill % 2:  # while it writes
        while not any(experiment.glob(".step-*.partial")):
            time.sleep(0.0005)
    writing += any(experiment.glob(".step-*.partial"))
    assert os.waitpid(process, os.WNOHANG) == (0, 0), "over before it was killed"
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
assert writing >= 3, writing
_, status = os.waitpid(start(), 0)
sys.exit(status)
"""


def quiet(_):
    pass


def weights(experiment):
    return load_file(resolve(experiment) / "model.safetensors")


def assert_same_runs(first, second):
    a, b = weights(first), weights(second)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    lines = [
        [json.loads(x) for x in (e / "metrics.jsonl").read_text().splitlines()]
        for e in (first, second)
    ]
    assert [(x["step"], x["loss"]) for x in lines[0]] == [(x["step"], x["loss"]) for x in lines[1]]


@pytest.fixture
def conf(tmp_path):
    """A configuration of a run that lasts for some seconds and saves all the time."""
    path = tmp_path / "conf.yaml"
    path.write_text(TINY.replace("steps: 6", "steps: 250"))
    return path


def start(conf, corpus, out, *more):
    return subprocess.Popen(
        training_command(conf, corpus, out, *more),
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(path, process):
    while not path.exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.002)


@pytest.mark.parametrize("schedule", ["joint", "sequential"])
def test_ten_kills_change_nothing(corpus, tmp_path, conf, schedule):
    conf.write_text(conf.read_text().replace("steps: 250", "steps: 600"))
    if schedule == "sequential":
        conf.write_text(
            conf.read_text().replace("steps: 600", "steps: 300, schedule: sequential, cache: true")
        )
    script = tmp_path / "killer.py"
    script.write_text(KILLER)
    subprocess.run(
        [sys.executable, script, conf, corpus.path, tmp_path / "killed", "10"],
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    # With as many threads: two round differently.
    assert start(conf, corpus, tmp_path / "whole").wait() == 0
    assert_same_runs(tmp_path / "killed", tmp_path / "whole")
    assert not list((tmp_path / "killed").glob(".step-*"))


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_run_saves_before_it_stops(corpus, tmp_path, conf, number, status):
    conf.write_text(conf.read_text().replace("checkpoint_every: 3", "checkpoint_every: 1000"))
    process = start(conf, corpus, tmp_path / "e")
    wait_for(tmp_path / "e/metrics.jsonl", process)
    time.sleep(0.3)
    process.send_signal(number)
    _, said = process.communicate()
    assert process.returncode == status
    last = resolve(tmp_path / "e")
    assert 0 < int(last.name.removeprefix("step-")) < 250
    assert f"saved {last}: --resume goes on from there" in said
    assert start(conf, corpus, tmp_path / "e", "--resume").wait() == 0
    # With as many threads: two round differently.
    assert start(conf, corpus, tmp_path / "whole").wait() == 0
    assert_same_runs(tmp_path / "e", tmp_path / "whole")


def test_sigusr1_saves_and_goes_on(corpus, tmp_path, conf):
    conf.write_text(conf.read_text().replace("checkpoint_every: 3", "checkpoint_every: 1000"))
    process = start(conf, corpus, tmp_path / "e")
    wait_for(tmp_path / "e/metrics.jsonl", process)
    process.send_signal(signal.SIGUSR1)
    _, said = process.communicate()
    assert process.returncode == 0
    asked = [folder.name for folder in checkpoints(tmp_path / "e")[1:-1]]
    assert len(asked) == 1
    assert f"saved {tmp_path}/e/{asked[0]}" in said


def test_two_processes_do_not_share_a_folder(corpus, tmp_path, conf, run):
    process = start(conf, corpus, tmp_path / "e")
    wait_for(tmp_path / "e/step-000003", process)
    status, _, said = run("train", conf, "--data", corpus.path, "--out", tmp_path / "e", "--resume")
    assert status == 2
    assert said.startswith(f"gim-audio: {tmp_path}/e: process {process.pid} of ")
    assert said.endswith("is at work there: wait for it\n")
    process.kill()
    process.communicate()
    with pytest.raises(KeyboardInterrupt):  # the lock went with its process

        def stop(done, total, metrics):
            raise KeyboardInterrupt

        train(load(conf), corpus, tmp_path / "e", resume=True, say=quiet, progress=stop)


def test_best_counts_the_modules_that_have_begun(corpus, tmp_path, noise):
    """A module that has not begun has the loss of chance, which must not decide.

    One that has makes a better model.
    """
    from gim_audio.training import checkpointer

    (tmp_path / "c.yaml").write_text(TINY.replace("checkpoint_every: 3", "checkpoint_every: 1"))
    schedule = "training.schedule=[{modules: [1], steps: 3}, {modules: [2], steps: 2}]"
    pack(noise, tmp_path / "valid")
    losses = iter([[1.0, 9.0], [0.5, 9.9], [0.9, 1.0], [0.5, 8.0], [0.5, 8.5]])

    def told(*_):
        return {"loss": [*next(losses), 2, 2, 2, 2], "accuracy": [0.0] * 6}

    seen = []

    def look(done, total, metrics):
        best = tmp_path / "e/best"
        # Before the checkpoint of this step.
        seen.append(best.resolve().name if best.exists() else None)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpointer, "validate", told)
        train(
            load(tmp_path / "c.yaml", [schedule]), corpus, tmp_path / "e", valid=PackedCorpus(tmp_path / "valid"),
            say=lambda line: None, progress=look,
        )  # fmt: skip
    assert seen == [None, "step-000001", "step-000002", "step-000002", "step-000004"]
    assert (tmp_path / "e/best").resolve().name == "step-000004"


def test_the_newest_checkpoints_are_kept_and_the_best(corpus, tmp_path, conf, noise):
    pack(noise.select(["a-1", "b-3"]), tmp_path / "valid")
    config = load(
        conf, ["training.steps=30", "training.checkpoint_every=5", "training.learning_rate=0.01"]
    )
    train(config, corpus, tmp_path / "e", valid=PackedCorpus(tmp_path / "valid"), keep=2, say=quiet)
    lines = [
        json.loads(line) for line in (tmp_path / "e/validation.jsonl").read_text().splitlines()
    ]
    assert [line["step"] for line in lines] == [5, 10, 15, 20, 25, 30]
    best = min(lines, key=lambda line: sum(line["loss"]))["step"]
    assert (tmp_path / "e/best").resolve().name == f"step-{best:06d}"
    expected = {"step-000000", f"step-{best:06d}", "step-000025", "step-000030"}
    assert {folder.name for folder in checkpoints(tmp_path / "e")} == expected


def test_validation_is_what_the_objective_says(corpus, tmp_path, conf):
    """Untrained and with zeroed heads, every loss is ln(1 + negatives)."""
    import math

    from gim_audio.checkpoints.folders import load_model, save_model
    from gim_audio.training.validation import validate

    config = load(conf, ["training.steps=1"])
    train(config, corpus, tmp_path / "e", say=quiet)
    _, model = load_model(tmp_path / "e")
    for module in model.stack:
        module.objective.heads.data.zero_()
    (tmp_path / "zero").mkdir()
    save_model(tmp_path / "zero", config, model.state_dict())
    found = validate(tmp_path / "zero", corpus, config, torch.device("cpu"), corpus)
    assert found["loss"] == pytest.approx([math.log(5)] * 6)
    assert found["accuracy"] == [0.0] * 6
    again = [
        validate(resolve(tmp_path / "e"), corpus, config, torch.device("cpu"), corpus)
        for _ in range(2)
    ]
    assert again[0] == again[1] != found


def test_every_byte_of_a_checkpoint_is_watched(corpus, tmp_path, tiny):
    train(tiny, corpus, tmp_path / "e", say=quiet)
    for name in ("model.safetensors", "optimizer.safetensors", "config.yaml"):
        shutil.copytree(tmp_path / "e", tmp_path / name, symlinks=True)
        file = tmp_path / name / "step-000006" / name
        damaged = bytearray(file.read_bytes())
        damaged[-3] ^= 1
        file.write_bytes(damaged)
        with pytest.raises(
            CheckpointError, match=f"{name}: damaged.*: remove it to go on from .*step-000003"
        ):
            train(tiny, corpus, tmp_path / name, resume=True, say=quiet)
        (tmp_path / name / "step-000003/model.safetensors").unlink()
        with pytest.raises(
            CheckpointError, match=f"{name}: damaged.*: remove it to go on from .*step-000000"
        ):
            train(tiny, corpus, tmp_path / name, resume=True, say=quiet)


def test_another_corpus_is_noticed_by_its_bytes(tiny, corpus, tmp_path):
    train(tiny, corpus, tmp_path / "e", say=quiet)
    (corpus.path / "fingerprint").write_text("another\n")
    with pytest.raises(GimAudioError, match="not the corpus that .*e was trained on"):
        train(tiny, PackedCorpus(corpus.path), tmp_path / "e", resume=True, say=quiet)
