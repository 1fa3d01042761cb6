"""Tests for an NVIDIA GPU: `pytest -m gpu tests/test_gpu.py`. Elsewhere they are skipped."""

import gc
import json

import numpy as np
import pytest
import torch
from conftest import OBJECTIVES, TINY, targets_for_all

from gim_audio.checkpoints.folders import load_model
from gim_audio.config import load
from gim_audio.devices import arithmetic
from gim_audio.featurize import load_encoder
from gim_audio.gradients import Compare, Gather
from gim_audio.model.build import build_model
from gim_audio.model.sampling import RandomNumbers
from gim_audio.training import train
from gim_audio.training.cuda_graph import GraphedStep
from gim_audio.training.memory import peaks
from gim_audio.training.step import Step

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no NVIDIA GPU"),
]


@pytest.fixture
def gpu():
    """The GPU, with arithmetic as in training."""
    with arithmetic(tf32=False):
        yield torch.device("cuda")


def start(device, *settings, batch=4):
    config = load(None, ["model.channels=64", "model.context.hidden=32", *settings])
    torch.manual_seed(0)
    model = build_model(config.model, config.objectives).to(device)
    torch.manual_seed(1)
    x = model.standardise(0.06 * torch.randn(batch, 20480).to(device))
    return Step.joint(model, config), x


def weights(step):
    return torch.cat([p.detach().cpu().flatten() for p in step.model.parameters()])


def test_both_devices_draw_the_same(gpu):
    drawn = [RandomNumbers(3, 5).of(range(1, 7), 999, torch.device(d)) for d in ("cpu", "cuda")]
    assert torch.equal(drawn[0], drawn[1].cpu())


@pytest.mark.parametrize("kind", ["batch", "exact", "utterance", "pool"])
@pytest.mark.parametrize("context", ["gru", "conv"])
def test_a_step_is_the_same_on_both(gpu, kind, context):
    settings = f"objective.negatives.kind={kind}", f"model.context.kind={context}"
    (on_cpu, x), (on_gpu, y) = start("cpu", *settings), start(gpu, *settings)
    for index in range(3):
        here, there = on_cpu(x, index), on_gpu(y, torch.tensor(index, device=gpu))
        torch.testing.assert_close(there.losses.cpu(), here.losses, rtol=1e-4, atol=0)
        torch.testing.assert_close(there.accuracies.cpu(), here.accuracies, rtol=0, atol=2e-3)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_graph_of_streams_takes_the_same_steps(gpu, precision):
    """Bit for bit, though modules run beside each other; and the learning rate may change."""
    found = []
    for graphed in (True, True, False):
        step, x = start(gpu, f"training.precision={precision}")
        take = GraphedStep(step, print) if graphed else step
        for index in range(12):
            for optimizer in step.optimizers.values():
                optimizer.learning_rate = 1e-3 / (1 + index)
            take(x + index, index if graphed else torch.tensor(index, device=gpu))
        assert not graphed or take._graph is not None
        found.append(weights(step))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("kind", [kind for kind in OBJECTIVES if kind != "infonce"])
def test_other_objectives_are_the_same_on_both(gpu, kind):
    (on_cpu, x), (on_gpu, y) = (start(d, f"objective={OBJECTIVES[kind]}") for d in ("cpu", gpu))
    targets = targets_for_all(on_cpu.model, x)
    there = {number: target.to(gpu) for number, target in targets.items()}
    graphed = GraphedStep(on_gpu, print)
    for index in range(8):
        here, far = on_cpu(x, index, targets), graphed(y, index, there)
        torch.testing.assert_close(far.losses.cpu(), here.losses, rtol=1e-3, atol=1e-4)
    assert graphed._graph is not None


def test_a_step_waits_for_nothing(gpu):
    """Torch raises where the host waits for the device."""
    step, x = start(gpu, "training.precision=bf16")
    index = torch.tensor(0, device=gpu)
    step(x, index)
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(x, index)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_scores_in_bfloat16(gpu):
    """The kernel agrees with products in float64."""
    torch.manual_seed(0)
    p, z, g = (torch.randn(50, *shape, device=gpu) for shape in ((12, 96), (11, 96), (12, 11)))
    p, z = (t.bfloat16().requires_grad_() for t in (p, z))
    scores = Compare.apply(p, z)
    scores.backward(g)
    p64, z64 = (t.detach().double().requires_grad_() for t in (p, z))
    wanted = p64 @ z64.transpose(1, 2)
    wanted.backward(g.double())
    assert (scores - wanted).norm() < 1e-5 * wanted.norm()
    assert (p.grad - p64.grad).norm() < 1e-2 * p64.grad.norm()
    assert (z.grad - z64.grad).norm() < 1e-2 * z64.grad.norm()


def test_the_gradient_of_gathered_frames(gpu):
    torch.manual_seed(0)
    z = torch.randn(3, 40, 8, device=gpu, dtype=torch.float64, requires_grad=True)
    rows = torch.randint(120, (500,), device=gpu), torch.randint(120, (7, 2), device=gpu)
    assert torch.autograd.gradcheck(lambda frames: Gather.apply(frames, *rows), z)


def test_training_resumes_to_the_same_bits(corpus, tmp_path, gpu):
    conf = tmp_path / "conf.yaml"
    conf.write_text(TINY.replace("steps: 6", "steps: 20"))
    settings = ["training.device=cuda", "training.precision=bf16"]
    config = load(conf, settings)
    train(config, corpus, tmp_path / "whole", say=print)
    train(load(conf, [*settings, "training.steps=11"]), corpus, tmp_path / "parts", say=print)
    train(config, corpus, tmp_path / "parts", resume=True, say=print)
    whole, parts = (load_model(tmp_path / name)[1].state_dict() for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    lines = [
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("whole", "parts")
    ]
    assert [line["step"] for line in lines[1]] == list(range(1, 21))
    assert [line["loss"] for line in lines[0]] == [line["loss"] for line in lines[1]]


def test_it_learns_as_on_a_cpu(corpus, tmp_path):
    losses = []
    for device, graph in (("cpu", "auto"), ("cuda", "auto"), ("cuda", "never")):
        conf = tmp_path / "conf.yaml"
        conf.write_text(TINY.replace("steps: 6", "steps: 30"))
        config = load(conf, [f"training.device={device}", f"training.cuda_graph={graph}"])
        experiment = tmp_path / f"{device}-{graph}"
        train(config, corpus, experiment, say=print)
        lines = (experiment / "metrics.jsonl").read_text().splitlines()
        losses.append([json.loads(line)["loss"] for line in lines])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-3)
    assert losses[1] == losses[2]


def test_features_are_the_same():
    samples = 0.06 * np.random.default_rng(0).standard_normal(48000).astype(np.float32)
    here, there = (load_encoder("gim-small", device).encode(samples) for device in ("cpu", "cuda"))
    for one, other in zip(here, there, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-3, atol=1e-3)


def test_memory_is_what_arithmetic_says(gpu):
    gc.collect()
    before = torch.cuda.memory_allocated()
    step, x = start(gpu, "model.channels=256", batch=8)
    torch.cuda.reset_peak_memory_stats()
    step(x, torch.tensor(0, device=gpu))
    config = load(None, ["model.channels=256", "model.context.hidden=32"])
    predicted = peaks(step.model, config)["joint"]
    assert predicted * 0.7 < torch.cuda.max_memory_allocated() - before < predicted * 1.6
