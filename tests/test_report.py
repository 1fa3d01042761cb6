import json
import re

import pytest
from conftest import TINY
from PIL import Image

from gim_audio.config import load
from gim_audio.errors import DataError
from gim_audio.report import write_report
from gim_audio.report.paper_results import TABLE
from gim_audio.report.results import read_experiments
from gim_audio.report.rows import method
from gim_audio.training import train


def result(task, steps, accuracies, model="exp 123"):
    return {
        "experiment": "e", "model": model, "trained_steps": steps, "train": "a", "test": "b", "task": task, "protocol": "strict",
        "modules": [
            {"module": n, "name": name, "accuracy": a, "interval": [a - 0.02, a + 0.01]}
            for n, (name, a) in enumerate(zip(["conv1", "conv2", "conv3", "conv4", "conv5", "gru"], accuracies, strict=False), 1)
        ],
        "counts": {"majority": 0.2025, "test_frames": 1234}, "settings": {"shift": 1},
        "provenance": {"command": "gim-audio probe <x>", "commit": "abc", "date": "today", "hardware": "a computer", "torch": "2"},
    }  # fmt: skip


def abx(errors):
    return [
        {"module": n, "name": f"m{n}", "within": None, "across": {"error": error, "interval": [error - 0.01, error + 0.02]}}
        for n, error in enumerate(errors, 1)
    ]  # fmt: skip


def units(pnmi):
    return {
        "module": 1, "name": "conv1", "pnmi": pnmi, "interval": [pnmi - 0.01, pnmi + 0.02],
        "phone_purity": 0.4, "cluster_purity": 0.1,
    }  # fmt: skip


def test_weights_whose_training_is_not_known_are_no_baseline(tmp_path):
    """Results of an imported model; a baseline has its own name."""
    for name, model in (("imported", "exp/published 123"), ("mfcc", "mfcc")):
        (tmp_path / "e/results").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"e/results/{name}.json").write_text(
            json.dumps(result("phones", None, [0.5], model))
        )
    (found,) = read_experiments([tmp_path / "e"])
    assert [probe.record["model"] for probe in found.trained("phones")] == ["exp/published 123"]
    assert [probe.kind for probe in found.baselines] == ["mfcc"]


@pytest.fixture
def experiment(tiny, corpus, tmp_path):
    folder = tmp_path / "exp"
    train(tiny, corpus, folder, say=lambda _: None)
    (folder / "results").mkdir()
    results = {
        "p": result("phones", 6, [0.30, 0.31, 0.32, 0.33, 0.34, 0.431]),
        "pr": result("phones", 0, [0.28, 0.27, 0.26, 0.25, 0.24, 0.297]),
        "pm": result("phones", None, [0.48], "mfcc"),
        "a": result("abx", 6, [0] * 6) | {"modules": abx([0.30, 0.29, 0.28, 0.27, 0.26, 0.123])},
        "ar": result("abx", 0, [0] * 6) | {"modules": abx([0.40, 0.39, 0.38, 0.37, 0.36, 0.35])},
        "v": (
            result("verification", 6, [0] * 6)
            | {"modules": [{"module": 1, "name": "conv1", "eer": 0.071, "interval": None}]}
        ),
        "um": result("units", None, [0], "mfcc") | {"modules": [units(0.353)]},
        "u": result("units", 6, [0] * 6) | {"modules": [units(0.456)]},
        "s": result("speakers", 6, [0.5, 0.6, 0.7, 0.8, 0.9, 0.95]),
    }
    for name, record in results.items():
        (folder / f"results/{name}.json").write_text(json.dumps(record))
    return folder


def test_page_figures_and_tables(experiment, tmp_path, run):
    status, _, err = run(
        "report",
        experiment,
        "--out",
        tmp_path / "r.html",
        "--markdown",
        tmp_path / "R.md",
        "--title",
        "A <title>",
    )
    assert status == 0
    assert [line.split()[-1] for line in err.splitlines()] == [
        f"{tmp_path}/{name}" for name in ("r.html", "r-training.png", "r-accuracy.png", "R.md")
    ]
    page, tables = (tmp_path / "r.html").read_text(), (tmp_path / "R.md").read_text()
    assert not re.search(r'(src|href)="(?!data:)', page)  # nothing outside the page is needed
    assert "A &lt;title&gt;" in page
    for name in ("training", "accuracy"):
        with Image.open(tmp_path / f"r-{name}.png") as image:
            assert image.width > 1000
            assert len(image.convert("L").getcolors(256)) > 20
    assert page.count("data:image/png;base64,") == 2
    for text in (page, tables):
        assert (
            "Phones: module 6 (gru, the last one) is not compared with MFCC with deltas (43.1%,"
            " 48.0%: -4.9" in text
        )
        assert "shift 1" in text
    assert "| module 1: conv1 | 7.1 | 45.6 (44.6 to 47.6) | 40.0 | 10.0 |" in tables
    assert "| MFCC with deltas |  | 35.3 (34.3 to 37.3) | 40.0 | 10.0 |" in tables
    assert "| module 6: m6 |  |  |  | 12.3 | 11.3 to 14.3 | 35.0 |" in tables
    row = next(line for line in tables.splitlines() if line.startswith("| module 6"))
    assert row == "| module 6: gru | 43.1 | 41.1 to 44.1 | 29.7 | 95.0 | 93.0 to 96.0 |  |"
    assert "| MFCC with deltas | 48.0 | 46.0 to 49.0 |" in tables
    (experiment / "results/pn.json").write_text(
        json.dumps(result("phones", None, [0.5], "mfcc+cmvn"))
    )
    write_report([experiment], tmp_path / "r.html", tmp_path / "R.md", "t")
    assert (
        "| MFCC with deltas, CMVN by utterance | 50.0 | 48.0 to 51.0 |"
        in (tmp_path / "R.md").read_text()
    )
    assert "Published, not measured here" in tables
    assert f"| Greedy InfoMax | {TABLE['Greedy InfoMax'][0]} |" in tables


def test_only_like_is_compared_with_like(experiment, tmp_path):
    """An earlier checkpoint, another protocol and another shift do not get into the table."""
    early, other, shifted = (
        result("phones", 3, [0.9] * 6),
        result("phones", None, [0.99], "mfcc"),
        result("phones", 0, [0.98] * 6),
    )
    other["protocol"], shifted["settings"] = "ref", {"shift": 2}
    for name, record in [("a", early), ("b", other), ("c", shifted)]:
        (experiment / f"results/{name}.json").write_text(json.dumps(record))
    write_report([experiment], tmp_path / "r.html", tmp_path / "R.md", "t")
    tables = (tmp_path / "R.md").read_text().split("Settings and provenance")[0]
    assert "| module 6: gru | 43.1 | 41.1 to 44.1 | 29.7 |" in tables
    assert "| MFCC with deltas | 48.0 |" in tables
    assert "phones: strict protocol, label shift 1" in tables


def test_half_a_line_of_a_killed_run(experiment, tmp_path):
    with (experiment / "metrics.jsonl").open("a") as file:
        file.write('{"step": 7, "lo')
    write_report([experiment], tmp_path / "r.html", None, "t")


def test_without_probes_there_are_still_curves(experiment, tmp_path):
    for file in (experiment / "results").iterdir():
        file.unlink()
    written = write_report([experiment], tmp_path / "r.html", None, "t")
    assert [file.name for file in written] == ["r.html", "r-training.png"]


def test_several_experiments(experiment, tmp_path):
    import shutil

    shutil.copytree(experiment, tmp_path / "other", symlinks=True)
    written = write_report([experiment, tmp_path / "other"], tmp_path / "r.html", None, "t")
    # The page, two figures of each, and one of both.
    assert len({file.name for file in written}) == 6
    assert str(tmp_path / "other") in (tmp_path / "r.html").read_text()


def test_what_is_no_experiment(experiment, tmp_path, run):
    status, _, err = run("report", tmp_path, "--out", tmp_path / "r.html")
    assert (status, "no metrics.jsonl" in err) == (2, True)
    (experiment / "results/p.json").write_text("{")
    with pytest.raises(DataError, match="damaged: not JSON"):
        write_report([experiment], tmp_path / "r.html", None, "t")


def test_experiments_side_by_side(experiment, tmp_path, tiny, corpus, run):
    sequential = tiny.model_copy(
        update={"training": tiny.training.model_copy(update={"schedule": "sequential"})}
    )
    train(sequential, corpus, tmp_path / "seq", say=lambda _: None)
    (tmp_path / "seq/results").mkdir()
    record = result("phones", 36, [0.30, 0.31, 0.32, 0.33, 0.34, 0.40])
    (tmp_path / "seq/results/p.json").write_text(json.dumps(record))
    status, _, _ = run(
        "report",
        experiment,
        tmp_path / "seq",
        "--out",
        tmp_path / "r.html",
        "--markdown",
        tmp_path / "R.md",
    )
    assert status == 0
    lines = (tmp_path / "R.md").read_text().splitlines()
    assert "|  | exp | seq |" in lines
    assert "| phones %, module 6 | 43.1 (41.1 to 44.1) | 40.0 (38.0 to 41.0) |" in lines
    assert "| training: steps | 6 | 36 |" in lines
    assert any(
        re.match(r"\| training: memory \| \d\.\d\d GB at most.* \| \d\.\d\d GB", line)
        for line in lines
    )
    # Drawn, though most modules rest in each phase.
    assert Image.open(tmp_path / "r-2-training.png").size[0] > 1000


def test_rows_of_the_papers_table(experiment, tmp_path, tiny, corpus, run):
    """Ours beside the published, by protocol; baselines of a folder of their own.

    Every layer of every model.
    """
    end_to_end = tiny.model_copy(
        update={"model": tiny.model.model_copy(update={"isolate_after": ()})}
    )
    train(end_to_end, corpus, tmp_path / "cpc", say=lambda _: None)
    (tmp_path / "cpc/results/trained").mkdir(parents=True)
    (tmp_path / "baselines/results").mkdir(parents=True)
    stacked = result("phones", None, [0.5], "mfcc")
    stacked["settings"]["stack"] = 4
    ref = result("phones", 6, [0.2] * 6) | {"protocol": "ref"}
    for file, record in {
        "cpc/results/trained/phones-strict": result(
            "phones", 6, [0.31, 0.32, 0.33, 0.34, 0.35, 0.36]
        ),
        "cpc/results/trained/phones-ref": ref,
        "baselines/results/mfcc": result("phones", None, [0.481], "mfcc"),
        "baselines/results/stacked": stacked,
    }.items():
        (tmp_path / f"{file}.json").write_text(json.dumps(record))
    (experiment / "results/pm.json").unlink()
    paths = experiment, tmp_path / "cpc", tmp_path / "baselines"
    status, _, _ = run(
        "report", *paths, "--out", tmp_path / "r.html", "--markdown", tmp_path / "R.md"
    )
    assert status == 0
    text = (tmp_path / "R.md").read_text()
    for line in (
        "| random initialisation |  | 29.7 (27.7 to 30.7) |  |  |  | 27.6 | 1.9 |",
        "| MFCC with deltas |  | 48.1 (46.1 to 49.1) |  |  |  | 39.7 | 17.6 |",
        (
            "| MFCC with deltas, with 4 frames on either side |  | 50.0 (48.0 to 51.0) |  |  |  | "
            " |  |"
        ),
        (
            "| Greedy InfoMax (`exp`) | 6 | 43.1 (41.1 to 44.1) |  | 95.0 (93.0 to 96.0) |  | 62.5"
            " | 99.4 |"
        ),
        "| CPC (`cpc`) | 6 | 36.0 (34.0 to 37.0) | 20.0 (18.0 to 21.0) |  |  | 64.9 | 99.6 |",
        "| conv2 | 27.0 (25.0 to 28.0) | 31.0 (29.0 to 32.0) | 32.0 (30.0 to 33.0) |",
    ):
        assert line in text.splitlines()
    assert (
        "MFCC with deltas, with 4 frames on either side, the best of 2 baselines on the test set"
        " (43.1%, 50.0%" in text
    )
    assert text.index("Greedy InfoMax (`exp`)") < text.index("## ")  # the table comes first
    assert Image.open(tmp_path / "r-layers.png").size[0] > 1000
    page = (tmp_path / "r.html").read_text()
    assert page.index("<table") < page.index("<img") < page.index("Settings and provenance")
    assert (
        "<td>Greedy InfoMax (<code>exp</code>)</td><td>6</td><td>43.1<span>(41.1 to"
        " 44.1)</span></td>" in page
    )
    assert (
        f'<img alt="layers" width="{Image.open(tmp_path / "r-layers.png").size[0] * 96 // 150}"'
        in page
    )


def test_a_curve_sweeps_and_confusions_are_drawn(experiment, tmp_path):
    confused = [" ".join("5" if a == b else "1" for b in range(41)) for a in range(41)]
    main = result("phones", 6, [0.30, 0.31, 0.32, 0.33, 0.34, 0.431])
    for row in main["modules"]:
        row["confusion"] = confused
    records = {"p": main}
    for steps in (2, 4):
        early = result("phones", steps, [0.2 + steps / 100])
        early["modules"][0]["module"] = 6
        records[f"early{steps}"] = early
    for shift in (-1, 0, 2):
        moved = result("phones", 6, [0.4 - shift / 100])
        moved["settings"] = {"shift": shift}
        records[f"shift{shift}"] = moved
    slow = result("slowness", 6, [0])
    slow["modules"] = [
        {"module": n, "name": f"m{n}", "autocorrelation": [0.9, None]} for n in (1, 2)
    ]
    slow["settings"] = {"lags": "1 50"}
    alike = result("cka", 6, [0])
    alike["modules"] = [{"module": n, "name": f"m{n}", "cka": [1.0, 0.5]} for n in (1, 2)]
    for name, record in (records | {"slow": slow, "alike": alike}).items():
        (experiment / f"results/{name}.json").write_text(json.dumps(record))
    written = {
        file.name
        for file in write_report([experiment], tmp_path / "r.html", tmp_path / "R.md", "t")
    }
    assert {f"r-{name}.png" for name in ("curve", "shifts", "confusion", "structure")} <= written
    text = (tmp_path / "R.md").read_text()
    assert "| 0 | 0.0 | 29.7 (27.7 to 30.7) |" in text
    assert "| 4 | " in text
    assert "| module 1: m1 | 0.90 |  |" in text
    # The sweep and the curve are not the result.
    assert "| module 6: gru | 43.1 | 41.1 to 44.1 | 29.7 |" in text


def test_features_are_drawn(spoken, tmp_path, run):
    run("pack", spoken, tmp_path / "packed")
    status, _, err = run("draw", "fbank", tmp_path / "packed", "--out", tmp_path / "figures")
    assert status == 0, err
    for name in ("utterance", "map"):
        with Image.open(tmp_path / f"figures/{name}.png") as image:
            assert len(image.convert("L").getcolors(256)) > 50
    status, _, err = run(
        "draw", "fbank", tmp_path / "packed", "--out", tmp_path / "f", "--utterance", "nobody"
    )
    assert (status, "no utterance nobody" in err) == (2, True)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (["objective={kind: vicreg, width: 8}"], "local objectives: vicreg"),
        (
            ["objective=[{kind: spectra}, {}, {}, {}, {}, {kind: units, number: 4}]"],
            "local objectives: spectra, infonce, units",
        ),
        (["model.reach=2"], "Greedy InfoMax, losses reach 2 modules"),
        (["model.isolate_after=[]"], "CPC"),
    ],
)
def test_methods_that_the_paper_does_not_have_are_named(tmp_path, corpus, run, change, name):
    (tmp_path / "c.yaml").write_text(TINY)
    train(load(tmp_path / "c.yaml", change), corpus, tmp_path / "e", say=lambda _: None)
    (found,) = read_experiments([tmp_path / "e"])
    assert method(found) == (name, "")
    assert run("report", tmp_path / "e", "--out", tmp_path / "r.html")[0] == 0
