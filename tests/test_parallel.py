"""Several processes, started as a person starts them."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest
import torch
from conftest import TINY, make_data, training_command
from safetensors.torch import load_file

from gim_audio.checkpoints.folders import resolve
from gim_audio.config import PhaseConfig, StopConfig, load
from gim_audio.errors import ConfigError
from gim_audio.model.build import build_model
from gim_audio.packed import Crops, PackedCorpus, pack
from gim_audio.phones import Alignment, write_ctm
from gim_audio.training import train
from gim_audio.training.balance import balance
from gim_audio.training.labels import targets_for
from gim_audio.training.module_parallel import ModuleParallel
from gim_audio.training.report import StepReport
from gim_audio.training.schedule import phases


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Sixteen utterances of four speakers."""
    folder, generator = tmp_path_factory.mktemp("noise"), np.random.default_rng(0)
    lengths = {f"{'abcd'[n % 4]}-{n:02d}": int(generator.integers(5000, 20000)) for n in range(16)}
    pack(make_data(folder / "data", lengths), folder / "packed")
    return PackedCorpus(folder / "packed")


@pytest.fixture
def conf(tmp_path):
    """Twelve steps of four crops."""
    path = tmp_path / "conf.yaml"
    path.write_text(TINY.replace("steps: 6, batch: 3", "steps: 12, batch: 4"))
    return path


SHARED = ("training.batch=2", "training.parallel=data")
"""Half of a batch for each of two processes."""


def torchrun(processes, conf, corpus, out, *more):
    python, *arguments = training_command(conf, corpus, out, *more)
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return subprocess.Popen(
        [python, *launcher, *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )


def alone(conf, corpus, out, *more):
    """Run one process with as many threads: sums of two threads round differently."""
    subprocess.run(
        training_command(conf, corpus, out, *more),
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=True,
    )


def finish(process):
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    return said


def weights(experiment):
    return load_file(resolve(experiment) / "model.safetensors")


def lines(experiment, key="loss"):
    return [
        json.loads(line)[key] for line in (experiment / "metrics.jsonl").read_text().splitlines()
    ]


@pytest.mark.parametrize(
    "negatives", ["{kind: batch, number: 4}", "{kind: exact, number: 4}", "{kind: pool, number: 9}"]
)
def test_two_processes_share_a_batch(conf, corpus, tmp_path, negatives):
    """Two crops each are four of one process.

    The losses agree to float rounding, negatives and all.
    """
    settings = [f"objective.negatives={negatives}"]
    finish(torchrun(2, conf, corpus, tmp_path / "two", *settings, *SHARED))
    train(load(conf, settings), corpus, tmp_path / "one", say=lambda line: None)
    np.testing.assert_allclose(lines(tmp_path / "two"), lines(tmp_path / "one"), rtol=1e-5)
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-4, atol=1e-6)


def test_two_processes_share_hidden_spans(conf, corpus, tmp_path):
    """Each hides and names its part of what one process would, with as many units."""
    spans = "{kind: units, number: 5, spans: {starts: 0.2, length: 3}}"
    ahead = "{kind: units, number: 5, ahead: [1, 2]}"
    settings = [
        "model.context={kind: residual, hidden: 6, layers: 2, lookahead: 20}",
        f"objective=[{', '.join([ahead] * 5 + [spans])}]",
        "data.augment={share: 0.5, warp: 0.1, reverb: 0.1, noise: [5, 10]}",
    ]
    finish(torchrun(2, conf, corpus, tmp_path / "two", *settings, *SHARED))
    alone(conf, corpus, tmp_path / "one", *settings)
    for key in ("loss", "accuracy"):
        np.testing.assert_allclose(
            lines(tmp_path / "two", key), lines(tmp_path / "one", key), rtol=1e-4
        )


def test_two_processes_share_labels_of_unequal_number(conf, corpus, tmp_path):
    """A mean over a process's labels is not a part of the mean over all.

    The gradients are those of one process.
    """
    shutil.copytree(corpus.path, tmp_path / "packed")
    labelled = PackedCorpus(tmp_path / "packed")
    crops = Crops(labelled, crop=4000, hop=160, batch=4, seed=2)
    known = {}
    # The first process has labels of whole crops, the second of half of each.
    for number, (utterance, start) in enumerate(crops.where(0).T.tolist()):
        first = (start + 2000 * (number > 1)) / 16000
        edges = np.linspace(first, labelled.samples[utterance] / 16000, 4)
        known[labelled.utterances[utterance]] = Alignment(
            edges[:-1], edges[1:], np.array([2, 5, 9])
        )
    write_ctm(labelled.path / "phones.ctm", known)
    settings = [
        "objective.kind=phones",
        "training.steps=1",
        "training.checkpoint_every=1",
        "training.learning_rate=1.0e-3",
    ]
    finish(torchrun(2, conf, labelled, tmp_path / "two", *settings, *SHARED))
    alone(conf, labelled, tmp_path / "one", *settings)
    one, two = (
        load_file(tmp_path / e / "step-000001/optimizer.safetensors") for e in ("one", "two")
    )
    compared = [name for name in one if name.endswith("exp_avg")]
    assert len(compared) > 10
    config = load(conf, [*settings, "objective.classes=41"])
    targets = targets_for(
        config.objectives, build_model(config.model, config.objectives), crops, torch.device("cpu")
    )
    first, second = (targets(0)[1] >= 0).flatten(1).sum(1).reshape(2, 2).sum(1).tolist()
    assert first > 1.2 * second > 0
    for name in compared:  # a tenth of the gradient
        torch.testing.assert_close(two[name], one[name], rtol=1e-3, atol=1e-8)
    for key in ("loss", "accuracy"):
        np.testing.assert_allclose(
            lines(tmp_path / "two", key), lines(tmp_path / "one", key), rtol=1e-5
        )


def test_negatives_of_ones_own(conf, corpus, tmp_path):
    """Another draw of the same objective: losses near those of one process, not equal."""
    settings = [
        "objective.negatives.ranks=own",
        "training.batch=2",
        "training.parallel=data",
        "training.clip=1.0",
    ]
    finish(torchrun(2, conf, corpus, tmp_path / "two", *settings))
    train(load(conf, ["training.clip=1.0"]), corpus, tmp_path / "one", say=lambda line: None)
    np.testing.assert_allclose(lines(tmp_path / "two"), lines(tmp_path / "one"), rtol=0.3)
    assert lines(tmp_path / "two") != lines(tmp_path / "one")


def test_processes_that_share_a_cache(conf, corpus, tmp_path):
    """One makes it, all read it."""
    settings = [
        "training.schedule=[{modules: [1], steps: 4}, {modules: [2, 3], steps: 4, cache: true}]"
    ]
    finish(torchrun(2, conf, corpus, tmp_path / "two", *settings, *SHARED))
    alone(conf, corpus, tmp_path / "one", *settings)
    ours, theirs = lines(tmp_path / "two"), lines(tmp_path / "one")
    assert [[loss is None for loss in row] for row in ours] == [
        [loss is None for loss in row] for row in theirs
    ]
    # Of 16-bit frames.
    np.testing.assert_allclose(np.array(ours, float), np.array(theirs, float), rtol=1e-3)


@pytest.mark.parametrize("processes", [2, 3])
def test_modules_on_processes_of_their_own(conf, corpus, tmp_path, processes):
    """Nothing but frames goes from one to the next.

    Weights and metrics are those of one process, to the last bit.
    """
    said = finish(torchrun(processes, conf, corpus, tmp_path / "many", "training.parallel=modules"))
    assert "process 0 has module" in said
    assert f"process {processes - 1} has module" in said
    alone(conf, corpus, tmp_path / "one")
    one, many = weights(tmp_path / "one"), weights(tmp_path / "many")
    assert all(torch.equal(one[name], many[name]) for name in one)
    for key in ("loss", "accuracy"):
        assert lines(tmp_path / "one", key) == lines(tmp_path / "many", key)
    for step in ("step-000003", "step-000012"):
        first, second = (
            load_file(tmp_path / e / step / "optimizer.safetensors") for e in ("one", "many")
        )
        assert first.keys() == second.keys()
        assert all(torch.equal(first[name], second[name]) for name in first)
    ranks = [
        [
            row["effective_rank"]
            for row in map(json.loads, (tmp_path / e / "metrics.jsonl").open())
            if row["step"] % 3 == 0
        ]
        for e in ("one", "many")
    ]
    # One process looks at frames of modules that have learnt on.
    np.testing.assert_allclose(*ranks, rtol=0.2)


@pytest.mark.parametrize(("parallel", "batch"), [("modules", 4), ("data", 2)])
def test_a_process_that_dies_takes_the_run_down_and_it_resumes(
    conf, corpus, tmp_path, parallel, batch
):
    conf.write_text(conf.read_text().replace("steps: 12", "steps: 400"))
    settings = [f"training.batch={batch}", f"training.parallel={parallel}"]
    process = torchrun(2, conf, corpus, tmp_path / "e", *settings)
    while not (tmp_path / "e/step-000009").exists():
        assert process.poll() is None
        time.sleep(0.005)
    worker = children(process.pid)[0]
    os.kill(worker, signal.SIGKILL)
    started = time.monotonic()
    _, said = process.communicate(timeout=60)
    assert time.monotonic() - started < 20
    assert process.returncode != 0
    own = [line for line in said.splitlines() if line.startswith("gim-audio: ")]
    assert len(own) == 1
    assert "another process of this run is gone" in own[0]
    assert f"the last good checkpoint is {tmp_path}/e/step-" in own[0]
    last = int(resolve(tmp_path / "e").name.removeprefix("step-"))
    longer = [*settings, f"training.steps={last + 5}"]
    finish(torchrun(2, conf, corpus, tmp_path / "e", *longer, "--resume"))
    if parallel == "modules":
        alone(conf, corpus, tmp_path / "whole", f"training.steps={last + 5}")
    else:
        finish(torchrun(2, conf, corpus, tmp_path / "whole", *longer))
    whole, other = weights(tmp_path / "whole"), weights(tmp_path / "e")
    assert all(torch.equal(whole[name], other[name]) for name in whole)


def test_sigterm_saves_in_all_processes(conf, corpus, tmp_path):
    conf.write_text(
        conf.read_text().replace("steps: 12", "steps: 4000").replace("every: 3", "every: 100000", 1)
    )
    process = torchrun(3, conf, corpus, tmp_path / "e", "training.parallel=modules")
    while not (tmp_path / "e/metrics.jsonl").exists():
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(0.5)
    process.terminate()
    _, said = process.communicate(timeout=60)
    assert process.returncode != 0
    last = resolve(tmp_path / "e")
    assert last.name != "step-000000"
    assert f"saved {last}: --resume goes on from there" in said


def children(pid):
    found = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=True
    )
    return sorted(int(child) for child in found.stdout.split())


def test_balance_is_the_best_there_is():
    generator = np.random.default_rng(0)
    for parts, count in ((1, 4), (2, 5), (3, 6), (4, 4)):
        costs = generator.random(count).tolist()
        pieces = balance(costs, parts)
        assert [start for start, _ in pieces] == [0, *(stop for _, stop in pieces[:-1])]
        assert pieces[-1][1] == count
        assert len(pieces) == parts
        best = min(
            max(sum(costs[a:b]) for a, b in itertools.pairwise((0, *cuts, count)))
            for cuts in itertools.combinations(range(1, count), parts - 1)
        )
        assert max(sum(costs[a:b]) for a, b in pieces) == pytest.approx(best)


def test_wrong_starts(conf, corpus, tmp_path, monkeypatch):
    config = load(conf, ["training.parallel=data"])
    with pytest.raises(ConfigError, match="parallel=data needs several processes: torchrun"):
        train(config, corpus, tmp_path / "e", say=lambda line: None)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(
        ConfigError, match="torchrun started 2 processes: say training.parallel=data"
    ):
        train(load(conf), corpus, tmp_path / "e", say=lambda line: None)
    assert not (tmp_path / "e").exists()


def test_a_schedule_that_processes_cannot_share(conf, corpus, tmp_path):
    """Is refused before anything is written."""
    schedule = "training.schedule=[{modules: [1, 2]}, {modules: [3], cache: true}]"
    process = torchrun(2, conf, corpus, tmp_path / "e", schedule, "training.parallel=modules")
    _, said = process.communicate(timeout=60)
    assert process.returncode != 0
    assert said.count("gim-audio: ") == 1
    assert "phase 2 runs 1 module, too few for 2 processes" in said
    assert not (tmp_path / "e").exists()


def test_what_only_the_last_process_knows(tiny, monkeypatch):
    monkeypatch.setattr("torch.distributed.get_rank", lambda: 0)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 2)
    config = tiny.model_copy(
        update={"model": tiny.model.model_copy(update={"mean": 0.0, "deviation": 1.0})}
    )
    place = ModuleParallel(build_model(config.model, config.objectives), config)
    place.check(phases(config, 4))
    training = config.training.model_copy(
        update={"schedule": (PhaseConfig(stop=StopConfig(over=2)),)}
    )
    with pytest.raises(ConfigError, match="no phase can stop by accuracy"):
        place.check(phases(config.model_copy(update={"training": training}), 4))


def test_a_report_travels_and_is_put_over_the_one_below():
    """Modules are of one process or another; what users ask comes from the lowest."""
    below = StepReport([2.0, None], [0.5, None], [None, None], [3.0, None], True, False)
    own = StepReport([None, 1.0], [None, 0.25], [None, 0.0], [None, None], False, True)
    assert [StepReport.unpack(report.pack()) for report in (below, own)] == [below, own]
    found = own.over(below)
    assert found == StepReport([2.0, 1.0], [0.5, 0.25], [None, 0.0], [3.0, None], True, False)


def test_a_folder_that_exists_is_one_line_from_two_processes(conf, corpus, tmp_path):
    """Nobody waits for the process that says so."""
    (tmp_path / "e").mkdir()
    (tmp_path / "e/notes").write_text("mine")
    started = time.monotonic()
    process = torchrun(2, conf, corpus, tmp_path / "e", *SHARED)
    _, said = process.communicate(timeout=60)
    assert process.returncode != 0
    assert said.count("gim-audio: ") == 1
    assert f"{tmp_path}/e" in said
    assert time.monotonic() - started < 40
    assert [file.name for file in (tmp_path / "e").iterdir()] == ["notes"]
