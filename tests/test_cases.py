"""Reports of faults, each as it was met: the right value, or one line that names the file and the remedy."""

import errno
import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch
from conftest import TINY, make_data
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import gim_audio
from gim_audio import config, files
from gim_audio.abx.items import read_items
from gim_audio.alignment.aligner import words_of
from gim_audio.errors import ConfigError, DataError, GimAudioError, is_out_of_memory
from gim_audio.featurize.run import numbered
from gim_audio.kaldi import DataDir, check, fix, read_scp, split
from gim_audio.model.checkpoint import load_model, resolve
from gim_audio.packed import PackedCorpus
from gim_audio.phones import PHONES, read_alignments, read_ctm
from gim_audio.workers import each

BOM = "\ufeff"


def named(data, tables):
    """Write tables of a data directory anew, each after a byte order mark."""
    for name in tables:
        (data.path / name).write_text(BOM + (data.path / name).read_text())


# --- text ------------------------------------------------------------------------------------------------------------


def test_a_byte_order_mark_is_no_letter(noise, tmp_path, run):
    """Windows writes one before UTF-8; the first name of a table is not another for it."""
    named(noise, ["wav.scp", "utt2spk", "spk2utt"])
    assert check(noise.path) == []
    assert DataDir.read(noise.path).utterances == noise.utterances
    (tmp_path / "x.ctm").write_text(f"{BOM}a-1 1 0.0 0.2 AH0\n")
    (tmp_path / "x.txt").write_text(f"{BOM}a-1 0 0 1 1\n")
    (tmp_path / "x.yaml").write_text(f"{BOM}training: {{steps: 7}}\n")
    (tmp_path / "x.scp").write_text(f"{BOM}a-1 {noise.recordings['a-1']}\n")
    assert list(read_alignments(tmp_path / "x.ctm")) == list(read_alignments(tmp_path / "x.txt")) == ["a-1"]
    assert config.load(tmp_path / "x.yaml").training.steps == 7
    assert read_scp(tmp_path / "x.scp").utterances == ["a-1"]
    assert run("featurize", "fbank", f"scp:{tmp_path}/x.scp", tmp_path / "out")[0] == 0
    assert (tmp_path / "out/a-1.npy").exists()


@pytest.mark.parametrize("name", ["wav.scp", "utt2spk", "text", "segments", "phones.ctm"])
def test_what_is_not_text_is_named_with_its_line(noise, tmp_path, run, name):
    lines = [f"{utterance} x 1 2\n".encode() for utterance in noise.utterances]
    (noise.path / name).write_bytes(b"".join([*lines[:2], b"b-1 caf\xe9\n", *lines[3:]]))
    command = ["data", "check", noise.path]
    if name == "phones.ctm":
        command = ["data", "agreement", noise.path / name, noise.path / name]
    status, out, err = run(*command)
    assert status == 2
    assert f"{noise.path}/{name}, line 3: not UTF-8 text" in out + err


def test_the_end_of_a_segment_is_that_of_the_recording(noise, tmp_path, run):
    """Kaldi's extract-segments takes -1 so."""
    data = DataDir.read(noise.path)
    segments = "".join(f"{name} {name} 0.1 {'-1' if name == 'a-2' else '0.2'}\n" for name in data.utterances)
    (noise.path / "segments").write_text(segments)
    assert check(noise.path) == []
    fix(noise.path)
    assert "a-2 a-2 0.100000 -1\n" in (noise.path / "segments").read_text()
    samples = dict(DataDir.read(noise.path).waveforms(16000))
    assert {name: len(wave) for name, wave in samples.items()}["a-2"] == 16000 - 1600
    first, rest = split(DataDir.read(noise.path), "time", 0.5)
    lengths = {name: len(wave) for part in (first, rest) for name, wave in part.waveforms(16000)}
    assert lengths["a-2-a"] + lengths["a-2-b"] == 16000 - 1600
    rest.write(tmp_path / "rest")
    assert DataDir.read(tmp_path / "rest").segments == rest.segments
    assert run("featurize", "fbank", noise.path, tmp_path / "out")[0] == 0


@pytest.mark.parametrize("start", ["nan", "inf", "-0.5", "1e9"])
def test_times_that_are_none(noise, tmp_path, start):
    (tmp_path / "x.ctm").write_text(f"a-1 1 0.0 0.1 AH0\na-1 1 {start} 0.1 T\n")
    with pytest.raises(DataError, match=rf"x\.ctm, line 2: from {start} s for 0\.1 s"):
        read_ctm(tmp_path / "x.ctm")
    (tmp_path / "x.item").write_text(f"#file onset\na-1 {start} 0.2 ah b d a\n")
    with pytest.raises(DataError, match=r"x\.item, line 2"):
        read_items(tmp_path / "x.item")
    (noise.path / "segments").write_text(f"u a-1 {start} 0.2\n")
    (noise.path / "utt2spk").write_text("u a\n")
    (noise.path / "spk2utt").write_text("a u\n")
    assert any("segments" in problem for problem in check(noise.path))


def test_numbers_are_no_phones(tmp_path):
    """Kaldi's alignments have integers until int2sym.pl names them; stress marks are no phones by themselves."""
    for name in ("1", "2", "10", "-3"):
        (tmp_path / "x.ctm").write_text(f"a-1 1 0.0 0.5 {name}\n")
        with pytest.raises(DataError, match=r"line 1: phone .* is a number: `utils/int2sym\.pl"):
            read_ctm(tmp_path / "x.ctm")
    (tmp_path / "x.txt").write_text("u0 0 1 1 2 2 -3\n")
    with pytest.raises(DataError, match="numbers from 0 to 40"):
        read_alignments(tmp_path / "x.txt")
    (tmp_path / "x.txt").write_text("u0 0 1 1 2\nu1 0 1\n")
    assert [PHONES[label] for label in read_alignments(tmp_path / "x.txt")["u0"].labels] == ["SIL", "SPN", "aa"]


def test_comments_and_empty_lines(tmp_path):
    (tmp_path / "x.ctm").write_text(";; NIST CTM\n\na-1 1 0.0 0.5 SIL\n  \na-1 1 0.5 0.5 HH\n\n")
    assert read_alignments(tmp_path / "x.ctm")["a-1"].labels.tolist() == [0, PHONES.index("hh")]
    (tmp_path / "x.item").write_text("#file\n\n;; x\na-1 0.1 0.2 ah b d a\n\n")
    assert len(read_items(tmp_path / "x.item")) == 1
    (tmp_path / "x.item").write_text("a-1 0.1 0.2 ah b d a\nb-1 0.1 0.2 ah b d b\n")  # without a heading
    assert len(read_items(tmp_path / "x.item")) == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("DON'T WORRY", ["don't", "worry"]),
        ("DON\u02bcT DON\u2019T DON`T DON\u00b4T", ["don't"] * 4),
        ("A <UNK> DOG", ["a", "+SPN+", "dog"]),
        ("[LAUGHTER] WELL {BREATH} <SPOKEN_NOISE>", ["+SPN+", "well", "+SPN+", "+SPN+"]),
        ("!SIL HELLO <sil> THERE [pause] </s>", ["hello", "there"]),
        ("WELL! HELLO", ["well", "hello"]),
        ("5 < 6 AND 7 > 3", ["5", "6", "and", "7", "3"]),
    ],
)
def test_markup_is_not_spoken(text, words):
    assert words_of(text) == words


def test_a_speaker_has_one_word(noise, run):
    """spk2utt cannot say a name with a space in it, and --fix cannot mend it."""
    speakers = "".join(f"{name} {'Ann Lee' if name == 'b-1' else 'x'}\n" for name in noise.utterances)
    (noise.path / "utt2spk").write_text(speakers)
    for arguments in (["data", "check", noise.path, "--fix"], ["pack", noise.path, noise.path / "p"]):
        status, _, err = run(*arguments)
        message = "utt2spk, line 3: `Ann Lee`: a name of a speaker with a space in it: write `Ann_Lee`"
        assert (status, message in err) == (2, True)


def test_hidden_files_of_a_mac_are_not_speech(tmp_path, run):
    chapter = tmp_path / "LibriSpeech/dev/84/121"
    chapter.mkdir(parents=True)
    soundfile.write(chapter / "84-121-0000.flac", np.zeros(1000), 16000)
    (chapter / "84-121.trans.txt").write_text("84-121-0000 HELLO\n")
    for name in ("._84-121-0000.flac", "._84-121.trans.txt"):
        (chapter / name).write_bytes(b"\0\5\26\7\xff")
    status, _, err = run("data", "librispeech", tmp_path, tmp_path / "data", "--subset", "dev")
    assert (status, "1 utterances, 1 speakers" in err) == (0, True), err
    (chapter / "84-121.trans.txt").write_bytes(b"84-121-0000 CAF\xc9\n")
    status, _, err = run("data", "librispeech", tmp_path, tmp_path / "other", "--subset", "dev")
    assert (status, "84-121.trans.txt, line 1: not UTF-8 text" in err) == (2, True)


def test_a_long_list_is_searched_once(tmp_path):
    """It took minutes."""
    lines = [f"utt{number:06d} /x/{number}.wav\n" for number in range(100_000)]
    (tmp_path / "long.scp").write_text("".join([*lines, lines[-1]]))
    with pytest.raises(DataError, match="the name utt099999 stands twice"):
        read_scp(tmp_path / "long.scp")


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=80)
NUMBER = st.one_of(st.floats().map(str), st.integers().map(str), st.sampled_from(["", "x", "1e999", "-1", "0.1"]))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(TEXT, NUMBER, NUMBER, st.sampled_from([*PHONES, "1", "AH0", "sil_S", "?"]))))
def test_any_alignment_is_read_or_refused(tmp_path, lines):
    """What is read has times in order and known phones; the rest is refused by a line that names the file."""
    path = tmp_path / "x.ctm"
    path.write_text("\n".join(f"{name} 1 {start} {length} {phone}" for name, start, length, phone in lines))
    for reader in (read_ctm, read_alignments):
        try:
            found = reader(path)
        except DataError as error:
            if str(path) in str(error):
                continue
            raise
        for alignment in found.values():
            assert (alignment.starts >= 0).all()
            assert (alignment.ends > alignment.starts).all()
            assert np.isfinite(alignment.ends).all()
            assert set(alignment.labels.tolist()) <= set(range(len(PHONES)))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.recursive(st.one_of(TEXT, st.floats(), st.integers(), st.none()), lambda x: st.dictionaries(TEXT, x)))
def test_any_configuration_is_read_or_refused(tmp_path, value):
    import yaml

    (tmp_path / "c.yaml").write_text(yaml.safe_dump({"training": value, "model": {"mean": value}}, allow_unicode=True))
    try:
        config.load(tmp_path / "c.yaml")
    except ConfigError as error:
        if not str(error).startswith(f"{tmp_path}/c.yaml: ") or len(str(error)) > 1500:
            raise


# --- settings --------------------------------------------------------------------------------------------------------


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
    given = [a.replace("DATA", str(noise.path)).replace("OUT", str(tmp_path / "new/out")) for a in arguments]
    status, out, err = run(*given)
    assert (status, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert err.startswith("gim-audio: ")
    assert len(err) < 700
    assert not (tmp_path / "new").exists()
    assert (noise.path / "wav.scp").read_bytes() == before


def test_a_word_in_a_name_is_no_place_for_a_number(noise, tmp_path, run):
    """MODULE is one where modules are asked for, and JOB where jobs are; the line names what was written."""
    assert numbered("a/MODULES_v2-MODULE-JOB", "MODULE", 3) == "a/MODULES_v2-3-JOB"
    status, _, err = run("featurize", "fbank", noise.path, tmp_path / "MODULE")
    assert (status, f"{tmp_path}/MODULE: 7 utterances" in err) == (0, True)
    status, _, err = run("featurize", "fbank", noise.path, tmp_path / "m-MODULE", "--module", 1)
    assert (status, f"{tmp_path}/m-1: 7 utterances" in err) == (0, True)
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} >= {"MODULE", "m-1"}
    status, _, err = run("featurize", "fbank", noise.path, tmp_path / "JOBS", "--job", "1/2")
    assert (status, "put JOB into OUTPUT" in err) == (2, True)


# --- places ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def trained(corpus, tmp_path, run):
    """The arguments of a training, and its experiment after six steps."""
    (tmp_path / "c.yaml").write_text(TINY)
    arguments = ["train", tmp_path / "c.yaml", "--data", corpus.path, "--out", tmp_path / "e"]
    assert run(*arguments)[0] == 0
    return arguments, tmp_path / "e"


def lacking(monkeypatch, module, function, code):
    def refuse(*_, **__):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(module, function, refuse)


@pytest.mark.parametrize(
    ("module", "function", "code", "note"),
    [
        (files.fcntl, "flock", errno.ENOLCK, "the file system has no locks"),
        (files.Path, "symlink_to", errno.EPERM, "the file system has no links"),
        (files.Path, "chmod", errno.EPERM, ""),
        (files.os, "fsync", errno.EINVAL, ""),
    ],
    ids=["flock", "symlink", "chmod", "fsync"],
)
def test_file_systems_that_lack_something(corpus, noise, tmp_path, run, monkeypatch, module, function, code, note):
    """Networks and removable disks lack locks, links, modes or a flush: the work goes on."""
    lacking(monkeypatch, module, function, code)
    files._note.cache_clear()
    (tmp_path / "c.yaml").write_text(TINY)
    arguments = ["train", tmp_path / "c.yaml", "--data", corpus.path, "--out", tmp_path / "e"]
    status, _, err = run(*arguments)
    assert (status, note in err) == (0, True), err
    status, _, err = run(*arguments, "training.steps=8", "--resume")
    assert (status, "resuming" in err) == (0, True), err
    assert resolve(tmp_path / "e/latest").resolve() == resolve(tmp_path / "e")
    assert load_model(tmp_path / "e/latest")[0].training.steps == 8
    assert run("featurize", tmp_path / "e", noise.path, tmp_path / "out")[0] == 0
    assert not (tmp_path / "e/.locked").exists()


def test_a_lock_by_name_keeps_others_out(tmp_path, monkeypatch):
    lacking(monkeypatch, files.fcntl, "flock", errno.ENOLCK)
    with files.lock(tmp_path / "e"):
        with (
            pytest.raises(GimAudioError, match=r"is at work there; if it is not, remove .*\.locked"),
            files.lock(tmp_path / "e"),
        ):
            pass
        assert (tmp_path / "e/.locked").exists()
    (tmp_path / "e/.locked").write_text(f"process 999999999 of {socket.gethostname()}\n")  # killed
    with files.lock(tmp_path / "e"):
        pass


def test_an_error_of_writing_is_still_one(tmp_path, monkeypatch):
    lacking(monkeypatch, files.os, "fsync", errno.EIO)
    with pytest.raises(GimAudioError, match="Input/output error"):
        files.write_text(tmp_path / "x", "y")


def test_a_damaged_journal_stops_nothing(trained, run):
    """Checkpoints are whole without it; checksums come before settings."""
    arguments, experiment = trained
    (experiment / "provenance.json").write_text("")
    lines = (experiment / "metrics.jsonl").read_text().splitlines(keepends=True)
    (experiment / "metrics.jsonl").write_text("".join([lines[0], '{"step": 2, "loss": [1.0, }\n', "[]\n", *lines[2:]]))
    status, _, err = run(*arguments, "training.steps=7", "--resume")
    assert (status, "trained: " in err) == (0, True), err
    kept = [json.loads(line)["step"] for line in (experiment / "metrics.jsonl").read_text().splitlines()]
    assert kept == [1, 3, 4, 5, 6, 7]
    assert run("report", experiment, "--out", experiment / "report.html")[0] == 0
    assert len(json.loads((experiment / "provenance.json").read_text())) == 1
    (experiment / "step-000007/config.yaml").write_text("")
    status, _, err = run(*arguments, "training.steps=9", "--resume")
    assert (status, "step-000007/config.yaml: damaged" in err, "go on from" in err) == (2, True, True)


@pytest.mark.parametrize("name", ["metrics.jsonl", "provenance.json", "config.yaml"])
def test_a_damaged_file_is_not_reported(trained, tmp_path, run, name):
    (trained[1] / name).write_text('{"step": "x"}\n')
    status, _, err = run("report", trained[1], "--out", tmp_path / "r.html")
    assert (status, f"{trained[1]}/{name}: damaged" in err) == (2, True), err


def test_memory_that_is_not_enough(trained, run, monkeypatch):
    """It names the last good checkpoint and what to make smaller."""
    arguments, experiment = trained

    def refuse(*_, **__):
        raise RuntimeError(
            "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried …"
        )

    monkeypatch.setattr("gim_audio.training.step.Step.__call__", refuse)
    status, _, err = run(*arguments, "training.steps=9", "--resume")
    message = (
        f"smaller training.batch or data.crop: training stops; the last good checkpoint is {experiment}/step-000006"
    )
    assert (status, message in err) == (2, True), err
    assert not is_out_of_memory(RuntimeError("size mismatch"))
    assert is_out_of_memory(MemoryError())


def test_a_model_that_is_too_large(corpus, tmp_path, run):
    (tmp_path / "c.yaml").write_text(TINY)
    status, _, err = run(
        "train", tmp_path / "c.yaml", "model.context.hidden=2000000000", "--data", corpus.path, "--out", tmp_path / "e"
    )
    assert (status, "the memory is not enough" in err, len(err.splitlines())) == (2, True, 1), err


@pytest.mark.parametrize("missing", ["RANK", "port"])
def test_processes_that_cannot_meet(corpus, tmp_path, missing):
    (tmp_path / "c.yaml").write_text(TINY)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        world = {"WORLD_SIZE": "1", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(taken.getsockname()[1])}
        world.pop(missing, None)
        arguments = ["train", tmp_path / "c.yaml", "training.parallel=data", "training.device=cpu"]
        done = subprocess.run(
            [sys.executable, "-m", "gim_audio", *map(str, arguments), "--data", corpus.path, "--out", tmp_path / "e"],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            env=os.environ | {"OMP_NUM_THREADS": "1"} | world,
        )
    lines = [line for line in done.stderr.splitlines() if line.startswith("gim-audio")]
    assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr
    assert "the processes cannot meet" in lines[-1]


# --- what surprised --------------------------------------------------------------------------------------------------


def test_one_process_is_this_one(noise, tmp_path):
    """A plain script without a guard of its main part packs: it started itself again and again."""
    (tmp_path / "script.py").write_text(
        f"import gim_audio\ngim_audio.pack(gim_audio.DataDir.read({str(noise.path)!r}), {str(tmp_path / 'p')!r})\n"
        f"print(len(gim_audio.PackedCorpus({str(tmp_path / 'p')!r})))\n"
    )
    done = subprocess.run(
        [sys.executable, tmp_path / "script.py"], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, "7\n"), done.stderr
    assert list(each(divmod, [(7, 2), (9, 4)], 1)) == [((7, 2), (3, 1)), ((9, 4), (2, 1))]


def test_a_packed_corpus_is_moved(corpus, tmp_path, run):
    """Its archives are those beside wav.scp, wherever it was packed."""
    before = dict(DataDir.read(corpus.path).waveforms(16000))
    moved = corpus.path.rename(tmp_path / "elsewhere")
    for name, wave in DataDir.read(moved).waveforms(16000):
        np.testing.assert_array_equal(wave, before[name])
    assert run("featurize", "fbank", moved, tmp_path / "out")[0] == 0
    first, _ = split(DataDir.read(moved), "speakers", 0.5)
    first.write(tmp_path / "first")
    assert run("pack", tmp_path / "first", tmp_path / "again")[0] == 0


def test_paths_may_be_strings(corpus, trained, tmp_path):
    assert load_model(str(trained[1]))[0] == config.load(str(trained[1] / "step-000006/config.yaml"))
    assert len(PackedCorpus(str(corpus.path))) == 7
    assert len(gim_audio.audio.read(str(tmp_path / "noise/a-1.wav"), 16000)) == 9000


def test_public_names_are_listed():
    assert set(gim_audio.__all__) <= set(dir(gim_audio))


def test_statistics_take_no_memory_of_a_long_recording(tmp_path, monkeypatch):
    from gim_audio.packed import corpus as module
    from gim_audio.packed import pack

    pack(make_data(tmp_path / "d", {"a-1": 30_000, "a-2": 1000}), tmp_path / "p")
    corpus = PackedCorpus(tmp_path / "p")
    pcm = np.concatenate([corpus.read(0), corpus.read(1)]) / 32768
    monkeypatch.setattr(module, "BLOCK", 700)
    monkeypatch.setattr(PackedCorpus, "read", None)
    assert corpus.statistics() == pytest.approx((pcm.mean(), pcm.std()))


def test_info_counts_what_is_there(run):
    status, out, _ = run("info", "gim-small")
    weights = load_for(gim_audio.load("gim-small"))
    assert (status, f"{weights:,} parameters. It was exported for features" in out) == (0, True)


def load_for(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("suffix", ["parquet", "arrow", "h5"])
def test_what_is_told_of_features_is_json(noise, tmp_path, run, suffix):
    file = tmp_path / f"f.{suffix}"
    assert run("featurize", "fbank", noise.path, file)[0] == 0
    if suffix == "h5":
        import h5py

        with h5py.File(file) as opened:
            told = dict(opened.attrs)
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        schema = pq.read_schema(file) if suffix == "parquet" else pa.ipc.open_file(file).schema
        told = {key.decode(): value.decode() for key, value in schema.metadata.items()}
    assert json.loads(told["recordings_by_rate"]) == {"16000": 7}
    assert json.loads(told["hop_samples"]) == 160
    assert told["model"] == "fbank"


def test_drawings_do_without_phones(tmp_path, run):
    data = make_data(tmp_path / "d", {f"{speaker}-1": 40_000 for speaker in "abcdef"})
    assert run("draw", "mfcc", data.path, "--out", tmp_path / "figures")[0] == 0
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == ["map.png", "utterance.png"]


def test_a_part_keeps_its_own_labels(tmp_path, run):
    """A CTM may hold more than its data directory: the other's labels are not overwritten by them."""
    for part, phone in (("a", "ah"), ("b", "iy")):
        data = make_data(tmp_path / part, {f"{part}-1": 8000})
        (data.path / "phones.ctm").write_text("".join(f"{name} 1 0.0 0.4 {phone}\n" for name in ("a-1", "b-1")))
    assert run("data", "combine", tmp_path / "both", tmp_path / "a", tmp_path / "b")[0] == 0
    found = read_ctm(tmp_path / "both/phones.ctm")
    assert {name: PHONES[phones.labels[0]] for name, phones in found.items()} == {"a-1": "ah", "b-1": "iy"}


def test_a_split_in_time_is_split_again(tmp_path, run):
    """The labels of a quarter are those of its stretch of the whole; a part without labels has no file of them."""
    data = make_data(tmp_path / "d", {"a-1": 16000, "b-1": 16000})
    (data.path / "phones.ctm").write_text("a-1 1 0.0 0.3 ah\na-1 1 0.3 0.7 iy\n")
    assert run("data", "split", tmp_path / "d", tmp_path / "x", tmp_path / "y", "--by", "time", "--share", 0.5)[0] == 0
    status, _, err = run(
        "data", "split", tmp_path / "x", tmp_path / "p", tmp_path / "q", "--by", "time", "--share", 0.5
    )
    assert status == 0, err
    second = read_ctm(tmp_path / "q/phones.ctm")["a-1-a-b"]
    np.testing.assert_allclose(second.starts, [0, 0.05], atol=1e-6)
    assert [PHONES[label] for label in second.labels] == ["ah", "iy"]
    status, _, err = run(
        "data", "split", tmp_path / "d", tmp_path / "s", tmp_path / "t", "--by", "speakers", "--share", 0.5
    )
    assert status == 0, err
    assert (tmp_path / "s/phones.ctm").exists() != (tmp_path / "t/phones.ctm").exists()


def test_the_first_backup_is_kept(noise, run):
    original = (noise.path / "wav.scp").read_text()
    for number, table in enumerate(("utt2spk", "wav.scp")):
        with (noise.path / table).open("a") as file:
            file.write(f"zzz-{number} x\n\n")
        assert run("data", "check", noise.path, "--fix")[0] == 0
    assert (noise.path / ".backup/wav.scp").read_text() == original
    assert "zzz-1" in (noise.path / ".backup.2/wav.scp").read_text()


def test_a_moved_packed_corpus_is_mended(corpus, tmp_path, run):
    moved = corpus.path.rename(tmp_path / "elsewhere")
    with (moved / "utt2spk").open("a") as file:
        file.write("x y\n")
    status, _, err = run("data", "check", moved, "--fix")
    assert (status, "kept 7 of 8 utterances" in err) == (0, True), err


def test_a_segment_without_a_sample(noise, run, tmp_path):
    (noise.path / "segments").write_text("u a-1 0.1 0.10001\n")
    (noise.path / "utt2spk").write_text("u a\n")
    (noise.path / "spk2utt").write_text("a u\n")
    status, _, err = run("pack", noise.path, tmp_path / "p")
    assert (status, "is shorter than a sample" in err) == (2, True)


def test_outputs_that_are_commands_and_names_that_are_groups(noise, tmp_path, run):
    status, _, err = run("featurize", "fbank", noise.path, "ark:| gzip -c > x.gz")
    assert (status, "commands are not run" in err) == (2, True)
    (tmp_path / "x.scp").write_text(f". {noise.recordings['a-1']}\nu {noise.recordings['a-2']}\n")
    status, _, err = run("featurize", "fbank", f"scp:{tmp_path}/x.scp", tmp_path / "x.h5")
    assert (status, "HDF5 takes `/` and `.` for groups" in err) == (2, True)


def test_a_file_that_is_named_twice(noise, tmp_path, run, monkeypatch):
    monkeypatch.chdir(noise.path)
    (noise.path / "wav.scp").unlink()
    status, _, err = run("featurize", "fbank", "./a-1.wav", "a-1.wav", noise.path, tmp_path / "out")
    assert (status, "7 utterances" in err) == (0, True), err


def test_numbers_with_underscores_are_none(tmp_path):
    """Python takes 1_0 for ten."""
    (tmp_path / "x.ctm").write_text("u 1 0_1.0 0.5 ah\n")
    with pytest.raises(DataError, match="is not a stretch of time"):
        read_ctm(tmp_path / "x.ctm")


def test_what_is_given_from_python(corpus, noise):
    recording = (noise.path / "a-1.wav").read_bytes()
    for source in (recording, bytearray(recording), memoryview(recording)):
        assert len(gim_audio.audio.read(source, 16000)) == 9000
    with pytest.raises(gim_audio.audio.AudioError, match="the recording: ") as error:
        gim_audio.audio.read(b"x" * 100_000, 16000)
    assert len(str(error.value)) < 300
    for rate in (0, -1, "16000", None):
        with pytest.raises(gim_audio.audio.AudioError, match="expected a whole number of Hz"):
            gim_audio.audio.read(recording, rate)
    with pytest.raises(gim_audio.audio.AudioError, match="no such file"):
        gim_audio.audio.header("missing.wav")
    assert gim_audio.pack(str(noise.path), str(noise.path / "packed")) == {}
    encoder, samples = gim_audio.load("fbank"), np.zeros(8000, np.float32)
    samples.flags.writeable = False
    assert encoder.featurize(torch.zeros(8000, dtype=torch.bfloat16)).shape == encoder.featurize(samples).shape
    with pytest.raises(ValueError, match="expected int16"):
        corpus.fill(np.empty(10, np.float32), 0)
