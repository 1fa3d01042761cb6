import json

import numpy as np
import pytest
import torch
from conftest import TINY
from safetensors.torch import load_file

from gim_audio.checkpoints.folders import resolve
from gim_audio.config import load
from gim_audio.errors import CheckpointError, ConfigError
from gim_audio.training import train
from gim_audio.training.run import _without_caches
from gim_audio.training.schedule import phases


def quiet(_):
    pass


def conf(tmp_path, *overrides):
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return load(path, overrides)


def weights(experiment):
    return load_file(resolve(experiment) / "model.safetensors")


def metrics(experiment):
    return [json.loads(line) for line in (experiment / "metrics.jsonl").read_text().splitlines()]


def differ(first, second):
    """Numbers, from 1, of the modules whose weights differ."""
    return {
        int(name.split(".")[1]) + 1 for name in first if not torch.equal(first[name], second[name])
    }


def test_the_first_module_learns_the_same_alone(corpus, tmp_path):
    """Crops and draws are the same, and what is above never mattered."""
    train(conf(tmp_path), corpus, tmp_path / "joint", say=quiet)
    train(
        conf(tmp_path, "training.schedule=sequential"), corpus, tmp_path / "sequential", say=quiet
    )
    joint, sequential = weights(tmp_path / "joint"), weights(tmp_path / "sequential")
    assert differ(joint, sequential) == {2, 3, 4, 5, 6}
    rows = metrics(tmp_path / "sequential")
    assert [row["step"] for row in rows] == list(range(1, 37))
    assert [
        [n for n, loss in enumerate(row["loss"], start=1) if loss is not None] for row in rows
    ] == [[m] for m in range(1, 7) for _ in range(6)]


def test_a_phase_moves_its_modules_alone(corpus, tmp_path):
    schedule = (
        "training.schedule=[{modules: [2, 4], steps: 3}, {steps: 2, learning_rate: 1.0e-4},"
        " {modules: [6]}]"
    )
    train(
        conf(tmp_path, schedule, "training.checkpoint_every=100"), corpus, tmp_path / "e", say=quiet
    )
    at = {
        step: load_file(tmp_path / f"e/step-{step:06d}/model.safetensors") for step in (0, 3, 5, 11)
    }
    assert differ(at[0], at[3]) == {2, 4}
    assert differ(at[3], at[5]) == {1, 2, 3, 4, 5, 6}
    assert differ(at[5], at[11]) == {6}
    moments = load_file(tmp_path / "e/step-000003/optimizer.safetensors")
    assert {name.split(".")[0] for name in moments} == {"1", "3"}


def test_a_phase_goes_on_where_its_modules_are(corpus, tmp_path):
    """Six steps at once, or three and three, see the same batches.

    With fresh moments, only those differ.
    """
    train(conf(tmp_path), corpus, tmp_path / "whole", say=quiet)
    train(
        conf(tmp_path, "training.schedule=[{steps: 3}, {steps: 3}]"),
        corpus,
        tmp_path / "parts",
        say=quiet,
    )
    whole, parts = metrics(tmp_path / "whole"), metrics(tmp_path / "parts")
    assert [row["loss"] for row in whole[:4]] == [row["loss"] for row in parts[:4]]
    assert whole[5]["loss"] != parts[5]["loss"]
    np.testing.assert_allclose(whole[5]["loss"], parts[5]["loss"], rtol=0.01)


@pytest.mark.parametrize("stop_at", [2, 6, 7, 20, 31])
@pytest.mark.parametrize("cached", ["true", "false"])
def test_a_sequence_resumes_to_the_same_bits(corpus, tmp_path, stop_at, cached):
    config = conf(
        tmp_path,
        "training.schedule=sequential",
        f"training.cache={cached}",
        "training.checkpoint_every=1",
    )

    def interrupt(done, total, metrics):
        assert total == 36
        if done == stop_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, corpus, tmp_path / "e", say=quiet, progress=interrupt)
    train(config, corpus, tmp_path / "e", resume=True, say=quiet)
    train(config, corpus, tmp_path / "whole", say=quiet)
    assert not differ(weights(tmp_path / "e"), weights(tmp_path / "whole"))
    assert [r["loss"] for r in metrics(tmp_path / "e")] == [
        r["loss"] for r in metrics(tmp_path / "whole")
    ]
    assert not (tmp_path / "e/cache").exists()


def test_a_phase_that_is_not_over_may_get_another_length(corpus, tmp_path):
    long, short = (
        f"training.schedule=[{{steps: {n}}}, {{steps: 3, decay: linear}}]" for n in (9, 4)
    )

    def interrupt(done, total, metrics):
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(conf(tmp_path, long), corpus, tmp_path / "e", say=quiet, progress=interrupt)
    train(conf(tmp_path, short), corpus, tmp_path / "e", resume=True, say=quiet)
    train(conf(tmp_path, short), corpus, tmp_path / "whole", say=quiet)
    assert not differ(weights(tmp_path / "e"), weights(tmp_path / "whole"))
    assert (tmp_path / "e/config.yaml").read_text() == (tmp_path / "whole/config.yaml").read_text()
    with pytest.raises(CheckpointError, match="was trained with training.schedule"):
        other = short.replace("linear", "cosine")
        train(conf(tmp_path, other), corpus, tmp_path / "e", resume=True, say=quiet)


def test_a_phase_that_stands_still_ends(corpus, tmp_path):
    rule = "stop: {change: 0.9, over: 4}"
    schedule = (
        f"training.schedule=[{{modules: [1], steps: 50, {rule}}}, {{modules: [2], steps: 2}}]"
    )
    config = conf(tmp_path, schedule)
    train(config, corpus, tmp_path / "e", say=quiet)
    rows = metrics(tmp_path / "e")
    assert [row["phase"] for row in rows] == [1] * 8 + [2] * 2
    with pytest.raises(KeyboardInterrupt):
        train(config, corpus, tmp_path / "parts", say=quiet, progress=interrupt_at(7))
    train(config, corpus, tmp_path / "parts", resume=True, say=quiet)
    assert [row["loss"] for row in metrics(tmp_path / "parts")] == [row["loss"] for row in rows]
    phase, _ = phases(config, 3)
    rising = [[0.1 * step] for step in range(20)]
    assert not any(
        phase.stands_still(rising[:n])
        for n in range(20)
        if n < 8 or np.mean(rising[n - 4 : n]) - np.mean(rising[n - 8 : n - 4]) > 0.9
    )


def interrupt_at(step):
    def progress(done, total, metrics):
        if done == step:
            raise KeyboardInterrupt

    return progress


def test_rates_by_module_decay_and_warm_start(tmp_path):
    rates = "training.learning_rate=[1.0e-3, 2.0e-3, 3.0e-3, 4.0e-3, 5.0e-3, 6.0e-3]"
    config = conf(
        tmp_path,
        rates,
        "training.schedule=sequential",
        "training.decay=cosine",
        "training.steps=10",
    )
    assert [phase.learning_rates for phase in phases(config, 8)] == [
        (n * 1e-3,) for n in range(1, 7)
    ]
    first = phases(config, 8)[0]
    assert [round(first.factor(step), 3) for step in (0, 5)] == [1, 0.5]
    assert first.factor(9) < 0.03
    two = conf(tmp_path, "training.schedule=[{steps: 10}, {steps: 4, decay: linear}]")
    assert [[phase.factor(step) for step in (0, 2)] for phase in phases(two, 8)] == [
        [1, 1],
        [1, 0.5],
    ]
    assert phases(conf(tmp_path, "training.learning_rate=auto"), 32)[
        0
    ].learning_rates == pytest.approx([4e-4] * 6)


def test_decay_and_clipping_stay_within_a_module(corpus, tmp_path):
    """Other settings for one module leave the others as they are."""
    train(conf(tmp_path, "training.clip=0.01"), corpus, tmp_path / "a", say=quiet)
    decays = "training.weight_decay=[0.0, 0.0, 50.0, 0.0, 0.0, 0.0]"
    train(conf(tmp_path, "training.clip=0.01", decays), corpus, tmp_path / "b", say=quiet)
    assert {1, 2} & differ(weights(tmp_path / "a"), weights(tmp_path / "b")) == set()
    assert 3 in differ(weights(tmp_path / "a"), weights(tmp_path / "b"))
    before, after = (load_file(tmp_path / f"b/step-00000{n}/model.safetensors") for n in (0, 3))
    name = "stack.2.objective.heads"
    assert after[name].norm() < 0.95 * before[name].norm()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.schedule=[{modules: [7]}]", "phase 1 trains module 7 of 6"),
        ("training.schedule=[{modules: [2, 1]}]", "modules must rise"),
        ("training.schedule=[{modules: [1], cache: true}]", "nothing below module 1"),
        ("model.added=[{kind: gru}, {kernel: 3}]", "cannot follow a context on a context"),
        ("training.learning_rate=[0.1]", "1 values for 6 modules"),
        ("training.learning_rate=automatic", "learning_rate"),
        ("training.cache=true", "training.cache is for the sequential schedule"),
    ],
)
def test_impossible_schedules(tmp_path, override, message):
    with pytest.raises(ConfigError, match=message):
        phases(conf(tmp_path, override), 8)


def test_a_gpu_does_without_caches():
    given = load(None, ["training.schedule=[{modules: [3], cache: true}, {modules: [4]}]"])
    found = _without_caches(given.training)
    assert [phase.cache for phase in found.schedule] == [False, False]
    assert [phase.modules for phase in found.schedule] == [(3,), (4,)]
    sequential = load(None, ["training.schedule=sequential", "training.cache=true"]).training
    assert not _without_caches(sequential).cache
