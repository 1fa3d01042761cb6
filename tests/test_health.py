"""The watch over the losses, and diagnoses."""

import json
import math
from pathlib import Path

import pytest
import torch
from test_training import change, quiet

from gim_audio.checkpoints.folders import load_model, resolve
from gim_audio.errors import GimAudioError
from gim_audio.training import train
from gim_audio.training.health import LossWatch, dead_units, effective_rank
from gim_audio.training.step import Step


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

    def spoil(self, x, index, labels):
        found = step(self, x, index, labels)
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
    watch = LossWatch([2.4, 2.4])
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
