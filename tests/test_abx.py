"""ABX against loops over triples, and dynamic time warping against a table filled cell by cell."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gim_audio.abx import Item, items_of, read_items
from gim_audio.abx.distances import Tokens, distances, warp
from gim_audio.abx.scores import errors_of, groups, mean_of_means, pairs_of, score
from gim_audio.errors import DataError
from gim_audio.phones import PHONES, Alignment


def slow_warp(costs):
    """Mean cost along the cheapest path, walked back from its end: diagonally first, then left."""
    rows, columns = costs.shape
    total = np.full((rows, columns), np.inf, dtype=np.float32)
    for i in range(rows):
        for j in range(columns):
            before = [
                total[a, b]
                for a, b in ((i - 1, j - 1), (i, j - 1), (i - 1, j))
                if a >= 0 and b >= 0
            ]
            total[i, j] = costs[i, j] + (min(before) if before else 0)
    i, j, steps = rows - 1, columns - 1, 1
    while i or j:
        options = [(a, b) for a, b in ((i - 1, j - 1), (i, j - 1), (i - 1, j)) if a >= 0 and b >= 0]
        i, j = min(options, key=lambda place: total[place])
        steps += 1
    return total[-1, -1] / steps


@settings(deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 10_000), st.booleans())
def test_warping(rows, columns, seed, ties):
    costs = np.random.default_rng(seed).random((3, 9, 9), dtype=np.float32)
    if ties:
        costs = np.round(2 * costs) / 2
    found = warp(torch.from_numpy(costs), torch.tensor([rows, 9, 1]), torch.tensor([columns, 9, 9]))
    expected = [slow_warp(costs[0, :rows, :columns]), slow_warp(costs[1]), slow_warp(costs[2, :1])]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5)


def angle(x, y):
    if not x.any() or not y.any():
        return 0.0 if not x.any() and not y.any() else 0.5
    cosine = np.float32(x @ y) / np.float32(np.linalg.norm(x) * np.linalg.norm(y))
    return math.acos(max(-1, min(1, float(cosine)))) / math.pi


@pytest.fixture(scope="module")
def tokens():
    """Items of three speakers, two contexts, three phones.

    Some cells are empty or have one token only.
    """
    generator = np.random.default_rng(4)
    items, stretches = [], []
    for speaker in "abc":
        for context in (("k", "t"), ("s", "n")):
            for phone in ("ae", "ih", "aa"):
                for number in range(generator.integers(0, 4)):
                    items.append(Item(f"{speaker}-{number}", 0, 1, phone, context, speaker))
                    stretches.append(
                        generator.standard_normal((generator.integers(1, 7), 5)).astype(np.float32)
                    )
    stretches[3][0] = 0
    lengths = np.array([len(s) for s in stretches])
    starts = np.cumsum([0, *lengths[:-1]])
    return items, stretches, Tokens(np.concatenate(stretches), starts, lengths, torch.device("cpu"))


def slow_error(items, stretches, mode):
    """The definition, triple by triple."""

    def distance(i, j):
        return slow_warp(
            np.array([[angle(x, y) for y in stretches[j]] for x in stretches[i]], dtype=np.float32)
        )

    numbers = range(len(items))
    cells = {}
    for a in numbers:
        for b in numbers:
            for x in numbers:
                one, other, third = items[a], items[b], items[x]
                if not one.context == other.context == third.context or a == x:
                    continue
                if (
                    one.phone != third.phone
                    or one.phone == other.phone
                    or one.speaker != other.speaker
                ):
                    continue
                if (one.speaker == third.speaker) != (mode == "within"):
                    continue
                to_a, to_b = distance(x, a), distance(x, b)
                key = (one.phone, other.phone), one.speaker, (one.context, third.speaker)
                cells.setdefault(key, []).append(
                    1.0 if to_b < to_a else 0.5 if to_b == to_a else 0.0
                )

    def mean_over_the_last(table):
        shorter = {}
        for key, values in table.items():
            shorter.setdefault(key[:-1], []).append(np.mean(values))
        return shorter

    pairs = mean_over_the_last(mean_over_the_last(cells))
    error = np.mean([np.mean(values) for values in pairs.values()]) if pairs else math.nan
    return error, sum(map(len, cells.values()))


@pytest.mark.parametrize("mode", ["within", "across"])
def test_the_error_is_the_definition(tokens, mode):
    items, stretches, packed = tokens
    plan = groups(items, mode, most=10, most_speakers=5, seed=0)
    pairs = pairs_of(plan)
    found = score(plan, pairs, distances(packed, pairs), "abc")
    error, comparisons = slow_error(items, stretches, mode)
    assert found.error == pytest.approx(error)
    assert found.comparisons == comparisons
    if mode == "within":
        assert found.interval[0] <= found.error <= found.interval[1]
    else:
        # Half of three speakers is one, who has nobody to be compared with.
        assert found.interval is None


@pytest.mark.parametrize("mode", ["within", "across"])
@pytest.mark.parametrize("left_out", ["a", "b", "c"])
def test_a_speaker_who_is_left_out_is_in_no_triple(tokens, mode, left_out):
    """The error of two speakers is that of triples between them alone."""
    items, stretches, packed = tokens
    plan = groups(items, mode, most=10, most_speakers=5, seed=0)
    pairs = pairs_of(plan)
    errors = errors_of(plan, pairs, distances(packed, pairs))[0]
    counts = np.array([float(speaker != left_out) for speaker in "abc"])
    found = mean_of_means(plan, errors, "abc")(np.outer(counts, counts))
    kept = [number for number, item in enumerate(items) if item.speaker != left_out]
    error, _ = slow_error(
        [items[number] for number in kept], [stretches[number] for number in kept], mode
    )
    assert found == pytest.approx(error, nan_ok=True)


def test_no_more_than_were_asked_for(tokens):
    items = tokens[0]
    for mode in ("within", "across"):
        plan = groups(items, mode, most=2, most_speakers=1, seed=0)
        assert max(len(tokens) for group in plan for tokens in (group.a, group.b, group.x)) == 2
    # One speaker of X each.
    assert len({(g.speaker, g.phones, items[g.a[0]].context) for g in plan}) == len(plan)


def test_a_perfect_and_a_useless_representation(tokens):
    items, _, _ = tokens
    directions = {"ae": 0, "ih": 1, "aa": 2}
    for useful, error in ((True, 0.0), (False, 0.5)):
        frames = np.stack(
            [np.eye(3, dtype=np.float32)[directions[item.phone] if useful else 0] for item in items]
        )
        packed = Tokens(
            frames, np.arange(len(items)), np.ones(len(items), np.int64), torch.device("cpu")
        )
        plan = groups(items, "within", most=10, most_speakers=5, seed=0)
        pairs = pairs_of(plan)
        assert score(plan, pairs, distances(packed, pairs), "abc").error == error


def test_items_of_an_alignment():
    names = ["SIL", "k", "ae", "t", "s", "SIL", "s", "aa", "n"]
    edges = np.array([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]) / 10
    alignment = Alignment(edges[:-1], edges[1:], np.array([PHONES.index(name) for name in names]))
    assert items_of({"u": alignment}, {"u": "spk"}) == [
        Item("u", 0.1, 0.4, "ae", ("k", "t"), "spk"),
        Item("u", 0.2, 0.5, "t", ("ae", "s"), "spk"),
        Item("u", 0.6, 0.9, "aa", ("s", "n"), "spk"),
    ]


def test_item_files(tmp_path):
    path = tmp_path / "some.item"
    path.write_text(
        "#file onset offset #phone prev-phone next-phone speaker\nu 0.1 0.4 AE K T 19\n"
    )
    assert read_items(path) == [Item("u", 0.1, 0.4, "AE", ("K", "T"), "19")]
    path.write_text("#file\nu 0.1 x AE K T 19\n")
    with pytest.raises(DataError, match="some.item, line 2: expected `file onset"):
        read_items(path)
    path.write_text("#file\n")
    with pytest.raises(DataError, match="no items"):
        read_items(path)


def test_the_command(spoken, tmp_path, run):
    """MFCC of clear synthetic speech are far from chance.

    The same command gives the same numbers.
    """
    records = []
    for name in ("one", "two"):
        status, out, said = run("abx", "mfcc", spoken, "--out", tmp_path / f"{name}.json")
        assert status == 0, said
        records.append(json.loads((tmp_path / f"{name}.json").read_text()))
    row = records[0]["modules"][0]
    assert len(records[0]["speakers"]) == 4
    assert len(row["across"]["halves"]) == 400
    assert row["across"]["error"] < 0.35
    assert f"{row['across']['error']:.1%}" in out
    assert records[0]["modules"] == records[1]["modules"]
    few = ["--out", tmp_path / "few.json", "--utterances", 5]
    assert run("abx", "mfcc", spoken, *few)[0] == 0
    fewer = json.loads((tmp_path / "few.json").read_text())
    assert fewer["modules"][0]["across"]["comparisons"] < row["across"]["comparisons"]
    status, _, said = run("abx", "mfcc", spoken, "--out", tmp_path / "one.json")
    assert (status, said) == (
        2,
        f"gim-audio: {tmp_path}/one.json exists already: remove it or choose another name\n",
    )
    (tmp_path / "other.item").write_text("#file\nnobody 0.1 0.4 AE K T 19\n")
    status, _, said = run(
        "abx", "mfcc", spoken, "--out", tmp_path / "3.json", "--items", tmp_path / "other.item"
    )
    assert status == 2
    assert "utterances has a token" in said
    (tmp_path / "other.item").write_text(
        "#file\n" + "".join(f"syn000-0000 0.1 0.4 AE K T{n} x\n" for n in range(3))
    )
    status, _, said = run(
        "abx", "mfcc", spoken, "--out", tmp_path / "3.json", "--items", tmp_path / "other.item"
    )
    assert status == 2
    assert "no two phones stand between the same neighbours" in said
