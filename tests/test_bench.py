import importlib.util
import json
import math
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, random_numbers

from gim_audio.config import Config, load
from gim_audio.model.build import build_model
from gim_audio.model.objectives import InfoNCE
from gim_audio.model.sampling import Sampler


@pytest.fixture(scope="module")
def bench_step():
    """The benchmark as a module."""
    sys.path.insert(0, str(ROOT / "tools"))
    spec = importlib.util.spec_from_file_location("bench_step", ROOT / "tools/bench_step.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(ROOT / "tools"))


def test_what_is_measured_against_is_the_published_objective(bench_step):
    """The published loss has as many weights, ln 11 with zeroed heads, and our losses on average."""
    published = bench_step.Published(Config())
    assert sum(p.numel() for p in published.parameters()) == 23_143_424
    torch.manual_seed(0)
    z = torch.randn(3, 60, 6)
    theirs = bench_step.PublishedLoss(6, 6, steps=4, window=20)
    ours = InfoNCE(6, 6, Sampler("batch", 10, 20, 4))
    ours.heads.data = torch.stack([head.weight.data for head in theirs.heads])
    with torch.no_grad():
        losses = torch.tensor(
            [[theirs(z, z), ours.score(z, z, random_numbers(seed)).loss] for seed in range(300)]
        )
        difference = losses[:, 0] - losses[:, 1]
        assert abs(float(difference.mean())) < 4 * float(difference.std()) / math.sqrt(300)
        for head in theirs.heads:
            head.weight.zero_()
        assert float(theirs(z, z)) == pytest.approx(math.log(11), abs=1e-6)


def test_every_step_that_is_measured_runs(bench_step):
    config = load(None, ["model.channels=8", "model.context.hidden=8", "training.batch=2"])
    waveform = 0.06 * torch.randn(2, 20480)
    for make in (bench_step.published_step, bench_step.our_step, bench_step.objectives):
        make(config, waveform)()


def test_a_measurement_is_a_line_of_numbers():
    script = ROOT / "tools/bench_growth.py"
    shape = {"kind": "gim", "batch": 1, "crop": 10240, "channels": 8, "convolutions": 6}
    done = subprocess.run(
        [sys.executable, script, "--steps", "1", "--measure", json.dumps(shape)],
        capture_output=True, text=True, check=True, cwd=ROOT,
    )  # fmt: skip
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["seconds"] > 0
    assert 0 < found["working"] < found["gigabytes"] < 1
    assert found["parameters"] > 0


@pytest.mark.parametrize("cuts", ["[]", "[1, 2, 3, 4]"])
def test_the_arithmetic_of_a_step(bench_step, cuts):
    """Compare with what torch counts, but for the scores.

    It counts predictions beyond the window too, which nothing uses.
    """
    from bench_throughput import step_flops
    from torch.utils.flop_counter import FlopCounterMode

    small = ["training.batch=2", "data.crop=6000", "model.channels=64", "model.context.kind=none"]
    config = load(None, [*small, f"model.isolate_after={cuts}"])
    step = bench_step.our_step(config, 0.06 * torch.randn(2, 6000))
    with FlopCounterMode(display=False) as counter:
        step()
    aten = torch.ops.aten
    counts = counter.get_flop_counts()["Global"]
    frames = [min(n, 128) for n in build_model(config.model, config.objective).frames(6000)]
    if cuts == "[]":
        frames = frames[-1:]
    beyond = sum(range(1, 13))
    used = sum(12 * n - beyond for n in frames) / sum(12 * n for n in frames)
    heads = used * counts[aten.mm]
    products = counts[aten.convolution] + counts[aten.convolution_backward] + heads
    assert step_flops(config) == pytest.approx(products, rel=1e-9)
