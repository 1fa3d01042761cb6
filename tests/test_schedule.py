import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY
from safetensors.torch import load_file

from gim_audio.checkpoints.folders import load_for_features, load_model, resolve
from gim_audio.config import load
from gim_audio.errors import CheckpointError, ConfigError, DataError, GimAudioError
from gim_audio.model.build import build_model
from gim_audio.packed import Crops, PackedCorpus, pack
from gim_audio.training import cache as cache_module
from gim_audio.training import train
from gim_audio.training.cache import Cache, CachedFeed
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


@pytest.mark.parametrize("piece", [1000, 7])
def test_a_cache_holds_what_the_module_takes(corpus, tmp_path, monkeypatch, piece):
    monkeypatch.setattr(cache_module, "PIECE", piece)
    torch.manual_seed(0)
    config = conf(tmp_path)
    model = build_model(config.model, config.objective)
    crops = Crops(corpus, crop=4500, hop=160, batch=5, seed=3)
    said = []

    @torch.no_grad()
    def taken(x, module):
        for below in model.stack[: module - 1]:
            x = below(x).output
        return x

    for module in (2, 4, 6):
        cache = Cache(tmp_path / f"c{module}", module, model, crops, torch.float16)

        def source(number, start=0, stop=None):
            return model.standardise(
                torch.from_numpy(corpus.read(number)[start:stop])[None].float() / 32768
            )

        cache.build(source, 1, said.append, lambda: None)
        assert cache.complete
        assert (tmp_path / f"c{module}/frames").stat().st_size == cache.bytes
        # Frames at the ends of a crop see what surrounds it.
        hop, inner = (
            model.geometries[module - 2].hop,
            3,
        )
        x = CachedFeed(cache, torch.device("cpu"))(2)
        waveform = torch.from_numpy(crops(2)).float() / 32768
        alone = taken(model.standardise(waveform), module)
        assert x.shape == alone.shape
        assert x.dtype == torch.float32
        torch.testing.assert_close(x[:, inner:-inner], alone[:, inner:-inner], rtol=2e-3, atol=1e-4)
        for row, (utterance, start) in zip(x, crops.where(2).T.tolist(), strict=True):
            whole = taken(source(utterance), module)
            there = whole[0, start // hop :][: len(row)]
            torch.testing.assert_close(row, there, rtol=1e-3, atol=1e-4)
    assert all("GB" in line for line in said)


def test_an_interrupted_cache_goes_on(corpus, tmp_path, monkeypatch):
    torch.manual_seed(0)
    config = conf(tmp_path)
    model = build_model(config.model, config.objective)
    crops = Crops(corpus, crop=4000, hop=160, batch=5, seed=3)
    asked = []

    def source(number, start, stop):
        asked.append(number)
        return model.standardise(
            torch.from_numpy(corpus.read(number)[start:stop])[None].float() / 32768
        )

    def interrupt():
        if len(asked) == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(cache_module, "PIECE", 10**6)  # an utterance is asked for once
    caches = [
        Cache(tmp_path / name, 3, model, crops, torch.bfloat16) for name in ("whole", "parts")
    ]
    caches[0].build(source, 1, quiet, lambda: None)
    asked.clear()
    with pytest.raises(KeyboardInterrupt):
        caches[1].build(source, 1, quiet, interrupt)
    assert not caches[1].complete
    with (tmp_path / ".parts.partial/frames").open("ab") as file:
        file.write(b"half an utterance")
    asked.clear()
    caches[1].build(source, 1, quiet, lambda: None)
    assert asked == [4, 5, 6]
    assert (tmp_path / "whole/frames").read_bytes() == (tmp_path / "parts/frames").read_bytes()
    with torch.no_grad():
        next(model.stack[1].parameters()).add_(1)
    assert not Cache(
        tmp_path / "parts", 3, model, crops, torch.bfloat16
    ).complete  # of other weights


def test_a_cache_needs_room(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(cache_module, "free_bytes", lambda _: 1000)
    config = conf(tmp_path, "training.schedule=[{modules: [2], cache: true}]")
    with pytest.raises(
        DataError, match=r"GB are needed, 0.00 GB are free: make room.*last good checkpoint"
    ):
        train(config, corpus, tmp_path / "e", say=quiet)


def test_numbers_too_large_for_a_cache(corpus, tmp_path):
    config = conf(
        tmp_path, "training.schedule=[{modules: [2], cache: true}]", "model.deviation=1.0e-7"
    )
    with pytest.raises(
        GimAudioError, match="what module 2 takes is too large for torch.float16: train in bf16"
    ):
        train(config, corpus, tmp_path / "e", say=quiet)


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


def test_a_module_can_begin_as_the_one_below(corpus, tmp_path):
    schedule = (
        "training.schedule=[{modules: [4], steps: 2}, {modules: [5], steps: 1, warm_start: true}]"
    )
    train(
        conf(tmp_path, schedule, "training.learning_rate=1.0e-9"), corpus, tmp_path / "e", say=quiet
    )
    found = weights(tmp_path / "e")
    for name in (name for name in found if name.startswith("stack.4.")):
        torch.testing.assert_close(
            found[name], found[name.replace("stack.4.", "stack.3.")], atol=1e-7, rtol=0
        )
    with pytest.raises(ConfigError, match="module 3 has not the shapes of module 2"):
        train(
            conf(tmp_path, "training.schedule=[{modules: [3], warm_start: true}]"),
            corpus,
            tmp_path / "x",
            say=quiet,
        )


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


def test_a_stack_grows_and_what_was_trained_stays(corpus, tmp_path):
    train(conf(tmp_path), corpus, tmp_path / "base", say=quiet)
    added = (
        "model.added=[{kernel: 3, stride: 2, padding: 1, channels: 9}, {kind: gru, hidden: 5},"
        " {kind: gru, hidden: 4}]"
    )
    train(conf(tmp_path, added), corpus, tmp_path / "grown", base=tmp_path / "base", say=quiet)
    base, grown = weights(tmp_path / "base"), weights(tmp_path / "grown")
    assert all(torch.equal(base[name], grown[name]) for name in base)
    untrained = load_file(tmp_path / "grown/step-000000/model.safetensors")
    assert differ(untrained, grown) == {7, 8, 9}
    model = load_model(tmp_path / "grown")[1]
    assert [f.shape for f in model(torch.zeros(1, 16000))[0][5:]] == [
        (1, 100, 6),
        (1, 50, 9),
        (1, 50, 5),
        (1, 50, 4),
    ]
    more = added.replace("hidden: 4}", "hidden: 4}, {kind: gru, hidden: 3}")
    train(conf(tmp_path, more, "training.cache=true", "training.schedule=sequential"), corpus, tmp_path / "again",
          base=tmp_path / "grown", say=quiet)  # fmt: skip
    again = weights(tmp_path / "again")
    assert all(torch.equal(grown[name], again[name]) for name in grown)
    assert json.loads((tmp_path / "again/provenance.json").read_text())[0]["grown_from"] == str(
        tmp_path / "grown"
    )


def test_a_measured_standardisation_grows_along(noise, corpus, tmp_path):
    """Standardisation is the old stack's, whatever corpus the new modules learn from.

    A resumed run needs no reminder.
    """
    measured = ["model.mean=auto", "model.deviation=auto"]
    train(conf(tmp_path, *measured), corpus, tmp_path / "base", say=quiet)
    pack(noise.select(["a-1", "b-3"]), tmp_path / "other")
    other, grown = (
        PackedCorpus(tmp_path / "other"),
        conf(tmp_path, *measured, "model.added=[{kernel: 3}]"),
    )
    with pytest.raises(KeyboardInterrupt):
        train(
            grown,
            other,
            tmp_path / "e",
            base=tmp_path / "base",
            say=quiet,
            progress=interrupt_at(4),
        )
    train(grown, other, tmp_path / "e", resume=True, say=quiet)
    assert weights(tmp_path / "e")["deviation"] == weights(tmp_path / "base")["deviation"]
    assert (
        load(tmp_path / "e/config.yaml").model.mean
        == load(tmp_path / "base/config.yaml").model.mean
    )


def test_weights_to_begin_with(corpus, tmp_path):
    """All of them learn on.

    A model that was exported for features gets new heads, and it is said.
    """
    train(
        conf(tmp_path, "model.mean=0.01", "model.deviation=0.1"),
        corpus,
        tmp_path / "base",
        say=quiet,
    )
    said = []
    train(
        conf(tmp_path, "training.seed=7"),
        corpus,
        tmp_path / "e",
        init=tmp_path / "base",
        say=said.append,
    )
    assert said == [f"beginning with the weights of {tmp_path}/base"]
    begun = load_file(tmp_path / "e/step-000000/model.safetensors")
    assert not differ(weights(tmp_path / "base"), begun)
    assert differ(begun, weights(tmp_path / "e")) == {1, 2, 3, 4, 5, 6}
    assert load(tmp_path / "e/config.yaml").model.mean == 0.01
    assert json.loads((tmp_path / "e/provenance.json").read_text())[0]["begun_with"] == str(
        tmp_path / "base"
    )
    train(conf(tmp_path, "training.seed=7", "training.steps=9"), corpus, tmp_path / "e", resume=True,
          init=tmp_path / "base", say=quiet)  # fmt: skip
    assert load_model(tmp_path / "e")[0].model.deviation == 0.1


def test_a_shipped_model_learns_on(corpus, tmp_path):
    said = []
    kept = [
        "model.channels=256",
        "model.context.hidden=256",
        "objective.steps_ahead=12",
        "training.steps=1",
    ]
    train(conf(tmp_path, *kept), corpus, tmp_path / "e", init="gim-small", say=said.append)
    assert said == [
        (
            "beginning with the weights of gim-small; the prediction heads of modules 1, 2, 3, 4, 5, 6"
            " are new"
        )
    ]
    begun, shipped = load_model(tmp_path / "e/step-000000")[1], load_for_features(Path("gim-small"))
    for name, weight in shipped.state_dict().items():
        assert torch.equal(begun.state_dict()[name], weight), name
    for wrong, message in (
        (["model.channels=8"], "model.channels: gim-small has 256, not 8"),
        ([*kept, "model.kernels=[10,8,4,4,3]"], "model.kernels"),
    ):
        with pytest.raises(ConfigError, match=message):
            train(conf(tmp_path, *wrong), corpus, tmp_path / "no", init="gim-small", say=quiet)
    with pytest.raises(ConfigError, match="--from and --init"):
        train(
            conf(tmp_path),
            corpus,
            tmp_path / "no",
            init="gim-small",
            base=tmp_path / "e",
            say=quiet,
        )
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "nothing is added to .*base, which has 6 modules"),
        (["model.channels=9", "model.added=[{kernel: 3}]"], "model.channels: .*base has 8, not 9"),
        (
            ["model.added=[{kernel: 3}]", "training.schedule=[{modules: [6]}]"],
            "those up to 6 are trained already",
        ),
    ],
)
def test_what_cannot_grow(corpus, tmp_path, overrides, message):
    train(conf(tmp_path), corpus, tmp_path / "base", say=quiet)
    with pytest.raises(ConfigError, match=message):
        train(conf(tmp_path, *overrides), corpus, tmp_path / "e", base=tmp_path / "base", say=quiet)
    assert not (tmp_path / "e").exists()


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
