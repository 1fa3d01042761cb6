import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import TINY, info_nce, random_numbers
from reference import PlainTraining
from safetensors.torch import load_file

from gim_audio.checkpoints.folders import load_model, resolve
from gim_audio.config import load
from gim_audio.errors import DataError
from gim_audio.kaldi import DataDir
from gim_audio.model.build import build_model
from gim_audio.model.sampling import RandomNumbers, Sampler
from gim_audio.packed import Crops, PackedCorpus, pack
from gim_audio.training import train
from gim_audio.training.data_parallel import DataParallel
from gim_audio.training.optimizers import AdamW, moments
from gim_audio.training.step import Step
from gim_audio.training.trainer import Trainer


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
    model = load_model(tmp_path / "e/step-000000")[1]
    plain, cpu = PlainTraining(model, config), torch.device("cpu")
    crops = Crops(corpus, crop=config.data.crop, hop=160, batch=3, seed=config.training.seed)
    slow = [
        plain.step(
            torch.from_numpy(crops(step)) / 32768,
            [
                Sampler("batch", 4, 16, 3).draw(
                    frames,
                    3,
                    RandomNumbers(config.training.seed, step).of(
                        range(module, module + 1), 3000, cpu
                    )[0],
                )
                for module, frames in enumerate(model.frames(4000), start=1)
            ],
        )
        for step in range(200)
    ]
    np.testing.assert_allclose(fast[:20], slow[:20], rtol=1e-4)
    np.testing.assert_allclose(fast, slow, rtol=1e-2)
    assert np.mean(slow[-20:]) < 0.95 * np.mean(slow[:20])


@pytest.mark.parametrize("kind", ["batch", "exact", "utterance", "pool"])
def test_two_threads_repeat_each_other(kind):
    """Gradients of frames that serve for many targets are summed in one order.

    It does not matter which thread comes first.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        torch.manual_seed(0)
        objective = info_nce(256, 512, kind, 10, 128, 3)
        z, c = torch.randn(8, 128, 512), torch.randn(8, 128, 256)
        gradients = []
        for _ in range(4):
            frames = z.clone().requires_grad_()
            objective.score(frames, c, random_numbers()).loss.backward()
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


def test_training_does_not_load_the_compiler():
    """The optimizers of torch.optim would: see `AdamW`."""
    script = """
import sys, torch
from gim_audio.config import load
from gim_audio.model.build import build_model
import gim_audio.training
from gim_audio.training.step import Step
from gim_audio.training.trainer import Trainer
config = load(None, ["model.channels=16", "model.context.hidden=4"])
torch.manual_seed(0)  # of a few channels all may be dead at some initialisations
model = build_model(config.model, config.objectives)
before = [p.clone() for p in model.parameters()]
Step.joint(model, config)(torch.randn(2, 20480, 1), 0)
assert all(not torch.equal(a, b) for a, b in zip(before, model.parameters()))
assert "torch._dynamo" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True)


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
        model, kept = build_model(config.model, config.objectives), []
        optimizers = {n: AdamW(module, 0.0) for n, module in enumerate(model.stack, start=1)}
        Step(model, optimizers, seed=2, apply=kept.append, salt=salts[rank]["own"])(x, 0)
        gradients.append([p.grad for optimizer in kept for p in optimizer.parameters])
    assert not any(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_metrics_that_are_read_late_are_the_same(tiny, corpus, tmp_path, monkeypatch):
    """As on a GPU; checkpoints, and what is asked for in between, have all of them."""
    train(tiny, corpus, tmp_path / "at once", say=quiet)
    launch, seen = Trainer._launch, []

    def asking(self, *arguments):
        if self.position.step == 4:
            self.interrupts.save = True
        launched = launch(self, *arguments)
        lines = (self.experiment / "metrics.jsonl").read_text().splitlines()
        seen.append(launched.number - len(lines))
        return launched

    monkeypatch.setattr(Trainer, "_behind", lambda self, phase: 1)
    monkeypatch.setattr(Trainer, "_launch", asking)
    train(tiny, corpus, tmp_path / "late", say=quiet)
    metrics = [
        [
            {key: line[key] for key in line if key not in {"seconds", "peak_bytes"}}
            for line in map(json.loads, (tmp_path / name / "metrics.jsonl").open())
        ]
        for name in ("at once", "late")
    ]
    assert metrics[0] == metrics[1]
    assert (tmp_path / "late/step-000005").exists()
    assert set(seen) == {1, 2}
