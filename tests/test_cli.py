import re
import shlex
import shutil
import subprocess
import sys

import click
import pytest
import torch
from conftest import ROOT, TINY, make_data
from test_published import Published

import gim_audio
from gim_audio.cli import cli
from gim_audio.kaldi import DataDir


def commands(group=cli, path=("gim-audio",)):
    """Every command with the words that call it."""
    for name in group.list_commands(None):
        command = group.get_command(None, name)
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


def examples():
    for words, command in commands():
        found = re.findall(r"Example: (gim-audio .*?)(?=\s{4}Example:|$)", command.epilog or "")
        assert found, f"{' '.join(words)} has no example"
        for example in found:
            assert tuple(shlex.split(example)[: len(words)]) == words
            yield shlex.split(example)


def test_every_command_has_help_and_stands_in_the_readme(run):
    readme = (ROOT / "README.md").read_text()
    for words, _ in commands():
        status, out, _ = run(*words[1:], "--help")
        assert status == 0
        assert "Example" in out
        assert " ".join(words) in readme


@pytest.mark.parametrize("example", list(examples()), ids=" ".join)
def test_the_examples_work(example, tmp_path, monkeypatch, run, corpus, tiny, spoken):
    """Run each one in a folder that has what it names."""
    if "--download" in example:
        pytest.skip("needs the internet; test_librispeech downloads from a server of its own")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf.yaml").write_text(TINY)
    labels = [f"{name} 1 0.0 0.1 ah\n{name} 1 0.1 0.1 iy\n" for name in corpus.utterances]
    for name in ("first", "second"):
        make_data(tmp_path / "data" / name, {f"{name}-0": 4000})
    for name in ("data/all", "data/train", "data/test"):
        make_data(tmp_path / name, dict.fromkeys(corpus.utterances, 8000))
        (tmp_path / name / "phones.ctm").write_text("".join(labels))
    (tmp_path / "converted_aligned_phones.txt").write_text(
        "".join(f"{n} 1 1 2 2\n" for n in corpus.utterances)
    )
    (tmp_path / "speech.flac").write_bytes((tmp_path / "data/all/a-1.wav").read_bytes())
    for name in ("train", "test", "toy"):
        run("pack", tmp_path / "data/all", tmp_path / "packed" / name)
    run("train", "conf.yaml", "--data", "packed/train", "--out", "exp/gim")
    if example[1:3] == ["data", "split"] or example[1] == "pack":
        for target in ("data/train", "data/test", "packed/train"):
            if target in example[3:] and example[2] != target:
                shutil.rmtree(target)
    if example[1:3] == ["data", "align"]:
        shutil.rmtree("data/train")
        said = DataDir.read(spoken)
        said.select(said.utterances[:2]).write(tmp_path / "data/train")
    if example[1] in {"abx", "draw"}:
        shutil.rmtree("packed/test")
        shutil.copytree(spoken, "packed/test")
    for name in ("truth.ctm", "aligned.ctm"):
        (tmp_path / name).write_text("".join(labels))
    if example[1] == "import":
        (tmp_path / "logs/audio_experiment").mkdir(parents=True)
        torch.save(Published(6).state_dict(), "logs/audio_experiment/model_299.ckpt")
    if example[1] == "train":
        example = [word.replace("training.steps=500", "training.steps=3") for word in example]
    if example[1:3] == ["data", "synthetic"]:
        example = [word.replace("0.5", "0.01") for word in example]
    status, _, err = run(*example[1:])
    assert status == 0, err


def test_help_imports_nothing_heavy():
    """Importing little keeps it under a third of a second."""
    code = (
        "import sys\nfrom gim_audio.cli import main\nmain(['--help'])\nprint({'torch', 'numpy'} &"
        " set(sys.modules))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout
    assert "featurize" in found
    assert found.splitlines()[-1] == "set()"


def test_wrong_usage_is_status_2(run):
    for arguments in (
        ["nothing"],
        ["train"],
        ["featurize", "random"],
        ["data", "synthetic", "x"],
        ["pack", "a", "b", "--nj", "0"],
    ):
        status, _, err = run(*arguments)
        assert status == 2
        assert "Traceback" not in err
    assert run("--version")[0] == 0


def test_a_data_directory_is_checked_and_mended(noise, run):
    path = noise.path / "utt2spk"
    path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))
    status, out, err = run("data", "check", noise.path)
    assert status == 2
    assert "not sorted" in out
    assert "--fix" in err
    for command in (["pack", noise.path, "p"], ["featurize", "mfcc", noise.path, "o"]):
        status, _, err = run(*command)
        assert (status, "not sorted" in err, len(err.strip().splitlines())) == (2, True, 1)
    status, _, err = run("data", "check", noise.path, "--fix")
    assert (status, "kept 7 of 7" in err, "nothing wrong" in err) == (0, True, True)


def test_bad_configurations_cost_nothing(corpus, tmp_path, run):
    conf = tmp_path / "tiny.yaml"
    conf.write_text(TINY)
    for override, message in [
        ("training.stepz=3", "training.stepz: unknown key"),
        (
            "data.crop=400000",
            "are shorter than data.crop=400000 (25.00 s): data.crop=4960 would use 94%",
        ),
        ("training.device=cuda:99", "device cuda:99 cannot be used here"),
    ]:
        status, _, err = run(
            "train", conf, override, "--data", corpus.path, "--out", tmp_path / "e"
        )
        assert (status, message in err, len(err.strip().splitlines())) == (2, True, 1)
        assert not (tmp_path / "e").exists()
    status, _, err = run("train", conf, "--data", tmp_path, "--out", tmp_path / "e")
    assert (status, "not a packed corpus" in err) == (2, True)


def test_public_names_are_all_there():
    for name in gim_audio.__all__:
        assert getattr(gim_audio, name) is not None
    with pytest.raises(AttributeError):
        _ = gim_audio.nothing


def test_ctrl_c_is_quiet(monkeypatch, run):
    import gim_audio.cli as command_line

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(command_line.cli, "main", interrupted)
    assert run("data", "check", "x") == (130, "", "gim-audio: stopped\n")
