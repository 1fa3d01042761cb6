"""A run that is resumed, and checkpoints that cannot be."""

import json
import os
import shutil
import signal
import subprocess
import time

import pytest
import torch
from conftest import TINY, make_data, training_command
from safetensors.torch import load_file, save_file
from test_training import change, quiet, same, weights

from gim_audio.checkpoints.folders import digest, load_model, resolve
from gim_audio.config import PhaseConfig, load
from gim_audio.errors import CheckpointError, DataError, GimAudioError
from gim_audio.packed import PackedCorpus, pack
from gim_audio.training import train


@pytest.mark.parametrize("precision", ["fp32", "bf16-emulated"])
def test_resuming_gives_the_same_bits(tiny, corpus, tmp_path, precision):
    config = change(tiny, precision=precision)
    train(config, corpus, tmp_path / "whole", say=quiet)
    train(change(config, steps=3), corpus, tmp_path / "parts", say=quiet)
    said = []
    train(config, corpus, tmp_path / "parts", resume=True, say=said.append)
    assert said[-1].startswith("resuming") and said[-1].endswith("from step 3")
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    for name in ("optimizer.safetensors", "model.safetensors"):
        assert (tmp_path / "whole/latest" / name).read_bytes() == (
            tmp_path / "parts/latest" / name
        ).read_bytes()
    losses = [
        [
            json.loads(line)["loss"]
            for line in (tmp_path / e / "metrics.jsonl").read_text().splitlines()
        ]
        for e in ("whole", "parts")
    ]
    assert losses[0] == losses[1]


def test_a_killed_process_goes_on_to_the_same_bits(corpus, tmp_path):
    conf = tmp_path / "c.yaml"
    conf.write_text(
        TINY.replace(
            "steps: 6, batch: 3, checkpoint_every: 3", "steps: 60, batch: 3, checkpoint_every: 7"
        )
    )
    environment = os.environ | {"OMP_NUM_THREADS": "1"}

    def start(out, *more):
        command = training_command(conf, corpus, tmp_path / out, *more)
        return subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)

    assert start("whole").wait() == 0
    process = start("killed")
    while not (tmp_path / "killed/step-000014").exists():
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed/step-000060").exists()
    assert start("killed", "--resume").wait() == 0
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "killed"))
    steps = [
        json.loads(line)["step"]
        for line in (tmp_path / "killed/metrics.jsonl").read_text().splitlines()
    ]
    assert steps == list(range(1, 61))


@pytest.mark.parametrize("link", ["step-000003", "step-000099", None])
def test_the_newest_checkpoint_counts_whatever_the_link_says(tiny, corpus, tmp_path, link):
    """A run may be killed before `latest` is moved, and copying tools drop links."""
    train(tiny, corpus, tmp_path / "e", say=quiet)
    before = weights(tmp_path / "e")
    (tmp_path / "e/latest").unlink()
    if link:
        (tmp_path / "e/latest").symlink_to(link)
    train(change(tiny, steps=8), corpus, tmp_path / "e", resume=True, say=quiet)
    assert resolve(tmp_path / "e").name == "step-000008"
    assert same(before, load_file(tmp_path / "e/step-000006/model.safetensors"))
    train(change(tiny, steps=8), corpus, tmp_path / "whole", say=quiet)
    assert same(weights(tmp_path / "e"), weights(tmp_path / "whole"))
    assert load(tmp_path / "e/config.yaml").training.steps == 8


def test_another_run_is_not_overwritten_or_mixed(tiny, corpus, tmp_path):
    train(tiny, corpus, tmp_path / "e", say=quiet)
    before = weights(tmp_path / "e")
    with pytest.raises(GimAudioError, match="exists already"):
        train(tiny, corpus, tmp_path / "e", say=quiet)
    with pytest.raises(CheckpointError, match=r"was trained with training\."):
        train(change(tiny, seed=9), corpus, tmp_path / "e", resume=True, say=quiet)
    pack(make_data(tmp_path / "d", {"a-1": 9000, "b-1": 9000}), tmp_path / "other")
    with pytest.raises(DataError, match="not the corpus"):
        train(
            change(tiny, steps=9),
            PackedCorpus(tmp_path / "other"),
            tmp_path / "e",
            resume=True,
            say=quiet,
        )
    assert same(before, weights(tmp_path / "e"))


def test_a_run_that_is_longer_than_asked_for(tiny, corpus, tmp_path, run):
    """Nothing is trained, and nothing is said to be."""
    (tmp_path / "c.yaml").write_text(tiny.to_yaml())
    arguments = ["train", tmp_path / "c.yaml", "--data", corpus.path, "--out", tmp_path / "e"]
    assert "trained: " in run(*arguments)[2]
    status, _, err = run(*arguments, "training.steps=3", "--resume")
    assert (status, "trained: " in err) == (0, False)
    assert f"{tmp_path}/e: nothing was left to train: it is at step-000006" in err


def test_damaged_checkpoints_are_refused(tiny, corpus, tmp_path):
    train(tiny, corpus, tmp_path / "e", say=quiet)
    for name, damage in [
        ("model.safetensors", lambda b: b[:-9]),
        ("optimizer.safetensors", lambda b: b[:40]),
        ("state.json", lambda b: b"{"),
    ]:
        shutil.copytree(tmp_path / "e", tmp_path / name, symlinks=True)
        file = tmp_path / name / "latest" / name
        file.write_bytes(damage(file.read_bytes()))
        remedy = f"damaged.*: remove it to go on from {tmp_path}/{name}/step-000003"
        with pytest.raises(CheckpointError, match=f"{name}/step-000006/{name}: {remedy}"):
            train(change(tiny, steps=9), corpus, tmp_path / name, resume=True, say=quiet)
    with pytest.raises(
        CheckpointError, match="step-000006/model.safetensors: damaged: it is not what was written"
    ):
        load_model(tmp_path / "model.safetensors")
    shutil.rmtree(tmp_path / "model.safetensors/step-000006")  # the remedy
    train(tiny, corpus, tmp_path / "model.safetensors", resume=True, say=quiet)
    assert same(weights(tmp_path / "e"), weights(tmp_path / "model.safetensors"))
    with pytest.raises(CheckpointError, match="no such experiment"):
        load_model(tmp_path / "none")
    (tmp_path / "hollow").mkdir()
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        load_model(tmp_path / "hollow")


def test_moments_of_another_model_are_refused(tiny, corpus, tmp_path):
    train(tiny, corpus, tmp_path / "e", say=quiet)
    path = resolve(tmp_path / "e") / "optimizer.safetensors"
    moments = load_file(path)
    for change_, message in [
        ({"0.0.exp_avg": torch.zeros(1)}, r"0\.0\.exp_avg has shape \(1,\)"),
        ({"9.0.step": torch.zeros(())}, r"lacks or adds 9\.0\.step"),
    ]:
        save_file(moments | change_, path)
        state = json.loads(path.with_name("state.json").read_text())
        state["files"][path.name] = digest(path)
        path.with_name("state.json").write_text(json.dumps(state))
        with pytest.raises(CheckpointError, match=message):
            train(change(tiny, steps=9), corpus, tmp_path / "e", resume=True, say=quiet)


def test_a_full_disk_keeps_the_last_checkpoint(tiny, corpus, tmp_path, monkeypatch, run):
    from gim_audio.training import checkpointer

    conf = tmp_path / "tiny.yaml"

    def full(tensors, path):
        if "step-000006" in str(path):
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")
        return write(tensors, path)

    write = checkpointer.write_tensors
    monkeypatch.setattr(checkpointer, "write_tensors", full)
    status, _, err = run("train", conf, "--data", corpus.path, "--out", tmp_path / "e")
    assert status == 2
    last = err.splitlines()[-1]
    assert f"{tmp_path}/e/step-000006: No space left on device" in last
    assert f"the last good checkpoint is {tmp_path}/e/step-000003" in last
    assert sorted(p.name for p in tmp_path.glob("e/*step*")) == ["step-000000", "step-000003"]
    monkeypatch.undo()
    assert run("train", conf, "--data", corpus.path, "--out", tmp_path / "e", "--resume")[0] == 0
    train(load(conf), corpus, tmp_path / "whole", say=quiet)
    assert same(weights(tmp_path / "e"), weights(tmp_path / "whole"))


@pytest.mark.parametrize("decay", ["none", "linear"])
def test_a_decay_that_has_begun_keeps_its_length(tiny, corpus, tmp_path, decay):
    """Another length would give the next step another learning rate."""
    train(change(tiny, steps=4, decay=decay), corpus, tmp_path / "e", say=quiet)
    longer = change(tiny, steps=8, decay=decay)
    if decay == "none":
        train(longer, corpus, tmp_path / "e", resume=True, say=quiet)
        return
    said = (
        "training.steps=8, but the learning rate decays over 4 steps, of which 4 are done, and"
        " would jump: resume with 4"
    )
    with pytest.raises(CheckpointError, match=said):
        train(longer, corpus, tmp_path / "e", resume=True, say=quiet)
    train(change(tiny, steps=4, decay=decay), corpus, tmp_path / "e", resume=True, say=quiet)


def test_a_decay_that_has_not_begun_may_change(tiny, corpus, tmp_path):
    def plan(steps):
        return change(
            tiny, schedule=(PhaseConfig(steps=3), PhaseConfig(steps=steps, decay="linear"))
        )

    def interrupted(done, total, metrics):
        if done == 4:  # after the checkpoint between the phases
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(plan(4), corpus, tmp_path / "e", say=quiet, progress=interrupted)
    train(plan(2), corpus, tmp_path / "e", resume=True, say=quiet)
    assert resolve(tmp_path / "e").name == "step-000005"
