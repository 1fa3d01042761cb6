"""The ladder: every rung is a model, and a rung learns for about its minutes."""

import importlib
import json
import sys

import numpy as np
import pytest
from conftest import ROOT
from safetensors.torch import load_file
from test_probes import noisy_data

from gim_audio.config import Config, load
from gim_audio.model.build import build_model
from gim_audio.packed import pack
from gim_audio.phones import Alignment, write_ctm

TESTED = ("probes_train", "probes_test", "same_train", "same_test")


@pytest.fixture
def ladder(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "recipes/ladder"))
    yield importlib.import_module("ladder")
    for name in ("ladder", "page"):
        sys.modules.pop(name, None)


def test_every_rung_is_one_change_of_a_model_that_can_be_built(ladder):
    for name, rung in ladder.RUNGS.items():
        settings, shares, below = ladder.settings_of(name)
        known = {"model": {"mean": 0.0, "deviation": 0.06}}
        config = Config.model_validate(ladder.merged(settings, known))
        assert len(build_model(config.model, config.objectives).stack) == config.model.num_modules
        assert rung["change"]
        if "from" in rung:
            assert (settings, shares, below) != ladder.settings_of(rung["from"])
        if below:
            grown = ladder.settings_of(below)[0]["model"]
            assert {**settings["model"], "added": []} == {**grown, "added": []}
            assert ladder.RUNGS[below]["minutes"] < 6
        assert {module for _, modules in shares for module in modules} <= set(
            range(1, config.model.num_modules + 1)
        )
        assert not shares or sum(share for share, _ in shares) == pytest.approx(1)


def test_rungs_that_grow_are_above_the_front_that_is_learnt_once(ladder):
    assert ladder.settings_of("short-crops")[2] is None
    assert ladder.settings_of("grown")[2] == ladder.settings_of("again")[2] == "short-crops"


def test_another_kind_begins_with_its_own_defaults(ladder):
    old = {"context": {"kind": "gru", "stacked": 2}, "channels": [1, 2]}
    new = ladder.merged(old, {"context": {"kind": "residual", "layers": 3}, "channels": [3]})
    assert new == {"context": {"kind": "residual", "layers": 3}, "channels": [3]}
    assert ladder.merged(old, {"context": {"hidden": 5}})["context"] == {
        "kind": "gru", "stacked": 2, "hidden": 5,
    }  # fmt: skip


def test_rungs_learn_and_are_compared(ladder, tmp_path, monkeypatch):
    data, _ = noisy_data(tmp_path / "data", "abc")
    # ABX compares phones between the same neighbours: 5 in half of the utterances, 9 in the others.
    edges, middle = np.linspace(0, 0.5, 6), {"0": 5, "1": 9, "2": 5, "3": 9}
    alignments = {
        name: Alignment(edges[:-1], edges[1:], np.array([2, middle[name[-1]]] * 2 + [2]))
        for name in data.recordings
    }
    for name in ("train", "fit", "valid", *TESTED):
        pack(data, tmp_path / "packed" / name)
        write_ctm(tmp_path / "packed" / name / "phones.ctm", alignments)
    monkeypatch.setattr(ladder, "TRIAL", 8)
    small = {
        "model": {"channels": 8, "context": {"hidden": 6}},
        "objective": [*[{"kind": "spectra"}] * 5, {"kind": "units", "number": 4}],
        "data": {"crop": 4000},
        "training": {"batch": 3},
    }
    rungs = {
        "base": {"change": "a small model", "set": small},
        "phases": {"from": "base", "change": "two phases", "shares": [[0.5, [1, 2, 3, 4, 5]], [0.5, [6]]]},
        "grown": {
            "from": "below", "above": "below", "change": "another module on it",
            "set": {
                "model": {"added": [{"kind": "gru", "hidden": 4}]},
                "objective": [*[{"kind": "spectra"}] * 6, {"kind": "units", "number": 4}],
            },
        },
        "below": {
            "from": "base", "change": "half the time", "minutes": 0.025,
            "set": {"objective": {"kind": "spectra"}},
        },
        "later": {"from": "base", "change": "not run yet", "set": {"training": {"batch": 4}}},
    }  # fmt: skip
    monkeypatch.setattr(ladder, "RUNGS", rungs)
    exp = tmp_path / "exp"
    for name in ("base", "phases", "grown"):
        ladder.learn(name, 1, tmp_path / "packed", exp, 0.05)
        minutes = json.loads((exp / f"{name}-1/minutes.json").read_text())["minutes"]
        assert 0.01 < minutes < 0.2
    own, below = (
        load_file(exp / f"{name}-1/latest/model.safetensors") for name in ("grown", "below")
    )
    assert own.keys() > below.keys()
    assert all(own[name].equal(below[name]) for name in below if ".objective." not in name)
    phases = load(exp / "phases-1.yaml").training.schedule
    assert [phase.modules for phase in phases] == [(1, 2, 3, 4, 5), (6,)]
    assert min(phase.steps for phase in phases) > 8
    ladder.test(exp / "base-1", exp / "base-1", tmp_path / "packed")
    ladder.write_page(exp, rungs, 0.05, tmp_path / "LADDER.md")
    lines = (tmp_path / "LADDER.md").read_text().splitlines()
    row = next(line for line in lines if line.startswith("| phases | base | two phases |"))
    below = next(float(line.split("|")[5]) for line in lines if line.startswith("| base |"))
    figure, change = row.split("|")[5:7]
    assert 0 < float(figure) <= 100
    assert float(change.split("±")[0]) == pytest.approx(
        float(figure) - below, abs=0.11
    )  # both are rounded
    assert any(line.startswith("| base |") and "| yes |" in line for line in lines)
    row = next(line for line in lines if line.startswith("| base-1 |"))
    assert all(0 <= float(cell.split("(")[0]) <= 100 for cell in row.split("|")[2:7])
    assert any(line.startswith("| later |") and "| not run |" in line for line in lines)
