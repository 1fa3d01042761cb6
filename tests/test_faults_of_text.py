"""Reports of faults in text files.

The right value, or one line that names file, line and remedy.
"""

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gim_audio import config
from gim_audio.abx.items import read_items
from gim_audio.alignment.aligner import words_of
from gim_audio.errors import ConfigError, DataError
from gim_audio.kaldi import DataDir, check, fix, read_scp, split
from gim_audio.phones import PHONES, read_alignments, read_ctm

BOM = "\ufeff"


def named(data, tables):
    """Rewrite tables of a data directory, each after a byte order mark."""
    for name in tables:
        (data.path / name).write_text(BOM + (data.path / name).read_text())


def test_a_byte_order_mark_is_no_letter(noise, tmp_path, run):
    """Windows writes one before UTF-8; the first name of a table is not another for it."""
    named(noise, ["wav.scp", "utt2spk", "spk2utt"])
    assert check(noise.path) == []
    assert DataDir.read(noise.path).utterances == noise.utterances
    (tmp_path / "x.ctm").write_text(f"{BOM}a-1 1 0.0 0.2 AH0\n")
    (tmp_path / "x.txt").write_text(f"{BOM}a-1 0 0 1 1\n")
    (tmp_path / "x.yaml").write_text(f"{BOM}training: {{steps: 7}}\n")
    (tmp_path / "x.scp").write_text(f"{BOM}a-1 {noise.recordings['a-1']}\n")
    assert (
        list(read_alignments(tmp_path / "x.ctm"))
        == list(read_alignments(tmp_path / "x.txt"))
        == ["a-1"]
    )
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
    segments = "".join(
        f"{name} {name} 0.1 {'-1' if name == 'a-2' else '0.2'}\n" for name in data.utterances
    )
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
    """Kaldi's alignments have integers until int2sym.pl names them.

    Stress marks are no phones by themselves.
    """
    for name in ("1", "2", "10", "-3"):
        (tmp_path / "x.ctm").write_text(f"a-1 1 0.0 0.5 {name}\n")
        with pytest.raises(DataError, match=r"line 1: phone .* is a number: `utils/int2sym\.pl"):
            read_ctm(tmp_path / "x.ctm")
    (tmp_path / "x.txt").write_text("u0 0 1 1 2 2 -3\n")
    with pytest.raises(DataError, match="numbers from 0 to 40"):
        read_alignments(tmp_path / "x.txt")
    (tmp_path / "x.txt").write_text("u0 0 1 1 2\nu1 0 1\n")
    assert [PHONES[label] for label in read_alignments(tmp_path / "x.txt")["u0"].labels] == [
        "SIL",
        "SPN",
        "aa",
    ]


def test_comments_and_empty_lines(tmp_path):
    (tmp_path / "x.ctm").write_text(";; NIST CTM\n\na-1 1 0.0 0.5 SIL\n  \na-1 1 0.5 0.5 HH\n\n")
    assert read_alignments(tmp_path / "x.ctm")["a-1"].labels.tolist() == [0, PHONES.index("hh")]
    (tmp_path / "x.item").write_text("#file\n\n;; x\na-1 0.1 0.2 ah b d a\n\n")
    assert len(read_items(tmp_path / "x.item")) == 1
    # Without a heading.
    (tmp_path / "x.item").write_text("a-1 0.1 0.2 ah b d a\nb-1 0.1 0.2 ah b d b\n")
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
    speakers = "".join(
        f"{name} {'Ann Lee' if name == 'b-1' else 'x'}\n" for name in noise.utterances
    )
    (noise.path / "utt2spk").write_text(speakers)
    for arguments in (
        ["data", "check", noise.path, "--fix"],
        ["pack", noise.path, noise.path / "p"],
    ):
        status, _, err = run(*arguments)
        message = (
            "utt2spk, line 3: `Ann Lee`: a name of a speaker with a space in it: write `Ann_Lee`"
        )
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
    """A long line once took minutes."""
    lines = [f"utt{number:06d} /x/{number}.wav\n" for number in range(100_000)]
    (tmp_path / "long.scp").write_text("".join([*lines, lines[-1]]))
    with pytest.raises(DataError, match="the name utt099999 stands twice"):
        read_scp(tmp_path / "long.scp")


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=80)
NUMBER = st.one_of(
    st.floats().map(str), st.integers().map(str), st.sampled_from(["", "x", "1e999", "-1", "0.1"])
)


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(st.tuples(TEXT, NUMBER, NUMBER, st.sampled_from([*PHONES, "1", "AH0", "sil_S", "?"])))
)
def test_any_alignment_is_read_or_refused(tmp_path, lines):
    """Alignments that are read have times in order and known phones.

    The rest is refused by a line that names the file.
    """
    path = tmp_path / "x.ctm"
    path.write_text(
        "\n".join(f"{name} 1 {start} {length} {phone}" for name, start, length, phone in lines)
    )
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


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.recursive(
        st.one_of(TEXT, st.floats(), st.integers(), st.none()), lambda x: st.dictionaries(TEXT, x)
    )
)
def test_any_configuration_is_read_or_refused(tmp_path, value):
    import yaml

    (tmp_path / "c.yaml").write_text(
        yaml.safe_dump({"training": value, "model": {"mean": value}}, allow_unicode=True)
    )
    try:
        config.load(tmp_path / "c.yaml")
    except ConfigError as error:
        if not str(error).startswith(f"{tmp_path}/c.yaml: ") or len(str(error)) > 1500:
            raise
