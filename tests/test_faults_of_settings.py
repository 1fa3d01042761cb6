"""Settings, arguments and names that cannot be: one line and status 2, before any work."""

import pytest

from gim_audio import config
from gim_audio.errors import ConfigError
from gim_audio.featurize.target import numbered

BOM = "\ufeff"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "training: {steps: 3}\nmodel: {channels: 16}\ntraining: {batch: 2}\n",
            "training stands twice, in lines 1 and 3",
        ),
        ("training: {steps: 3, steps: 4}\n", "steps stands twice, in line 1"),
        ("a: &a [1]\nmodel: {kernels: *a}\n", "aliases are not taken"),
        ("[" * 3000, "brackets lie too deep"),
        (f"training: {{steps: {'9' * 5000}}}\n", "not YAML"),
        ("training: {steps: 99999999999999999999}\n", "training.steps: "),
        (f"training: {{steps: {'x' * 100_000}}}\n", "training.steps: "),
        ("x" * 2_000_000, "not YAML"),
    ],
)
def test_configurations_that_cannot_be(tmp_path, text, message):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"c\.yaml") as error:
        config.load(tmp_path / "c.yaml")
    assert message in str(error.value)
    assert len(str(error.value)) < 600


BIG = "99999999999999999999"


@pytest.mark.parametrize(
    "arguments",
    [
        ["probe", "slowness", "fbank", "--module", "²"],
        ["probe", "slowness", "fbank", "--module", "9" * 5000],
        ["probe", "slowness", "fbank", "--stack", BIG],
        ["probe", "units", "fbank", "--units", BIG],
        ["probe", "units", "fbank", "--seed", BIG],
        ["probe", "units", "fbank", "--shift", BIG],
        ["featurize", "fbank", "DATA", "OUT", "--pool", f"stack:{BIG}"],
        ["featurize", "fbank", "DATA", "OUT", "--nj", BIG],
        ["featurize", "fbank", "DATA", "OUT", "--module", BIG],
        ["featurize", "fbank", "DATA", "OUT/JOB", "--job", f"{BIG}/{BIG}"],
        ["featurize", "fbank", "-", "OUT", "--pcm", "4000000000"],
        ["data", "split", "DATA", "OUT", "OUT2", "--by", "speakers", "--share", "nan"],
        ["data", "split", "DATA", "OUT", "OUT", "--by", "speakers"],
        ["data", "synthetic", "OUT", "--hours", "nan", "--speakers", "1"],
        ["data", "synthetic", "OUT", "--hours", "inf", "--speakers", "1"],
        ["data", "synthetic", "OUT", "--hours", "1", "--speakers", BIG],
        ["pack", "DATA", "OUT", "--rate", "2000000000"],
        ["pack", "DATA", "OUT", "--nj", "1", "--nj", "2"],
        ["export", "gim-small", "OUT.onnx", "--module", "4", "--module", "6"],
        ["report", "DATA", "--out", "DATA/wav.scp"],
        ["report", "DATA", "--out", "r.html", "--markdown", "DATA/wav.scp"],
        ["report", "DATA", "--out", "r.html", "--markdown", "r.html"],
        ["pack", "DATA", "OUT\udcff"],
        ["featurize", "fbank", "DATA", "OUT\udcff.h5"],
        ["data", "synthetic", "OUT\udcff", "--hours", "1", "--speakers", "1"],
        ["info", "OUT\udcff"],
    ],
    ids=lambda arguments: " ".join(arguments)[:60].encode(errors="backslashreplace").decode(),
)
def test_arguments_that_cannot_be(noise, tmp_path, run, arguments):
    """One line and status 2 before any work, and nothing is written."""
    before = (noise.path / "wav.scp").read_bytes()
    if arguments[0] == "probe":
        arguments = [*arguments, "--train", "DATA", "--test", "DATA", "--out", "OUT"]
    given = [
        a.replace("DATA", str(noise.path)).replace("OUT", str(tmp_path / "new/out"))
        for a in arguments
    ]
    status, out, err = run(*given)
    assert (status, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert err.startswith("gim-audio: ")
    assert len(err) < 700
    assert not (tmp_path / "new").exists()
    assert (noise.path / "wav.scp").read_bytes() == before


def test_a_word_in_a_name_is_no_place_for_a_number(noise, tmp_path, run):
    """MODULE is one where modules are asked for, and JOB where jobs are.

    The line names what was written.
    """
    assert numbered("a/MODULES_v2-MODULE-JOB", "MODULE", 3) == "a/MODULES_v2-3-JOB"
    status, _, err = run("featurize", "fbank", noise.path, tmp_path / "MODULE")
    assert (status, f"{tmp_path}/MODULE: 7 utterances" in err) == (0, True)
    status, _, err = run("featurize", "fbank", noise.path, tmp_path / "m-MODULE", "--module", 1)
    assert (status, f"{tmp_path}/m-1: 7 utterances" in err) == (0, True)
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} >= {"MODULE", "m-1"}
    status, _, err = run("featurize", "fbank", noise.path, tmp_path / "JOBS", "--job", "1/2")
    assert (status, "put JOB into OUTPUT" in err) == (2, True)
