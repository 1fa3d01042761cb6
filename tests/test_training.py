import json
import math
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, make_data, training_command
from reference import PlainTraining
from safetensors.torch import load_file, save_file

from gim_audio.checkpoints.folders import digest, load_model, resolve
from gim_audio.config import PhaseConfig, load
from gim_audio.devices import pick_device
from gim_audio.errors import CheckpointError, ConfigError, DataError, GimAudioError
from gim_audio.kaldi import DataDir
from gim_audio.model.build import build_model
from gim_audio.model.objectives import InfoNCE
from gim_audio.model.sampling import Sampler
from gim_audio.packed import Crops, PackedCorpus, pack
from gim_audio.training import train
from gim_audio.training.data_parallel import DataParallel
from gim_audio.training.health import LossWatch, dead_units, effective_rank
from gim_audio.training.optimizers import AdamW, moments
from gim_audio.training.step import Step, negatives_generator


def quiet(_):
    pass


def weights(experiment):
    return load_file(resolve(experiment) / "model.safetensors")


def same(first, second):
    return first.keys() == second.keys() and all(
        torch.equal(first[name], second[name]) for name in first
    )


def change(config, **training):
    return config.model_copy(update={"training": config.training.model_copy(update=training)})


def test_what_an_experiment_folder_holds(tiny, corpus, tmp_path):
    train(tiny, corpus, tmp_path / "e", say=quiet)
    assert sorted(p.name for p in tmp_path.glob("e/*")) == [
        ".lock", "config.yaml", "latest", "metrics.jsonl", "provenance.json", "step-000000", "step-000003", "step-000006",
    ]  # fmt: skip
    assert sorted(p.name for p in tmp_path.glob("e/latest/*")) == [
        "config.yaml",
        "model.safetensors",
        "optimizer.safetensors",
        "state.json",
    ]
    metrics = [json.loads(line) for line in (tmp_path / "e/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in metrics] == [1, 2, 3, 4, 5, 6]
    assert all(len(row["loss"]) == len(row["accuracy"]) == 6 for row in metrics)
    assert [row["step"] for row in metrics if "effective_rank" in row] == [3, 6]
    config, model = load_model(tmp_path / "e")
    assert config == tiny
    assert not same(weights(tmp_path / "e"), load_model(tmp_path / "e/step-000000")[1].state_dict())
    assert same(weights(tmp_path / "e"), model.state_dict())


def test_learning_lowers_every_loss(spoken, tmp_path, tiny):
    from gim_audio.kaldi import DataDir

    pack(DataDir.read(spoken), tmp_path / "p")
    config = change(tiny, steps=300, batch=8, checkpoint_every=300, learning_rate=3e-3)
    train(config, PackedCorpus(tmp_path / "p"), tmp_path / "e", say=quiet)
    losses = np.array(
        [
            json.loads(line)["loss"]
            for line in (tmp_path / "e/metrics.jsonl").read_text().splitlines()
        ]
    )
    assert (losses[-30:].mean(axis=0) < math.log(5) - 0.1).all()


def test_the_fast_step_follows_the_plain_one(spoken, tmp_path):
    """200 steps from the same seed.

    The losses agree within a hundredth, though the order of sums differs.
    """
    pack(DataDir.read(spoken), tmp_path / "packed")
    corpus = PackedCorpus(tmp_path / "packed")
    path = tmp_path / "conf.yaml"
    path.write_text(TINY.replace("channels: 8", "channels: 16").replace("steps: 6", "steps: 200"))
    config = load(path)
    train(config, corpus, tmp_path / "e", say=quiet)
    fast = [
        json.loads(line)["loss"] for line in (tmp_path / "e/metrics.jsonl").read_text().splitlines()
    ]
    plain = PlainTraining(load_model(tmp_path / "e/step-000000")[1], config)
    crops = Crops(corpus, crop=config.data.crop, hop=160, batch=3, seed=config.training.seed)
    slow = [
        plain.step(
            torch.from_numpy(crops(step)) / 32768,
            lambda module, step=step: negatives_generator(config.training.seed, step, module),
        )
        for step in range(200)
    ]
    np.testing.assert_allclose(fast[:20], slow[:20], rtol=1e-4)
    np.testing.assert_allclose(fast, slow, rtol=1e-2)
    assert np.mean(slow[-20:]) < 0.95 * np.mean(slow[:20])


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


@pytest.mark.parametrize("kind", ["batch", "exact", "utterance", "pool"])
def test_two_threads_repeat_each_other(kind):
    """Gradients of frames that serve for many targets are summed in one order.

    It does not matter which thread comes first.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        torch.manual_seed(0)
        objective = InfoNCE(256, 512, Sampler(kind, 10, 128, 3))
        z, c = torch.randn(8, 128, 512), torch.randn(8, 128, 256)
        gradients = []
        for _ in range(4):
            frames = z.clone().requires_grad_()
            objective.score(frames, c, torch.Generator().manual_seed(0)).loss.backward()
            gradients.append(frames.grad)
        assert all(torch.equal(gradients[0], other) for other in gradients[1:])
    finally:
        torch.set_num_threads(threads)


def test_isolation_holds_in_training(tiny, corpus, tmp_path):
    """Nothing above a module changes it.

    Another context, another objective size, same weights.
    """
    train(tiny, corpus, tmp_path / "a", say=quiet)
    lower = tiny.model.model_copy(
        update={"context": tiny.model.context.model_copy(update={"hidden": 9})}
    )
    train(tiny.model_copy(update={"model": lower}), corpus, tmp_path / "b", say=quiet)
    a, b = weights(tmp_path / "a"), weights(tmp_path / "b")
    for name in a:
        if not name.startswith("stack.5."):
            assert torch.equal(a[name], b[name]), name


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


def test_short_utterances_are_counted(tiny, corpus, tmp_path):
    said = []
    longer = tiny.model_copy(update={"data": tiny.data.model_copy(update={"crop": 8500})})
    train(longer, corpus, tmp_path / "e", say=said.append)
    assert said == [
        (
            "left out of training: 3 of 7 utterances, 0.0 of 0.1 minutes of audio, are shorter than"
            " data.crop=8500 (0.53 s); data.crop=4960 would use 94% of the audio"
        )
    ]


def test_most_of_the_audio_is_left_out_only_when_asked(tiny, corpus, tmp_path):
    """Utterances of 9,000 samples and more hold 53 of 70 thousand.

    Those of 15,500 and more hold 32.
    """
    data = tiny.data.model_copy(update={"crop": 15500})
    longer = tiny.model_copy(update={"data": data})
    with pytest.raises(
        DataError, match=r"5 of 7 utterances.*data\.short='leave out' trains without them"
    ):
        train(longer, corpus, tmp_path / "e", say=quiet)
    assert not (tmp_path / "e").exists()
    asked = longer.model_copy(update={"data": data.model_copy(update={"short": "leave out"})})
    assert train(asked, corpus, tmp_path / "e", say=quiet) == 6


def test_a_run_that_is_longer_than_asked_for(tiny, corpus, tmp_path, run):
    """Nothing is trained, and nothing is said to be."""
    (tmp_path / "c.yaml").write_text(tiny.to_yaml())
    arguments = ["train", tmp_path / "c.yaml", "--data", corpus.path, "--out", tmp_path / "e"]
    assert "trained: " in run(*arguments)[2]
    status, _, err = run(*arguments, "training.steps=3", "--resume")
    assert (status, "trained: " in err) == (0, False)
    assert f"{tmp_path}/e: nothing was left to train: it is at step-000006" in err


def test_standardisation_can_be_measured(tiny, corpus, tmp_path):
    model = tiny.model.model_copy(update={"mean": "auto", "deviation": "auto"})
    train(tiny.model_copy(update={"model": model}), corpus, tmp_path / "e", say=quiet)
    config, loaded = load_model(tmp_path / "e")
    assert [config.model.mean, config.model.deviation] == pytest.approx(corpus.statistics())
    assert float(loaded.deviation) == pytest.approx(corpus.statistics()[1])


def test_another_rate_is_refused(tiny, noise, tmp_path):
    pack(noise, tmp_path / "p8", rate=8000)
    with pytest.raises(DataError, match="packed at 8000 Hz, the model wants 16000"):
        train(tiny, PackedCorpus(tmp_path / "p8"), tmp_path / "e", say=quiet)
    assert not (tmp_path / "e").exists()


def test_a_diverging_run_stops_and_names_the_last_good_checkpoint(tiny, corpus, tmp_path):
    with pytest.raises(
        GimAudioError, match=r"module \d .*at step \d+.*last good checkpoint is .*e/step-00000"
    ) as error:
        train(
            change(tiny, learning_rate=1e4, steps=50, checkpoint_every=2),
            corpus,
            tmp_path / "e",
            say=quiet,
        )
    named = str(error.value).rsplit(" ", 1)[-1]
    assert named == str(resolve(tmp_path / "e"))
    assert all(
        torch.isfinite(weight).all() for weight in load_model(Path(named))[1].state_dict().values()
    )


def test_weights_that_are_not_numbers_are_not_kept(tiny, corpus, tmp_path, monkeypatch):
    """A finite loss can have gradients that are not."""

    def spoil(self, x, index):
        found = step(self, x, index)
        if index == 5:
            next(self.model.stack[2].parameters()).data[0] = math.nan
        return found

    step = Step.__call__
    monkeypatch.setattr(Step, "__call__", spoil)
    with pytest.raises(
        GimAudioError, match="weights of module 3 are not finite after step 6.*step-000003"
    ):
        train(change(tiny, diagnose_every=5), corpus, tmp_path / "e", say=quiet)
    assert resolve(tmp_path / "e").name == "step-000003"


def test_the_watch():
    watch = LossWatch(2, chance=2.4)
    for step in range(200):
        watch.check(1, step, 1.3)
        watch.check(2, step, 2.4)
    watch.check(1, 200, 5.0)  # a spike, not a divergence
    with pytest.raises(
        GimAudioError, match="module 1 blew up at step 201: 1e\\+05, after 1.393 on average"
    ):
        watch.check(1, 201, 1e5)
    with pytest.raises(GimAudioError, match="the loss of module 2 is nan at step 7"):
        watch.check(2, 7, math.nan)


def test_signs_of_collapse():
    torch.manual_seed(0)
    white = torch.randn(4, 5000, 16)
    assert effective_rank(white) == pytest.approx(16, rel=0.01)
    assert effective_rank(white[..., :1] * torch.ones(16)) == pytest.approx(1, abs=0.01)
    assert effective_rank(torch.ones(2, 9, 4)) == 0
    white[..., :4] = 3
    assert dead_units(white) == 0.25


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


def test_training_does_not_load_the_compiler():
    """The optimizers of torch.optim would: see `AdamW`."""
    script = """
import sys, torch
from gim_audio.config import load
from gim_audio.model.build import build_model
import gim_audio.training
from gim_audio.training.step import Step
config = load(None, ["model.channels=16", "model.context.hidden=4"])
torch.manual_seed(0)  # of a few channels all may be dead at some initialisations
model = build_model(config.model, config.objective)
before = [p.clone() for p in model.parameters()]
Step.joint(model, config)(torch.randn(2, 20480, 1), 0)
assert all(not torch.equal(a, b) for a, b in zip(before, model.parameters()))
assert "torch._dynamo" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True)


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


def test_tf32_is_for_gpus(tiny, corpus, tmp_path):
    with pytest.raises(
        ConfigError, match="tf32 is for NVIDIA GPUs, not for cpu: take fp32 or bf16"
    ):
        train(change(tiny, precision="tf32", device="cpu"), corpus, tmp_path / "e", say=quiet)
    assert not (tmp_path / "e").exists()


LOOK = """
import torch
from gim_audio.devices import bf16_speed
torch.conv1d(torch.ones(4, 64, 400), torch.ones(64, 64, 4))  # oneDNN introduces itself at its first work
print("speed", bf16_speed(torch.device("cpu")))
"""


@pytest.mark.skipif(
    platform.machine() != "x86_64", reason="oneDNN's limits are of x86 instruction sets"
)
@pytest.mark.parametrize("most", ["DEFAULT", "AVX512_CORE", "AVX2"])
def test_bf16_is_fast_where_onednn_says_so(most):
    environment = os.environ | {
        "ONEDNN_MAX_CPU_ISA": most,
        "ONEDNN_VERBOSE": "1",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", LOOK], env=environment, capture_output=True, text=True, check=True
    )
    (isa,) = (line for line in done.stdout.splitlines() if "info,cpu,isa:" in line)
    speed = float(done.stdout.splitlines()[-1].removeprefix("speed "))
    assert (speed > 1) == ("bfloat16" in isa.lower()), isa


def test_bf16_without_its_instructions_is_one_line(tiny, corpus, tmp_path):
    """Training would take a hundred times as long, in silence; `auto` and `bf16-emulated` run."""
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2", "OMP_NUM_THREADS": "1"}
    (tmp_path / "c.yaml").write_text(TINY)

    def start(precision, out, *more):
        more = f"training.precision={precision}", *more
        command = training_command(tmp_path / "c.yaml", corpus, tmp_path / out, *more)
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    refused = start("bf16", "a")
    assert (refused.returncode, len(refused.stderr.splitlines())) == (2, 1)
    assert "this processor has no bf16 arithmetic and takes" in refused.stderr
    assert "start with fp32 or auto; bf16-emulated computes in bf16 all the same" in refused.stderr
    assert not (tmp_path / "a").exists()
    assert start("auto", "b").returncode == 0
    assert load(tmp_path / "b/config.yaml").training.precision == "fp32"
    assert start("bf16-emulated", "c").returncode == 0
    assert load(tmp_path / "c/config.yaml").training.precision == "bf16"
    resumed = start("auto", "c", "training.steps=7", "--resume")
    assert (resumed.returncode, len(resumed.stderr.splitlines())) == (2, 1)
    assert (
        f"{tmp_path}/c was trained in bf16: precision bf16: this processor has no bf16"
        in resumed.stderr
    )
    assert start("bf16-emulated", "c", "training.steps=7", "--resume").returncode == 0


@pytest.mark.parametrize("clip", [None, 0.01])
def test_clipping_is_of_the_gradients(clip):
    """Adam's first moment after a step is a tenth of the gradient that it was given."""
    module = torch.nn.ParameterList([torch.zeros(3), torch.zeros(2, 2)])
    gradients = [torch.tensor([3.0, 0.0, 4.0]), torch.full((2, 2), 6.0)]
    optimizer = AdamW(module, 1e-3)
    for parameter, gradient in zip(module, gradients, strict=True):
        parameter.grad = gradient.clone()
    optimizer.step(clip)
    scale = 1.0 if clip is None else clip / 13  # the norm of all together: 5 and 12
    found = moments({1: optimizer})
    for place, gradient in enumerate(gradients):
        torch.testing.assert_close(
            found[f"0.{place}.exp_avg"], 0.1 * scale * gradient, rtol=1e-4, atol=1e-9
        )


def test_draws_of_ones_own_differ_between_processes(tiny, monkeypatch):
    """Negatives of all processes are drawn alike by each, those of its own are not."""
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 2)
    salts = {}
    for rank in (0, 1):
        monkeypatch.setattr("torch.distributed.get_rank", lambda rank=rank: rank)
        salts[rank] = {negatives: DataParallel(negatives).salt for negatives in ("all", "own")}
    assert salts[0]["all"] == salts[1]["all"]
    assert salts[0]["own"] != salts[1]["own"]
    config = tiny.model_copy(
        update={"model": tiny.model.model_copy(update={"mean": 0.0, "deviation": 1.0})}
    )
    x, gradients = torch.randn(3, 4000, 1), []
    for rank in (0, 1):
        torch.manual_seed(0)
        model, kept = build_model(config.model, config.objective), []
        optimizers = {n: AdamW(module, 0.0) for n, module in enumerate(model.stack, start=1)}
        Step(model, optimizers, seed=2, apply=kept.append, salt=salts[rank]["own"])(x, 0)
        gradients.append([p.grad for optimizer in kept for p in optimizer.parameters])
    assert not any(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


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


def test_devices():
    assert pick_device("cpu").type == "cpu"
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    for wrong in ("gpu9", "cuda:99"):
        with pytest.raises(ConfigError, match="cannot be used here"):
            pick_device(wrong)


def test_a_spectrum_that_does_not_converge_is_not_a_number(monkeypatch):
    """A diagnosis ends no run."""

    def fail(_):
        raise torch.linalg.LinAlgError("the algorithm failed to converge")

    monkeypatch.setattr(torch.linalg, "eigvalsh", fail)
    assert math.isnan(effective_rank(torch.randn(20, 4)))


def test_a_diagnosis_that_is_no_number_is_null(tiny, corpus, tmp_path, monkeypatch):
    """JSON has no NaN, and other readers of metrics.jsonl stop at it."""
    monkeypatch.setattr("gim_audio.training.health.effective_rank", lambda features: math.nan)
    train(change(tiny, steps=3), corpus, tmp_path / "e", say=quiet)

    def refuse(constant):
        raise AssertionError(constant)

    lines = (tmp_path / "e/metrics.jsonl").read_text().splitlines()
    last = json.loads(lines[-1], parse_constant=refuse)
    assert last["effective_rank"] == [None] * 6
    assert None not in last["dead_units"]
