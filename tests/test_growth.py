"""Stacks that grow on others, or begin with their weights."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_schedule import conf, differ, interrupt_at, quiet, weights

from gim_audio.checkpoints.folders import load_for_features, load_model
from gim_audio.config import load
from gim_audio.errors import ConfigError
from gim_audio.packed import PackedCorpus, pack
from gim_audio.training import train


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
