"""Runs of `gim-audio featurize`.

Several processes, killed and begun again, on a full disk, with wrong settings.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import make_data

from gim_audio.featurize import load_encoder


def many(folder, count=60):
    """Short files of many lengths, and a longer one."""
    generator = np.random.default_rng(1)
    lengths = {f"s-{i:03}": int(n) for i, n in enumerate(generator.integers(41, 9000, count))}
    return make_data(folder, lengths | {"s-long": 200_000})


def files(folder):
    return {
        path.name: path.read_bytes() for path in folder.iterdir() if path.name != "features.json"
    }


def test_the_same_bits_by_any_number_of_processes(small, tmp_path, run):
    data = many(tmp_path / "many")
    for nj in (1, 2):
        status, _, err = run("featurize", small, data.path, tmp_path / f"out-{nj}", "--nj", nj)
        assert (status, err.splitlines()[-1]) == (0, f"{tmp_path}/out-{nj}: 61 utterances")
    assert files(tmp_path / "out-1") == files(tmp_path / "out-2")


def test_killed_and_begun_again(small, tmp_path):
    """The archive is that of an undisturbed run, and nothing else is left.

    It does not matter when the run was killed.
    """
    data = many(tmp_path / "many", 300)
    command = [sys.executable, "-m", "gim_audio", "featurize", str(small), str(data.path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(
        [*command, f"ark,scp:{tmp_path}/a.ark,{tmp_path}/a.scp"], check=True, env=environment
    )
    output, work = f"ark,scp:{tmp_path}/b.ark,{tmp_path}/b.scp", tmp_path / ".b.ark.work"
    kills = 0
    for entries in (1, 30, 120):
        process = subprocess.Popen([*command, output], env=environment)
        while process.poll() is None:
            index = "".join(path.read_text() for path in work.glob("*.index"))
            if index.count("\n") >= entries:
                process.send_signal(signal.SIGKILL)
                kills += 1
                break
            time.sleep(0.005)
        process.wait()
    assert kills
    assert not (tmp_path / "b.ark").exists()
    finished = subprocess.run(
        [*command, output], check=True, env=environment, capture_output=True, text=True
    )
    assert "301 utterances" in finished.stderr
    assert (tmp_path / "b.ark").read_bytes() == (tmp_path / "a.ark").read_bytes()
    assert (tmp_path / "b.scp").read_text() == (tmp_path / "a.scp").read_text().replace(
        "a.ark", "b.ark"
    )
    assert not work.exists()


def test_nothing_is_done_twice_but_what_failed(small, tmp_path, run, monkeypatch):
    from gim_audio.featurize.encode import Worker

    data = many(tmp_path / "many", 5)
    bad = Path(data.recordings["s-003"])
    good = bad.read_bytes()
    bad.write_bytes(good[: len(good) // 2])

    def interrupted(output, description):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("gim_audio.featurize.outputs.folder.Folder.open", interrupted)
        assert run("featurize", small, data.path, tmp_path / "out")[0] == 130
    assert not (tmp_path / "out").exists()
    encoded, encode = [], Worker.run
    monkeypatch.setattr(
        Worker, "run", lambda self, job: (encoded.extend(job.data.utterances), encode(self, job))[1]
    )
    status, _, err = run("featurize", small, data.path, tmp_path / "out")
    assert (status, "1 of 6 utterances failed" in err) == (2, True)
    assert "s-003" in encoded
    assert len(encoded) < 6  # those of its batch alone


def test_killed_while_it_wrote(small, noise, tmp_path, run, monkeypatch):
    """An unfinished output of the same run is written again, to the same bytes."""
    from gim_audio.featurize.outputs.archive import Archive

    command = [
        "featurize",
        small,
        noise.path,
        f"ark,scp:{tmp_path}/m-MODULE.ark,{tmp_path}/m-MODULE.scp",
    ]
    modules = ["--module", 6, "--module", 4]
    assert run(*command, *modules)[0] == 0
    undisturbed = {
        path.name: path.read_bytes() for path in tmp_path.glob("m-*") if "json" not in path.name
    }
    for path in tmp_path.glob("m-*"):
        path.unlink()
    opened, original = [], Archive.open

    def killed(output, description):
        opened.append(output)
        if len(opened) == 2:
            raise KeyboardInterrupt
        return original(output, description)

    with monkeypatch.context() as patch:
        patch.setattr(Archive, "open", killed)
        assert run(*command, *modules)[0] == 130
    assert (tmp_path / "m-6.ark").exists()
    assert not (tmp_path / "m-4.ark").exists()
    # There is nothing left to encode.
    monkeypatch.setattr("gim_audio.featurize.encode.Worker.run", None)
    assert run(*command, *modules)[0] == 0
    assert {
        path.name: path.read_bytes() for path in tmp_path.glob("m-*") if "json" not in path.name
    } == undisturbed
    assert run(*command, *modules)[0] == 2


def test_an_utterance_is_entered_with_all_its_modules_or_not_at_all(
    small, noise, tmp_path, run, monkeypatch
):
    """An index that was cut at any byte loses whole utterances, which are done again."""

    def interrupted(output, description):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("gim_audio.featurize.outputs.folder.Folder.open", interrupted)
        run("featurize", small, noise.path, tmp_path / "o-MODULE", "--module", 6, "--module", 4)
    (index,) = tmp_path.glob(".*.work/shard-*.index")
    for kept in (1, index.stat().st_size // 2, index.stat().st_size - 1):
        index.write_bytes(index.read_bytes()[:kept])
    assert (
        run("featurize", small, noise.path, tmp_path / "o-MODULE", "--module", 6, "--module", 4)[0]
        == 0
    )
    for module in (4, 6):
        assert (
            sorted(path.stem for path in (tmp_path / f"o-{module}").glob("*.npy"))
            == noise.utterances
        )


def test_audio_that_has_changed_is_done_again(small, noise, corpus, tmp_path, run, monkeypatch):
    """The same holds in an archive, as in a packed corpus."""

    def interrupted(output, description):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("gim_audio.featurize.outputs.folder.Folder.open", interrupted)
        run("featurize", small, corpus.path, tmp_path / "out")
    archive = min(corpus.path.glob("*.ark"))
    whole = archive.read_bytes()
    begin = whole.index(b"data") + 8
    archive.write_bytes(whole[:begin] + bytes(1000) + whole[begin + 1000 :])
    os.utime(archive, (1, 1))
    assert run("featurize", small, corpus.path, tmp_path / "out")[0] == 0
    assert run("featurize", small, corpus.path, tmp_path / "anew")[0] == 0
    assert files(tmp_path / "out") == files(tmp_path / "anew")


def test_other_settings_begin_anew(small, noise, tmp_path, run, monkeypatch):
    def full(output, description):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("gim_audio.featurize.outputs.folder.Folder.open", full)
        status, _, err = run("featurize", small, noise.path, tmp_path / "out", "--module", 4)
    assert status == 2
    assert err.endswith(
        ".out.work: No space left on device: what is done is kept there, the same command goes on\n"
    )
    assert run("featurize", small, noise.path, tmp_path / "out", "--module", 6)[0] == 0
    assert np.load(tmp_path / "out/a-1.npy").shape[1] == 6


@pytest.mark.parametrize(
    ("output", "options", "size", "said"),
    [
        (
            "out",
            [],
            200_000,
            ".out.work: File too large: what is done is kept there, the same command goes on",
        ),
        ("out.h5", ["--pool", "mean"], 80_000, "out.h5: File too large; nothing was written there"),
    ],
    ids=["while it works", "while it writes"],
)
def test_a_full_disk_costs_nothing(small, tmp_path, output, options, size, said):
    """A process that may write no larger file stops with one line, and continues where it may."""
    data = many(tmp_path / "many", 300)
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({0}, {0}))"
    call = "from gim_audio.cli import main; main({})"
    arguments = ["featurize", str(small), str(data.path), str(tmp_path / output), *options]
    commands = [
        [sys.executable, "-c", f"{limit.format(most)}; {call.format(arguments)}"]
        for most in (size, -1)
    ]
    stopped, finished = (
        subprocess.run(each, capture_output=True, text=True, check=False) for each in commands
    )
    assert (stopped.returncode, stopped.stderr) == (2, f"gim-audio: {tmp_path}/{said}\n")
    assert (finished.returncode, "301 utterances" in finished.stderr) == (0, True)


def test_jobs_share_the_work(small, tmp_path, run):
    data = many(tmp_path / "many")
    for number in (1, 2, 3):
        assert (
            run("featurize", small, data.path, tmp_path / "part-JOB", "--job", f"{number}/3")[0]
            == 0
        )
    names = [
        path.stem for number in (1, 2, 3) for path in (tmp_path / f"part-{number}").glob("*.npy")
    ]
    assert sorted(names) == data.utterances


def test_segments(small, tmp_path, run):
    """Cut from one recording, which is decoded once."""
    data = make_data(tmp_path / "talk", {"talk-1": 160_000})
    (tmp_path / "talk/segments").write_text("t-1 talk-1 0.5 1.25\nt-2 talk-1 3.0 9.5\n")
    (tmp_path / "talk/utt2spk").write_text("t-1 t\nt-2 t\n")
    (tmp_path / "talk/spk2utt").write_text("t t-1 t-2\n")
    assert run("featurize", small, data.path, tmp_path / "out")[0] == 0
    whole, _ = soundfile.read(data.recordings["talk-1"], dtype="float32")
    encoder = load_encoder(str(small))
    for name, (start, end) in {"t-1": (8000, 20000), "t-2": (48000, 152000)}.items():
        (expected,) = encoder.encode_whole(whole[start:end], [6])
        np.testing.assert_allclose(
            np.load(tmp_path / f"out/{name}.npy"), expected, rtol=0, atol=1e-5
        )


def test_the_check_finds_what_is_wrong(small, noise, tmp_path, run, monkeypatch):
    def difference(err):
        return float(err.split("largest difference ")[1].split(",")[0])

    status, _, err = run("featurize", small, noise.path, tmp_path / "out", "--check", 3)
    assert (status, difference(err) <= 1e-5) == (0, True)
    append = "gim_audio.featurize.work.Shard.append"
    from gim_audio.featurize.work import Shard

    original = Shard.append
    monkeypatch.setattr(
        append, lambda *given: original(*given[:2], ([m + 1 for m in ms] for ms in given[2]))
    )
    assert (
        difference(run("featurize", small, noise.path, tmp_path / "wrong", "--check", 3)[2]) > 0.9
    )


def test_notes(small, tmp_path, run):
    data = make_data(tmp_path / "d", {"a-1": 8000, "a-2": 8000, "a-3": 8000})
    soundfile.write(data.recordings["a-1"], np.zeros(8000), 16000)
    soundfile.write(data.recordings["a-2"], np.clip(2 * np.sin(np.arange(8000) / 20), -1, 1), 16000)
    status, _, err = run("featurize", small, data.path, tmp_path / "out")
    assert status == 0
    assert [line for line in err.splitlines() if line.startswith("note")] == [
        "note: a-1 is silent: every sample is zero",
        "note: a-2 is clipped: 66.6% of the samples are at full scale",
    ]


def test_absurd_samples_fail_alone(small, tmp_path, run):
    """A batch and a long file of its own agree."""
    data = make_data(tmp_path / "d", {"a-1": 8000, "a-2": 8000, "a-3": 200_000})
    for name in ("a-2", "a-3"):
        samples = np.full(soundfile.info(data.recordings[name]).frames, 3e38, np.float32)
        soundfile.write(data.recordings[name], samples, 16000, subtype="FLOAT")
    status, _, err = run("featurize", small, data.path, tmp_path / "out")
    assert status == 2
    for name in ("a-2", "a-3"):
        assert f"{data.recordings[name]}: has samples up to 3e+38" in err
    assert [file.name for file in (tmp_path / "out").glob("*.npy")] == ["a-1.npy"]


def test_wrong_settings(small, noise, tmp_path, run):
    many_modules = ["--module", 1, "--module", 2]
    for arguments, message in [
        (["o", "--pool", "median"], "pool median: expected mean, mean+std, stack:K or subsample:K"),
        (["o", "--pool", "stack:1"], "with K from 2 to 9999"),
        (["o", *many_modules], "put MODULE into the name"),
        (["ark:o", "--dtype", "float16"], "Kaldi has no float16"),
        (["o", "--compress"], "--compress is Kaldi's"),
        (["ark,t:o", "--compress"], "text is not compressed"),
        (["ark,scp:-,x"], "standard output has no script file"),
        (["o", "--job", "4"], "4 is not of the form 3/16"),
        (["o", "--job", "4/3"], "4/3: jobs are numbered from 1/3 to 3/3"),
        (["o", "--job", "1/3"], "put JOB into OUTPUT"),
        (["o-JOB", "--job", "8/9"], "there are 7 recordings: take fewer jobs"),
        (["ark,scp:o-MODULE.ark,{}/o.scp", *many_modules], "o.scp would be written 2 times"),
        (["ark,scp:o.ark,{}/o.ark"], "o.ark would be written 2 times"),
        (["o.npy"], "name a folder, ark:FILE"),
        (["o.h5", "--format", "pt"], "--format pt is of the files in a folder"),
        (["scp,ark:o.scp,o.ark"], "expected ark,scp:FILE.ark,FILE.scp"),
        (["o", "--pcm", "8000"], "is for INPUT -"),
    ]:
        output = arguments[0].replace(":o", f":{tmp_path}/o").format(tmp_path)
        output = output if ":" in output else tmp_path / output
        status, _, err = run("featurize", small, noise.path, output, *arguments[1:])
        assert (status, message in err) == (2, True), err
    assert not list(tmp_path.glob("o*"))
