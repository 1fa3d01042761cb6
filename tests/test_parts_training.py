"""Runs of `train` with every part, and an objective from outside the package."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT, TINY
from safetensors.torch import load_file
from test_probes import noisy_data

from gim_audio.checkpoints.folders import load_model, resolve
from gim_audio.config import load
from gim_audio.config.objectives import ENTRY_POINTS
from gim_audio.errors import CheckpointError, ConfigError
from gim_audio.featurize import Featurizer
from gim_audio.packed import PackedCorpus, pack
from gim_audio.phones import write_ctm
from gim_audio.training import train

SPANS = "{kind: units, number: 6, spans: {starts: 0.2, length: 3}}"
LOOKING = "model.context={kind: residual, hidden: 6, layers: 2, lookahead: 20}"
SPECTRA = "{kind: spectra, bands: 10, hidden: 8}"

PARTS = {
    "hinge": ["objective={kind: hinge, steps_ahead: 3}"],
    "vicreg": ["objective={kind: vicreg, width: 8}"],
    "spectra": [f"objective={SPECTRA}"],
    "units ahead": ["objective={kind: units, number: 6, ahead: [1, 2]}"],
    "spans": [LOOKING, f"objective=[{', '.join([SPECTRA] * 5 + [SPANS])}]"],
    "temperature": ["objective.temperature=learnt"],
    "horizon": ["objective.horizon=30", "objective.window=8"],
    "mlp": ["objective.predictor=mlp"],
    "recurrent": ["objective.predictor=recurrent"],
    "transformer": ["objective.predictor=transformer"],
    "reach": ["model.reach=2"],
    "channel norm": ["model.norm=channel", "model.activation=gelu"],
    "batch norm": ["model.norm=batch"],
    "log": ["model.activation=log"],
    "bigru": ["model.context={hidden: 6, bidirectional: true, stacked: 2}"],
    "averages": ["training.average=0.9"],
    "warm-up": ["training.warmup=3", "training.decay=cosine"],
}


def quiet(_):
    pass


@pytest.fixture
def spoken(tmp_path):
    """Utterances whose first half is a quiet phone and whose second a loud one."""
    data, alignments = noisy_data(tmp_path / "data", "abc")
    pack(data, tmp_path / "packed")
    write_ctm(tmp_path / "packed/phones.ctm", alignments)
    return PackedCorpus(tmp_path / "packed")


def config(tmp_path, *overrides):
    path = tmp_path / "c.yaml"
    path.write_text(TINY)
    return load(path, overrides)


def weights(experiment, name="model"):
    return load_file(resolve(experiment) / f"{name}.safetensors")


@pytest.mark.parametrize("part", PARTS)
def test_every_part_learns_and_resumes_to_the_bit(spoken, tmp_path, part):
    settings = config(tmp_path, *PARTS[part], "training.learning_rate=3.0e-3")
    train(settings, spoken, tmp_path / "whole", valid=spoken, say=quiet)
    half = config(tmp_path, *PARTS[part], "training.learning_rate=3.0e-3", "training.steps=3")
    if settings.training.decay == "none" and settings.training.average is None:
        train(half, spoken, tmp_path / "parts", valid=spoken, say=quiet)
        train(settings, spoken, tmp_path / "parts", valid=spoken, resume=True, say=quiet)
        for name in ("model", "optimizer"):
            one, two = (weights(tmp_path / e, name) for e in ("whole", "parts"))
            assert all(torch.equal(one[key], two[key]) for key in one)
    short = ["training.precision=bf16-emulated", "training.steps=2"]
    train(config(tmp_path, *PARTS[part], *short), spoken, tmp_path / "bf16", say=quiet)
    before = load_file(tmp_path / "whole/step-000000/model.safetensors")
    after = weights(tmp_path / "whole")
    for number in range(6):
        own = [name for name in before if name.startswith(f"stack.{number}.")]
        assert any(not torch.equal(before[name], after[name]) for name in own)
    lines = [json.loads(line) for line in (tmp_path / "whole/metrics.jsonl").open()]
    assert all(np.isfinite(line["loss"]).all() for line in lines)
    features = Featurizer.load(tmp_path / "whole").encode(np.zeros(8000, dtype=np.float32))
    assert features[-1].shape == (50, 6)


def test_units_are_told_apart(spoken, tmp_path):
    """A loud and a quiet half are two units, and modules learn to name them."""
    settings = config(
        tmp_path, "objective={kind: units, number: 2}", "training.steps=300", "model.mean=auto",
        "model.deviation=auto", "training.learning_rate=0.01", "training.checkpoint_every=300",
    )  # fmt: skip
    train(settings, spoken, tmp_path / "e", say=quiet)
    lines = [json.loads(line) for line in (tmp_path / "e/metrics.jsonl").open()]
    assert np.mean([line["accuracy"][-1] for line in lines[-50:]]) > 0.65


def test_units_of_a_module_below(spoken, tmp_path):
    objectives = [SPECTRA] * 5 + ["{kind: units, number: 5, of: 5}"]
    phases = "[{modules: [1, 2, 3, 4, 5], steps: 3}, {modules: [6], steps: 3}]"
    settings = [f"objective=[{', '.join(objectives)}]", f"training.schedule={phases}"]
    said = []
    train(config(tmp_path, *settings), spoken, tmp_path / "e", valid=spoken, say=said.append)
    assert "clustering the features of module 5 into 5 units for module 6" in said
    found = load_file(tmp_path / "e/units/module-6.safetensors")
    model = load_model(tmp_path / "e")[1]
    samples = torch.from_numpy(spoken.read(0).astype(np.float32) / 32768)
    with torch.no_grad():
        (frames,), _ = model(samples[None], modules=[5])
    # By the definition: the nearest centre.
    scaled = (frames[0] / found["scale"]).double()
    distances = (scaled[:, None] - found["centres"].double()).square().sum(2)
    names = found["names"][: int(found["ends"][0])].long()
    assert (distances.argmin(1) == names).float().mean() > 0.99
    lines = [json.loads(line) for line in (tmp_path / "e/validation.jsonl").open()]
    assert lines[0]["loss"][5] is None
    assert lines[-1]["loss"][5] > 0
    both = "[{modules: all, steps: 3}]"
    with pytest.raises(ConfigError, match="trains module 5 and module 6, which learns its units"):
        train(
            config(tmp_path, settings[0], f"training.schedule={both}"),
            spoken,
            tmp_path / "joint",
            say=quiet,
        )


def test_damaged_units_are_named(spoken, tmp_path):
    settings = ["objective={kind: units, number: 6}", "training.steps=3"]
    train(config(tmp_path, *settings), spoken, tmp_path / "e", say=quiet)
    (tmp_path / "e/units/module-1.safetensors").write_bytes(b"half")
    with pytest.raises(CheckpointError, match="module-1.safetensors: damaged: delete it"):
        train(config(tmp_path, settings[0]), spoken, tmp_path / "e", resume=True, say=quiet)


def test_more_units_than_frames(spoken, tmp_path):
    with pytest.raises(ConfigError, match="9999 units of .* frames, which is all that"):
        train(
            config(tmp_path, "objective={kind: units, number: 9999}"),
            spoken,
            tmp_path / "e",
            say=quiet,
        )


MANUAL = (ROOT / "docs/parts.md").read_text()
OUTSIDE = MANUAL.split("```python\n")[1].split("```")[0]
"""The file that the documentation shows."""


def test_an_objective_of_ones_own(spoken, tmp_path):
    """One file and one entry point, as the documentation has them and pip would install them."""
    site = tmp_path / "site"
    (site / "slowness-1.0.dist-info").mkdir(parents=True)
    (site / "slowness.py").write_text(OUTSIDE)
    (site / "slowness-1.0.dist-info/METADATA").write_text("Name: slowness\nVersion: 1.0\n")
    (site / "slowness-1.0.dist-info/entry_points.txt").write_text(
        f"[{ENTRY_POINTS}]\nslowness = slowness\n"
    )
    (tmp_path / "c.yaml").write_text(TINY)
    command = [
        sys.executable, "-m", "gim_audio", "train", str(tmp_path / "c.yaml"),
        "objective={kind: slowness, spread: 0.5}", "training.learning_rate=0.01",
        "training.steps=60", "--data", str(spoken.path), "--out", str(tmp_path / "e"),
    ]  # fmt: skip
    without = subprocess.run(command, capture_output=True, text=True, check=False)
    assert without.returncode == 2
    assert "there is no objective 'slowness'" in without.stderr
    environment = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (tmp_path / "e/metrics.jsonl").open()]
    assert sum(lines[-1]["loss"]) < 0.7 * sum(lines[0]["loss"])


def test_averages_end_a_phase(spoken, tmp_path):
    """The weights are the mean with weights d_n, by its definition, of those after each step."""
    plain = ["training.steps=6", "training.checkpoint_every=1", "training.clip=1.0"]
    train(config(tmp_path, *plain), spoken, tmp_path / "plain", say=quiet)
    averaged = config(tmp_path, *plain, "training.average=0.4")
    train(averaged, spoken, tmp_path / "averaged", say=quiet)
    steps = [load_file(tmp_path / f"plain/step-{step:06d}/model.safetensors") for step in range(7)]
    found = weights(tmp_path / "averaged")
    for name in found:
        mean = steps[0][name]
        for number, step in enumerate(steps[1:], start=1):
            decay = min(0.4, (1 + number) / (10 + number))
            mean = decay * mean + (1 - decay) * step[name]
        torch.testing.assert_close(found[name], mean, rtol=1e-5, atol=1e-7)
    longer = config(tmp_path, *plain[1:], "training.average=0.4", "training.steps=9")
    with pytest.raises(CheckpointError, match="phase 1 has ended, and its weights are averages"):
        train(longer, spoken, tmp_path / "averaged", resume=True, say=quiet)

    # Stopped in between, it goes on to the same averages.
    def stop(done, total, metrics):
        if done == 3:
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        train(averaged, spoken, tmp_path / "parts", say=quiet, progress=stop)
    train(averaged, spoken, tmp_path / "parts", resume=True, say=quiet)
    again = weights(tmp_path / "parts")
    assert all(torch.equal(found[name], again[name]) for name in found)
