import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import soundfile
from conftest import ROOT, TINY

from gim_audio.kaldi import DataDir
from gim_audio.phones import read_ctm

REPORT = {
    "RESULTS-tiny.md",
    "report.html",
    "report-training.png",
    "report-accuracy.png",
    "report-confusion.png",
    "report.log",
    ".done.report",
}

OPTIONS = ["--hours", "0.02", "--speakers", "4", "--conf", "conf/tiny.yaml", "--name", "tiny"]


@pytest.fixture
def recipe(tmp_path):
    """A copy of the recipes, with a configuration that takes seconds.

    Gim-audio is the one that runs the tests.
    """
    shutil.copytree(
        ROOT / "recipes",
        tmp_path / "recipes",
        ignore=shutil.ignore_patterns("data", "exp", "RESULTS.md"),
    )
    (tmp_path / "recipes/mini/conf/tiny.yaml").write_text(TINY.replace("steps: 6", "steps: 40"))
    return tmp_path / "recipes/mini"


def start(recipe, *options, script="run.sh"):
    environment = os.environ | {
        "GIM_AUDIO_ENV": "active",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
    }
    command = [str(recipe / script), *options]
    return subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def test_from_nothing_to_a_table_killed_on_the_way(recipe):
    process = start(recipe, *OPTIONS)
    while not (recipe / "exp/tiny/step-000006").exists():
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (recipe / "exp/tiny/.done.train").exists()

    process = start(recipe, *OPTIONS)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert "stage 1: data: done already" in output
    assert "resuming exp/tiny from step" in output
    results = (recipe / "RESULTS-tiny.md").read_text()
    assert "| module 6: gru |" in results
    assert "Published, not measured here" in results
    assert (recipe / "exp/tiny/report.html").exists()
    assert (recipe / "exp/tiny/log/train.log").exists()

    before = {file: file.stat().st_mtime_ns for file in recipe.rglob("*") if file.is_file()}
    output, _ = start(recipe, *OPTIONS).communicate(timeout=60)
    assert output.count("done already") == 4
    new = {file: file.stat().st_mtime_ns for file in recipe.rglob("*") if file.is_file()}
    assert {file.name for file in new if new[file] != before.get(file)} <= REPORT

    process = start(recipe, *OPTIONS, "--seed", "2")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "choose another --name" in output

    grown = [
        *OPTIONS,
        "--module",
        "{kind: gru, hidden: 5}",
        "--most",
        "2",
        "--gain",
        "-100",
        "--frames",
        "2000",
    ]
    output, _ = start(recipe, *grown, script="grow.sh").communicate(timeout=300)
    assert "module 7: " in output, output
    assert "module 8: " in output
    assert "| module 8: gru |" in (recipe / "GROWTH.md").read_text()
    output, _ = start(recipe, *grown, "--gain", "100", script="grow.sh").communicate(timeout=300)
    assert "done already" in output
    assert "module 8: " not in output
    process = start(recipe, "--name", "none", script="grow.sh")
    assert "run ./run.sh --name none" in process.communicate(timeout=60)[0]
    assert process.returncode == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--stagee", "3"], "unknown option --stagee"),
        (["--stage"], "--stage needs a value"),
        (["--stage", "two"], "a whole number is needed"),
        (["three"], "unexpected argument three"),
        (["--PATH", "x"], "unknown option --PATH"),
        (["--called-from", "x"], "unknown option --called-from"),
    ],
)
@pytest.mark.parametrize(
    "name", ["mini/run.sh", "librispeech/run.sh", "librispeech/rows.sh", "claims/run.sh"]
)
def test_wrong_options_are_refused(recipe, name, options, message):
    process = start(recipe.parent, *options, script=name)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    assert message in output


def test_help_lists_the_stages(recipe):
    for command, folder in (
        ["./run.sh", recipe],
        ["mini/run.sh", recipe.parent],
        [str(recipe / "run.sh"), "/"],
    ):
        found = subprocess.run(
            [command, "--help"], cwd=folder, capture_output=True, text=True, check=True
        )
        assert "stages: 1 data, 2 pack, 3 train" in found.stdout
        assert found.stdout.startswith("From nothing")


def test_librispeech_recipe_on_the_sample(recipe, sample, tmp_path):
    librispeech = recipe.parent / "librispeech"
    shutil.copytree(ROOT / "data", tmp_path / "data")
    (librispeech / "conf/tiny.yaml").write_text(TINY)
    labels = sample / "phones.ctm"
    options = (
        f"--corpus {sample} --labels {labels} --shift 1 --speaker-split time --frames 20000 --name"
        " tiny".split()
    )
    options += ["--conf", "conf/tiny.yaml", "--nproc", "2", "--parallel", "modules"]
    process = start(librispeech, *options, "--stop-stage", "4")
    output, _ = process.communicate(timeout=500)
    assert process.returncode == 0, output
    report, _ = start(librispeech, *options, "--stage", "6").communicate(timeout=100)
    assert "the table: recipes/librispeech/RESULTS.md" in report
    results = (librispeech / "RESULTS.md").read_text()
    row = next(line for line in results.splitlines() if line.startswith("| MFCC"))
    # The real frames, labels and split: no tiny model in this number.
    assert 46 < float(row.split("|")[2]) < 50
    assert "train_utterances 198" in results
    assert "test_utterances 53" in results
    assert "process 1 has module" in output


def test_librispeech_recipe_needs_nothing_but_the_corpus(recipe, spoken, tmp_path):
    """The layout and transcripts suffice; the phone labels are made on the way."""
    data = DataDir.read(spoken)
    shutil.copytree(ROOT / "data", tmp_path / "data")
    (tmp_path / "lists").mkdir()
    names = {"train": data.utterances[::2], "test": data.utterances[1::2]}
    for part, chosen in names.items():
        (tmp_path / f"lists/cpc_{part}.txt").write_text("\n".join(chosen))
    for name, speaker in data.speakers.items():
        chapter = tmp_path / "corpus/LibriSpeech/mine" / speaker / "1"
        chapter.mkdir(parents=True, exist_ok=True)
        soundfile.write(chapter / f"{name}.flac", *soundfile.read(data.recordings[name]))
        with (chapter / f"{speaker}-1.trans.txt").open("a") as file:
            file.write(f"{name} {data.text[name]}\n")
    librispeech = recipe.parent / "librispeech"
    (librispeech / "conf/tiny.yaml").write_text(TINY)
    options = (
        f"--corpus {tmp_path}/corpus --subset mine --lists {tmp_path}/lists --conf conf/tiny.yaml"
    )
    process = start(librispeech, *options.split())
    output, _ = process.communicate(timeout=500)
    assert process.returncode == 0, output
    for part, chosen in names.items():
        assert f"{len(chosen)} of {len(chosen)} utterances are aligned" in output
        assert list(read_ctm(librispeech / f"data/gim/packed/{part}/phones.ctm")) == chosen
    result = json.loads((librispeech / "exp/gim/results/mfcc/phones-strict.json").read_text())
    assert result["settings"]["shift"] == 0
    assert result["modules"][0]["accuracy"] > 2 * result["counts"]["majority"]
    tables = (librispeech / "RESULTS.md").read_text()
    assert "| features | verification EER % | units PNMI % |" in tables
    assert "ABX error between triphones, measured" in tables
