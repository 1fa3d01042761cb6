import importlib.util
import json
import math
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, info_nce, random_numbers

from gim_audio.config import Config, load
from gim_audio.gradients import Predict
from gim_audio.kaldi import DataDir
from gim_audio.packed import pack


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
    ours = info_nce(6, 6, "batch", 10, 20, 4)
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

    A third of the heads' products is done in place, which it misses.
    """
    from bench_gpu import step_flops
    from torch.utils.flop_counter import FlopCounterMode

    small = ["training.batch=2", "data.crop=6000", "model.channels=64", "model.context.kind=none"]
    config = load(None, [*small, f"model.isolate_after={cuts}"])
    step = bench_step.our_step(config, 0.06 * torch.randn(2, 6000))
    with FlopCounterMode(display=False) as counter:
        step()
    aten = torch.ops.aten
    counts = counter.get_flop_counts()["Global"]
    products = counts[aten.convolution] + counts[aten.convolution_backward] + 1.5 * counts[aten.mm]
    assert step_flops(config) == pytest.approx(products, rel=1e-9)


def test_the_command_for_a_gpu_runs_on_a_cpu(spoken, tmp_path):
    """Each part leaves its rows, and a model comes out."""
    pack(DataDir.read(spoken), tmp_path / "packed")
    out = tmp_path / "out"
    command = [ROOT / "tools/bench_gpu.sh", tmp_path / "packed", "--device", "cpu", "--out", out]
    done = subprocess.run(
        [*command, "--minutes", "10"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    said = (out / "bench_gpu.md").read_text()
    assert "This part" not in said
    assert "not run on a GPU" in said
    rows = [json.loads(line) for path in out.glob("*.jsonl") for line in path.open()]
    kinds = [row for row in rows if row.get("step") == "published"]
    assert kinds
    assert kinds[0]["ms"] > 0
    assert [row["training"] for row in rows if "training" in row][-1] == "end to end (CPC)"
    tasks = {row["task"] for row in rows if row.get("features") == "exp" and "task" in row}
    assert tasks == {"phones-strict", "speakers-strict"}
    assert [row["status"] for row in rows if "tests" in row] == [0]
    assert (out / "exp/latest").exists()


def test_a_part_that_is_stopped_loses_no_row(corpus, tmp_path):
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        import bench_gpu
    finally:
        sys.path.remove(str(ROOT / "tools"))
    end = bench_gpu.run_part("steps", 0.01, [str(corpus.path), "--device", "cpu"], tmp_path)
    assert end == "stopped after 0 s"
    (tmp_path / "steps.jsonl").write_text('{"batch": 2, "ms": 3.0}\n{"batch": 4')
    setting = bench_gpu.Setting(torch.device("cpu"), corpus.path, tmp_path)
    bench_gpu.page(setting, {"steps": end})
    said = (tmp_path / "bench_gpu.md").read_text()
    assert "| 2 | 3 |" in said
    assert "This part stopped after 0 s." in said


def test_plain_predictions_are_the_same(bench_step):
    contexts, weights = torch.randn(40, 6), torch.randn(3, 5, 6)
    torch.testing.assert_close(
        bench_step.PlainPredict.apply(contexts, weights, 4), Predict.apply(contexts, weights, 4)
    )
