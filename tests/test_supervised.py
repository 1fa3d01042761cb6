"""Modules that learn to name phones or speakers, end to end or greedily."""

import json

import numpy as np
import pytest
import torch
from conftest import TINY
from safetensors.torch import load_file
from test_probes import noisy_data

from gim_audio.checkpoints.folders import load_model, resolve, save_model
from gim_audio.config import load
from gim_audio.errors import ConfigError, DataError
from gim_audio.featurize import Featurizer
from gim_audio.packed import Crops, PackedCorpus, pack
from gim_audio.phones import Alignment, frame_labels, write_ctm
from gim_audio.training import train
from gim_audio.training.labels import targets_for
from gim_audio.training.validation import validate


def quiet(_):
    pass


@pytest.fixture
def spoken(tmp_path):
    """Utterances whose first half is a quiet phone and whose second a loud one.

    Louder for later speakers.
    """
    data, alignments = noisy_data(tmp_path / "data", "abc")
    pack(data, tmp_path / "packed")
    write_ctm(tmp_path / "packed/phones.ctm", alignments)
    return PackedCorpus(tmp_path / "packed"), alignments


def config(tmp_path, *overrides):
    path = tmp_path / "supervised.yaml"
    path.write_text(TINY)
    return load(path, overrides)


@pytest.mark.parametrize("cuts", ["[1, 2, 3, 4, 5]", "[]"])
@pytest.mark.parametrize("kind", ["phones", "speakers"])
def test_learns_to_name_them(spoken, tmp_path, kind, cuts):
    corpus, _ = spoken
    settings = config(
        tmp_path, f"objective.kind={kind}", "objective.shift=0", f"model.isolate_after={cuts}", "training.steps=300",
        "training.learning_rate=0.003", "training.checkpoint_every=300", "model.mean=auto", "model.deviation=auto",
    )  # fmt: skip
    train(settings, corpus, tmp_path / "e", say=quiet)
    lines = [json.loads(line) for line in (tmp_path / "e/metrics.jsonl").read_text().splitlines()]
    assert (
        np.mean([max(line["accuracy"][-2:]) for line in lines[-10:]])
        > 0.8
        > max(lines[0]["accuracy"][-2:])
    )
    saved = load(resolve(tmp_path / "e") / "config.yaml")
    assert saved.objective.classes == (41 if kind == "phones" else 3)
    features = Featurizer.load(tmp_path / "e").encode(np.zeros(8000, dtype=np.float32))
    assert features[-1].shape == (50, 6)


def test_a_greedy_module_is_trained_by_its_own_labels_alone(spoken, tmp_path):
    corpus, _ = spoken
    for name, rates in (("all", [0.01] * 6), ("first", [0.01, *[1e-9] * 5])):
        settings = config(tmp_path, "objective.kind=phones", f"training.learning_rate={rates}")
        train(settings, corpus, tmp_path / name, say=quiet)
    together, alone = (
        load_file(resolve(tmp_path / name) / "model.safetensors") for name in ("all", "first")
    )
    own = [name for name in together if name.startswith("stack.0.")]
    assert own
    assert all(torch.equal(together[name], alone[name]) for name in own)


def test_labels_of_a_crop_are_those_of_its_place_in_the_utterance(spoken, tmp_path):
    corpus, alignments = spoken
    settings = config(
        tmp_path, "objective.kind=phones", "objective.classes=41", "objective.shift=1"
    )
    model = load_model_of(settings)
    crops = Crops(corpus, crop=4000, hop=160, batch=3, seed=1)
    targets = targets_for(settings.objectives, model, crops, torch.device("cpu"))
    grid = model.geometries[-1]
    for step in range(5):
        for row, utterance, start in zip(
            targets(step)[6], *crops.where(step).tolist(), strict=True
        ):
            alignment = alignments[corpus.utterances[utterance]]
            whole = frame_labels(alignment, 60, centre=grid.centre / 16000, hop=0.01, shift=1)
            assert row.tolist() == whole[start // 160 : start // 160 + len(row)].tolist()
    assert {0, 2} <= set(targets(0)[1].flatten().tolist())


def load_model_of(settings):
    from gim_audio.model.build import build_model

    return build_model(settings.model, settings.objectives)


def test_resumes_to_the_same_bits_and_validates(spoken, tmp_path):
    corpus, _ = spoken
    settings = config(tmp_path, "objective.kind=speakers")
    train(settings, corpus, tmp_path / "whole", valid=corpus, say=quiet)
    half = config(tmp_path, "objective.kind=speakers", "training.steps=3")
    train(half, corpus, tmp_path / "half", say=quiet)
    train(settings, corpus, tmp_path / "half", resume=True, say=quiet)
    whole, resumed = (load_model(tmp_path / name)[1].state_dict() for name in ("whole", "half"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert len((tmp_path / "whole/validation.jsonl").read_text().splitlines()) == 2


def test_resuming_with_other_labels_is_refused(spoken, tmp_path):
    corpus, alignments = spoken
    half, whole = (
        config(tmp_path, "objective.kind=phones", f"training.steps={steps}") for steps in (3, 6)
    )
    train(half, corpus, tmp_path / "e", say=quiet)
    write_ctm(corpus.path / "phones.ctm", dict(alignments))  # the same again
    train(
        config(tmp_path, "objective.kind=phones", "training.steps=4"),
        corpus,
        tmp_path / "e",
        resume=True,
        say=quiet,
    )
    state = resolve(tmp_path / "e") / "state.json"
    assert json.loads(state.read_text())["labels"]
    moved = {
        name: Alignment(a.starts, a.ends, a.labels[::-1].copy()) for name, a in alignments.items()
    }
    write_ctm(corpus.path / "phones.ctm", moved)
    with pytest.raises(
        DataError, match=r"phones\.ctm has other labels than those .*e was trained on"
    ):
        train(whole, corpus, tmp_path / "e", resume=True, say=quiet)


def test_validation_weighs_labels_not_batches(spoken, tmp_path):
    """Batches with few labels count for less: the loss is that of one batch with all crops."""
    corpus, alignments = spoken
    some = dict(list(alignments.items())[:4])
    write_ctm(corpus.path / "phones.ctm", some)
    found = []
    for batch in (3, 12):
        settings = config(
            tmp_path, "objective.kind=phones", "objective.classes=41", f"training.batch={batch}"
        )
        model = load_model_of(settings)
        folder = tmp_path / f"model-{batch}"
        folder.mkdir()
        torch.manual_seed(0)
        save_model(
            folder, settings, {n: torch.randn_like(t) for n, t in model.state_dict().items()}
        )
        found.append(validate(folder, corpus, settings, torch.device("cpu"), corpus))
    np.testing.assert_allclose(found[0]["loss"], found[1]["loss"], rtol=1e-4)


def test_an_older_checkpoint_gets_its_labels_on_resuming(spoken, tmp_path):
    corpus, _ = spoken
    train(
        config(tmp_path, "objective.kind=phones", "training.steps=3"),
        corpus,
        tmp_path / "e",
        say=quiet,
    )
    state = resolve(tmp_path / "e") / "state.json"
    known = json.loads(state.read_text())
    labels = known.pop("labels")
    state.write_text(json.dumps(known))
    train(config(tmp_path, "objective.kind=phones"), corpus, tmp_path / "e", resume=True, say=quiet)
    assert json.loads((resolve(tmp_path / "e") / "state.json").read_text())["labels"] == labels


def test_validation_without_a_label_is_no_perfect_loss(spoken, tmp_path):
    corpus, alignments = spoken
    early = Alignment(np.array([0.0]), np.array([0.01]), np.array([2]))
    write_ctm(corpus.path / "phones.ctm", dict.fromkeys(list(alignments)[:1], early))
    settings = config(
        tmp_path, "objective.kind=phones", "objective.classes=41", "objective.shift=4"
    )
    (tmp_path / "model").mkdir()
    save_model(tmp_path / "model", settings, load_model_of(settings).state_dict())
    with pytest.raises(DataError, match="none of the 4 batches that are validated has a label"):
        validate(tmp_path / "model", corpus, settings, torch.device("cpu"), corpus)


def test_what_is_refused(spoken, tmp_path):
    corpus, _ = spoken
    with pytest.raises(ConfigError, match=r"objective\.classes: 7, but .* has 3 speakers"):
        train(
            config(tmp_path, "objective.kind=speakers", "objective.classes=7"),
            corpus,
            tmp_path / "e",
            say=quiet,
        )
    (corpus.path / "phones.ctm").unlink()
    with pytest.raises(
        DataError, match=r"phones\.ctm: no such file: `gim-audio data align` makes it"
    ):
        train(config(tmp_path, "objective.kind=phones"), corpus, tmp_path / "f", say=quiet)
    one, _ = noisy_data(tmp_path / "one", "a")
    pack(one, tmp_path / "alone")
    with pytest.raises(DataError, match="one speaker only"):
        train(
            config(tmp_path, "objective.kind=speakers"),
            PackedCorpus(tmp_path / "alone"),
            tmp_path / "g",
            say=quiet,
        )
    strangers, _ = noisy_data(tmp_path / "strangers", "ca")
    pack(strangers, tmp_path / "others")
    with pytest.raises(DataError, match="speaker b is not among those that training knows"):
        train(
            config(tmp_path, "objective.kind=speakers"),
            PackedCorpus(tmp_path / "others"),
            tmp_path / "h",
            valid=corpus,
            say=quiet,
        )
