import shlex

import kaldiio
import numpy as np
import pytest
import soundfile
from conftest import make_data

from gim_audio.errors import DataError, GimAudioError
from gim_audio.kaldi import (
    DataDir,
    Segment,
    check,
    fix,
    parse_wspecifier,
    read_scp,
    split,
    write_table,
)


def damage(folder, table, change):
    path = folder / table
    lines = path.read_text().splitlines()
    path.write_text("".join(f"{line}\n" for line in change(lines)))


def test_what_is_written_is_read(noise, tmp_path):
    with_more = DataDir(
        noise.recordings,
        {"a-1": "a", "b-1": "b"},
        {"a-1": Segment("a-1", 0.0, 0.25), "b-1": Segment("b-1", 0.1, 0.3)},
        {"a-1": "ONE TWO", "b-1": "ÜBER"},
    )
    with_more.write(tmp_path / "out")
    read = DataDir.read(tmp_path / "out")
    assert (read.recordings, read.speakers, read.segments, read.text) == (
        noise.recordings,
        with_more.speakers,
        with_more.segments,
        with_more.text,
    )
    assert (tmp_path / "out/spk2utt").read_text() == "a a-1\nb b-1\n"


@pytest.mark.parametrize(
    ("table", "change", "message"),
    [
        (
            "wav.scp",
            lambda lines: lines[::-1],
            "not sorted: b-3 comes after c-1|not sorted: c-1 comes after c-2",
        ),
        ("utt2spk", lambda lines: lines[1:], "no speaker of utterance a-1"),
        ("utt2spk", lambda lines: [*lines, "d-1 d"], "utt2spk: d-1 has no audio"),
        (
            "utt2spk",
            lambda lines: ["a-1 c", *lines[1:]],
            "spk2utt: speaker a does not have the utterances",
        ),
        ("spk2utt", lambda lines: lines[1:], "spk2utt: speaker a does not have"),
        ("wav.scp", lambda lines: [lines[0], *lines], "a-1 stands twice"),
        (
            "wav.scp",
            lambda lines: ["a-1 /not/there.wav", *lines[1:]],
            "a-1: /not/there.wav is missing",
        ),
        (
            "wav.scp",
            lambda lines: ["a-1", *lines[1:]],
            "wav.scp, line 1: expected a name and a value",
        ),
    ],
)
def test_check_finds_and_fix_mends(noise, table, change, message):
    assert check(noise.path) == []
    damage(noise.path, table, change)
    before = (noise.path / table).read_text()
    assert any(__import__("re").search(message, problem) for problem in check(noise.path))
    with pytest.raises(DataError, match="data check"):
        DataDir.read(noise.path)
    if "expected a name" in message:
        with pytest.raises(DataError, match="line 1"):
            fix(noise.path)
        return
    fix(noise.path)
    assert check(noise.path) == []
    assert (noise.path / ".backup" / table).read_text() == before


def test_missing_directory_and_tables(tmp_path):
    assert check(tmp_path / "none") == [f"{tmp_path}/none: no such data directory"]
    (tmp_path / "empty").mkdir()
    assert "wav.scp: no such file" in check(tmp_path / "empty")[0]


def test_segments_are_cut_from_their_recordings(noise, tmp_path):
    data = DataDir(
        noise.recordings,
        {"a-1": "a", "a-x": "a"},
        {"a-1": Segment("a-2", 0.25, 0.5), "a-x": Segment("a-2", 0.5, 1.2)},
    )
    cut = dict(data.waveforms(16000))
    whole, _ = soundfile.read(noise.recordings["a-2"], dtype="float32")
    np.testing.assert_array_equal(cut["a-1"], whole[4000:8000])
    # Half a second beyond the end is cut, as in Kaldi.
    np.testing.assert_array_equal(cut["a-x"], whole[8000:])
    beyond = DataDir(noise.recordings, {"a-1": "a"}, {"a-1": Segment("a-2", 0.5, 1.6)})
    assert "segment 0.5-1.6 s of a-2, which lasts 1.00 s" in str(
        dict(beyond.waveforms(16000))["a-1"]
    )


def test_bad_segments_are_found(noise):
    write_table(noise.path / "segments", {"a-1": "a-1 0.5 0.2", "b-1": "zz 0 1"})
    problems = "\n".join(check(noise.path))
    assert "a-1: from 0.5 to 0.2 s" in problems
    assert "no recording zz" in problems
    write_table(noise.path / "segments", {"a-1": "a-1 0.5"})
    assert "expected `recording start end`" in check(noise.path)[0]


def test_archive_offsets(noise, tmp_path):
    archive = tmp_path / "wav.ark"
    kaldiio.save_ark(
        str(archive),
        {"x": (16000, soundfile.read(noise.recordings["a-1"], dtype="int16")[0])},
        scp=str(tmp_path / "wav.scp"),
    )
    data = read_scp(tmp_path / "wav.scp")
    expected, _ = soundfile.read(noise.recordings["a-1"], dtype="float32")
    np.testing.assert_array_equal(dict(data.waveforms(16000))["x"], expected)
    wrong = DataDir({"x": f"{archive}:9"}, {"x": "x"})
    assert "no WAV begins" in str(dict(wrong.waveforms(16000))["x"])
    gone = DataDir({"x": f"{tmp_path}/none.ark:9"}, {"x": "x"})
    assert "none.ark" in str(dict(gone.waveforms(16000))["x"])


def test_pipes_run_only_when_allowed(noise):
    command = f"cat {shlex.quote(noise.recordings['a-1'])} |"
    data = DataDir({"x": command, "y": "false |"}, {"x": "x", "y": "y"})
    refused = dict(data.waveforms(16000))
    assert "--allow-pipes" in str(refused["x"])
    allowed = dict(data.waveforms(16000, allow_pipes=True))
    assert len(allowed["x"]) == 9000
    assert "failed with status 1" in str(allowed["y"])


def test_select_keeps_the_recordings_it_needs(noise):
    part = noise.select(["b-1", "a-1"])
    assert part.utterances == list(part.recordings) == list(part.speakers) == ["a-1", "b-1"]
    with pytest.raises(DataError, match="no utterance zz"):
        noise.select(["zz"])


def test_split_by_utterances_and_speakers(noise):
    first, rest = split(noise, "utterances", 0.5)
    assert sorted(first.utterances + rest.utterances) == noise.utterances
    assert set(first.speakers.values()) == set(rest.speakers.values()) == {"a", "b", "c"}
    first, rest = split(noise, "speakers", 0.67, seed=1)
    assert sorted(first.utterances + rest.utterances) == noise.utterances
    assert len(set(first.speakers.values())) == 2
    assert not set(first.speakers.values()) & set(rest.speakers.values())
    with pytest.raises(DataError, match="one part would be empty"):
        split(noise.select(["a-1"]), "speakers", 0.5)


def test_split_by_time_keeps_every_sample(noise):
    first, rest = split(noise, "time", 0.75)
    parts = dict(first.waveforms(16000)) | dict(rest.waveforms(16000))
    for name, whole in noise.waveforms(16000):
        np.testing.assert_array_equal(
            np.concatenate([parts[f"{name}-a"], parts[f"{name}-b"]]), whole
        )
        assert len(parts[f"{name}-a"]) / len(whole) == pytest.approx(0.75, abs=0.02)


def test_a_command_has_no_length_to_cut(noise):
    data = DataDir({"x": f"cat {noise.recordings['a-1']} |"}, {"x": "x"}, path=noise.path)
    with pytest.raises(DataError, match="x is a command, whose length nobody knows: pack it"):
        split(data, "time", 0.5)


def test_specifiers_that_are_none():
    for wrong in ("scp:a.scp", "ark,scp:a.ark", "ark:"):
        with pytest.raises(GimAudioError, match="expected ark,scp"):
            parse_wspecifier(wrong)


def test_tables_tell_what_is_wrong(tmp_path):
    folder = tmp_path / "d"
    make_data(folder, {"a-1": 100})
    (folder / "utt2spk").write_bytes(b"a-1 \xff\n")
    assert "not UTF-8" in check(folder)[0]
    write_table(folder / "utt2spk", {"b-1": "b"})
    with pytest.raises(DataError, match="nothing to keep"):
        fix(folder)


def test_data_directories_are_combined(tmp_path, run):
    for name, speaker in (("a", "x"), ("b", "y")):
        make_data(tmp_path / name, {f"{speaker}-1": 4000, f"{speaker}-0": 5000})
        (tmp_path / name / "phones.ctm").write_text(f"{speaker}-0 1 0 0.1 AA\n")
    (tmp_path / "a/text").write_text("x-0 YES\nx-1 NO\n")
    status, _, err = run("data", "combine", tmp_path / "c", tmp_path / "b", tmp_path / "a")
    assert (status, "4 utterances, 2 speakers" in err) == (0, True)
    assert DataDir.read(tmp_path / "c").utterances == ["x-0", "x-1", "y-0", "y-1"]
    assert not (tmp_path / "c/text").exists()
    assert (
        tmp_path / "c/phones.ctm"
    ).read_text().split() == "x-0 1 0.0000 0.1000 aa y-0 1 0.0000 0.1000 aa".split()
    status, _, err = run("data", "combine", tmp_path / "d", tmp_path / "a", tmp_path / "c")
    assert (status, "x-0 is in" in err, (tmp_path / "d").exists()) == (2, True, False)
    run("data", "split", tmp_path / "b", tmp_path / "e", tmp_path / "f", "--by", "time")
    status, _, err = run("data", "combine", tmp_path / "d", tmp_path / "a", tmp_path / "e")
    assert (status, "has segments, others have none" in err) == (2, True)
