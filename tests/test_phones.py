import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gim_audio.errors import DataError
from gim_audio.kaldi import DataDir, Segment
from gim_audio.phones import (
    PHONES,
    Alignment,
    frame_labels,
    labels_of,
    normalise,
    read_alignments,
    read_ctm,
    write_ctm,
)


def test_the_41_phones():
    assert len(PHONES) == len(set(PHONES)) == 41
    for name, phone in [
        ("AH0", "ah"),
        ("ah_B", "ah"),
        ("EH1_I", "eh"),
        ("SIL", "SIL"),
        ("sil", "SIL"),
        ("SPN_S", "SPN"),
    ]:
        assert PHONES[normalise(name)] == phone
    with pytest.raises(DataError, match="`xx` is none of the 41"):
        normalise("xx")


segments = st.lists(st.tuples(st.integers(1, 40), st.integers(0, 40)), min_size=1, max_size=12)


def alignment(pieces, start=0):
    edges = np.cumsum([start, *(length for length, _ in pieces)]) / 100
    return Alignment(edges[:-1], edges[1:], np.array([label for _, label in pieces]))


@given(pieces=segments, shift=st.integers(-3, 4), frames=st.integers(1, 300))
def test_reference_frames_take_the_label_shift_places_back(pieces, shift, frames):
    """Frame i is centred on sample 160 i + 20; with labels 10 ms long it takes label i - shift."""
    track = [label for length, label in pieces for _ in range(length)]
    expected = [track[i - shift] if 0 <= i - shift < len(track) else -1 for i in range(frames)]
    found = frame_labels(alignment(pieces), frames, centre=20 / 16000, hop=0.01, shift=shift)
    assert found.tolist() == expected


@given(pieces=segments)
def test_mfcc_frames_match_kaldi_labels_at_shift_one(pieces):
    """Kaldi's frame t and its label t share a window of 400 samples centred on 160 t + 199.5."""
    track = [label for length, label in pieces for _ in range(length)]
    found = frame_labels(alignment(pieces), len(track), centre=199.5 / 16000, hop=0.01, shift=1)
    assert found.tolist() == track


def test_the_published_code_keeps_the_last_labels():
    """L = 1 + (n - 400) // 160 labels for n // 160 frames.

    Frame L_frames - 1 takes the last label at shift 2.
    """
    n = 20480
    labels = 1 + (n - 400) // 160
    track = np.arange(labels) % 41
    found = frame_labels(
        alignment([(1, int(label)) for label in track]), 128, centre=20 / 16000, hop=0.01, shift=2
    )
    assert found[0] == found[1] == -1
    assert found[2 : 2 + labels].tolist() == track.tolist()


@given(pieces=segments)
def test_ctm_comes_back(tmp_path_factory, pieces):
    path = tmp_path_factory.mktemp("ctm") / "phones.ctm"
    written = {"u-1": alignment(pieces), "u-2": alignment([(3, 1)], start=5)}
    write_ctm(path, written)
    read = read_alignments(path)
    for name, expected in written.items():
        np.testing.assert_allclose(read[name].starts, expected.starts, atol=1e-4)
        np.testing.assert_allclose(read[name].ends, expected.ends, atol=2e-4)
        np.testing.assert_array_equal(read[name].labels, expected.labels)


def test_cpc_format(tmp_path):
    path = tmp_path / "converted_aligned_phones.txt"
    path.write_text("1-2-0003 0 0 0 5 5 0 40\n1-2-0004 7\n")
    read = read_alignments(path)
    assert frame_labels(read["1-2-0003"], 7, centre=20 / 16000, hop=0.01, shift=0).tolist() == [
        0,
        0,
        0,
        5,
        5,
        0,
        40,
    ]
    assert read["1-2-0004"].labels.tolist() == [7]
    path.write_text("1-2-0003 0 0 41\n")
    with pytest.raises(DataError, match="line 1: .* numbers from 0 to 40"):
        read_alignments(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("u 1 0.0 0.1", "line 1: expected `utterance channel start duration phone`"),
        ("u 1 zero 0.1 ah", "line 1: expected"),
        ("u 1 0.0 0.1 qqq", "line 1: phone `qqq` is none"),
        ("u 1 0.0 0.5 ah\nu 1 0.2 0.5 iy", "u: phones overlap"),
        ("u 1 0.0 0.0 ah", "no duration"),
    ],
)
def test_bad_alignments(tmp_path, text, message):
    path = tmp_path / "phones.ctm"
    path.write_text(f"{text}\n")
    with pytest.raises(DataError, match=message):
        read_alignments(path)
    with pytest.raises(DataError, match="data labels"):
        read_ctm(tmp_path / "none.ctm")
    with pytest.raises(DataError, match="cannot be read"):
        read_alignments(tmp_path / "none.ctm")


def test_labels_follow_segments():
    whole = alignment([(50, 2), (50, 3), (100, 4)])
    data = DataDir(
        {"r": "r.wav"},
        {"r-a": "r", "r-b": "r"},
        {"r-a": Segment("r", 0, 0.75), "r-b": Segment("r", 0.75, 2)},
    )
    found = labels_of(data, {"r": whole})
    np.testing.assert_allclose(found["r-a"].ends, [0.5, 0.75])
    np.testing.assert_allclose(found["r-b"].starts, [0, 0.25])
    assert found["r-b"].labels.tolist() == [3, 4]
    with pytest.raises(DataError, match="none of its 2 utterances"):
        labels_of(data, {"other": whole})


def test_the_sample_is_labelled(sample):
    read = read_ctm(sample / "phones.ctm")
    assert len(read) == 250
    first = read["103-1240-0000"]
    assert [PHONES[label] for label in first.labels[:3]] == ["SIL", "ch", "ae"]
    assert all((a.starts[1:] - a.ends[:-1] < 1e-6).all() for a in read.values())


def test_a_segment_that_the_labels_do_not_reach_has_none():
    data = DataDir(
        {"r": "r.wav"},
        {"a": "s", "b": "s"},
        {"a": Segment("r", 0.0, 0.5), "b": Segment("r", 2.0, 2.5)},
    )
    found = labels_of(data, {"r": Alignment(np.array([0.0]), np.array([1.0]), np.array([3]))})
    assert list(found) == ["a"]
