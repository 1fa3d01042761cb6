"""One pass for everything, what it says without labels, and the phone error rate."""

import json

import numpy as np
import pytest
import torch
from test_probes import Loudness, noisy_data

from gim_audio.errors import DataError
from gim_audio.phones import Alignment, write_ctm
from gim_audio.probes import (
    AlikenessProbe,
    FrameSample,
    PhoneErrorRate,
    PhoneProbe,
    SlownessProbe,
    SpeakerProbe,
    Subject,
    UnitProbe,
    VerificationProbe,
    evaluate,
)
from gim_audio.probes.ctc import Reader
from gim_audio.probes.evaluation import stacked
from gim_audio.probes.structure import linear_cka


class Counting(Loudness):
    """Counts how often it is asked."""

    asked = 0

    def encode(self, waveform, modules=None):
        self.asked += 1
        return super().encode(waveform, modules)


def test_each_utterance_is_encoded_once_and_answers_are_those_of_single_questions(tmp_path):
    (train, labels), (test, others) = (
        noisy_data(tmp_path / "a", "abc"),
        noisy_data(tmp_path / "b", "abc"),
    )
    encoder = Counting()
    subject = Subject(encoder, [1, 2])

    def everything():
        sample = FrameSample(subject, (train, labels), shifts=[0, 3], most_frames=300, seed=0)
        return [
            sample,
            PhoneProbe(sample, (test, others), ["strict", "ref"]),
            UnitProbe(sample, (test, others), 3),
            SpeakerProbe(subject, train, test, protocols=["strict", "ref"], seed=0),
            VerificationProbe(subject, train, test),
            SlownessProbe(subject, test),
            AlikenessProbe(subject, test),
        ]

    together = evaluate(subject, everything())
    assert encoder.asked == len(train.utterances) + len(test.utterances)
    keys = [(r.task, r.protocol, r.settings.get("shift")) for r in together.results]
    assert keys == [
        ("phones", "strict", 0), ("phones", "strict", 3), ("phones", "ref", 0), ("phones", "ref", 3),
        ("units", "k-means", 0), ("speakers", "strict", None), ("speakers", "ref", None),
        ("verification", "cosine", None), ("slowness", "autocorrelation", None), ("cka", "linear", None),
    ]  # fmt: skip
    sample = FrameSample(subject, (train, labels), shifts=[0], most_frames=300, seed=0)
    alone = evaluate(subject, [sample, PhoneProbe(sample, (test, others), ["strict"])]).results[0]
    assert alone.modules[0]["accuracy"] == pytest.approx(
        together.results[0].modules[0]["accuracy"], abs=0.02
    )
    assert evaluate(subject, everything()).results == together.results
    confusion = np.array(
        [list(map(int, row.split())) for row in together.results[0].modules[0]["confusion"]]
    )
    assert confusion.sum() == together.results[0].counts["test_frames"]
    assert confusion.trace() / confusion.sum() == together.results[0].modules[0]["accuracy"]


def test_stacked_frames():
    frames = np.arange(4, dtype=np.float32)[:, None]
    assert stacked(frames, 1).tolist() == [[0, 0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 3]]
    np.testing.assert_array_equal(stacked(frames, 0), frames)


def test_alike_is_what_rotation_and_scale_do_not_change():
    """The value equals its definition by Gram matrices of frames."""
    generator = np.random.default_rng(0)
    x, y = (generator.standard_normal((50, width)).astype(np.float32) + 3 for width in (6, 9))
    rotation = np.linalg.qr(generator.standard_normal((6, 6)))[0].astype(np.float32)
    assert linear_cka(x, 3 * x @ rotation + 1) == pytest.approx(1, abs=1e-4)
    centring = np.eye(50) - 1 / 50
    k, m = (centring @ f @ f.T @ centring for f in (x, y))
    assert linear_cka(x, y) == pytest.approx(
        (k * m).sum() / np.sqrt((k * k).sum() * (m * m).sum()), rel=1e-3
    )
    assert linear_cka(x, np.ones((50, 2), np.float32)) == 0


def test_slowness_by_its_definition(tmp_path):
    data, _ = noisy_data(tmp_path / "a", "a", utterances=3)
    subject = Subject(Loudness(), [1, 2])
    (result,) = evaluate(subject, [SlownessProbe(subject, data)]).results
    tracks = [Loudness().encode(waveform)[0][:, 0] for _, waveform in data.waveforms(16000)]
    for lag, found in zip((1, 2, 5, 10, 20), result.modules[0]["autocorrelation"], strict=False):
        pairs = np.concatenate([np.stack([t[:-lag], t[lag:]]) for t in tracks], axis=1)
        assert found == pytest.approx(np.corrcoef(pairs)[0, 1], abs=1e-4)
    # Utterances of 50 frames have no lag of 50.
    assert result.modules[0]["autocorrelation"][5] is None
    assert result.modules[1]["autocorrelation"][0] is None  # nothing varies


class Spelt(Loudness):
    """Features that show a phone of 80 ms as it is: one channel each of silence, aa and ae."""

    module_names, geometries = ["spelt"], Loudness.geometries[:1]

    def encode(self, waveform, modules=None):
        level = super().encode(waveform)[0][:, 0]
        return [
            np.stack([level < 0.01, (level >= 0.01) & (level < 0.1), level >= 0.1], axis=1).astype(
                np.float32
            )
        ]


@pytest.fixture
def spelt(tmp_path):
    """Utterances of random phones: quiet is silence, louder is aa, loudest ae."""
    import soundfile
    from conftest import make_data

    generator, alignments = np.random.default_rng(0), {}
    data = make_data(tmp_path / "spelt", {f"{s}-{u}": 1280 * 20 for s in "abc" for u in range(12)})
    for name, file in data.recordings.items():
        kinds = np.tile([0, 2, 0, 3], 5)
        kinds[1::2] = generator.integers(2, 4, 10)
        samples = np.repeat(np.array([0.001, 0, 0.05, 0.2])[kinds], 1280)
        soundfile.write(file, samples * np.where(np.arange(len(samples)) % 2, 1, -1), 16000)
        edges = 0.08 * np.arange(21)
        alignments[name] = Alignment(edges[:-1], edges[1:], kinds)
    return data, alignments


def test_phones_are_read_in_order(spelt, monkeypatch):
    monkeypatch.setattr("gim_audio.probes.ctc.EPOCHS", 150)
    monkeypatch.setattr("gim_audio.probes.ctc.LEARNING_RATE", 1e-2)
    subject = Subject(Spelt(), [1])
    (result,) = evaluate(subject, [PhoneErrorRate(subject, spelt, spelt, seed=0)]).results
    assert result.modules[0]["per"] < 0.05
    assert result.counts["test_phones"] == 36 * 10
    again = evaluate(subject, [PhoneErrorRate(subject, spelt, spelt, seed=0)]).results
    assert again == [result]


def test_the_loss_that_chooses_the_epochs(spelt, monkeypatch):
    """The loss is the mean of the utterances' losses, from a few utterances at a time.

    All at once take gigabytes.
    """
    data, _ = spelt
    subject = Subject(Spelt(), [1])
    probe = PhoneErrorRate(subject, spelt, spelt, seed=0)
    for number, (name, waveform) in enumerate(data.waveforms(16000)):
        probe.learn(name, [f[: 160 - 2 * number] for f in Spelt().encode(waveform)])
    frames = np.memmap(probe._file, np.float32, "r").reshape(-1, 3)
    torch.manual_seed(0)
    reader = Reader(torch.zeros(3), torch.ones(3))
    chosen = np.array([3, 30, 5, 8, 21, 13, 34, 2, 1, 16, 29])
    with torch.no_grad():
        single = [float(probe._loss(reader, frames, [number])) for number in chosen]
    sizes, pad = [], torch.nn.utils.rnn.pad_sequence
    monkeypatch.setattr(
        "torch.nn.utils.rnn.pad_sequence", lambda x, **more: sizes.append(len(x)) or pad(x, **more)
    )
    assert probe._mean_loss(reader, frames, chosen) == pytest.approx(np.mean(single), rel=1e-4)
    assert sizes == [8, 3]


def test_what_cannot_be_read(spelt):
    data, _ = spelt
    subject = Subject(Spelt(), [1])
    crowded = {"a-0": Alignment(0.01 * np.arange(150), 0.01 * np.arange(1, 151), np.full(150, 2))}
    with pytest.raises(DataError, match="a-0 has 150 phones in 160 frames, and a phone needs 4"):
        evaluate(subject, [PhoneErrorRate(subject, (data, crowded), spelt, seed=0)])
    with pytest.raises(DataError, match="there is nothing to read"):
        evaluate(subject, [PhoneErrorRate(subject, (data, {}), spelt, seed=0)])
    with pytest.raises(DataError, match="nothing to test on"):
        evaluate(subject, [PhoneErrorRate(subject, spelt, (data, {}), seed=0)])


def test_labels_of_other_audio(spelt):
    data, alignments = spelt
    longer = alignments | {
        "a-0": Alignment(np.array([0.0, 1]), np.array([1, 2.0]), np.array([2, 3]))
    }
    subject = Subject(Spelt(), [1])
    sample = FrameSample(subject, (data, longer), shifts=[1], most_frames=100, seed=0)
    with pytest.raises(
        DataError,
        match=r"the phones of a-0 end at 2.00 s, its audio at 1\.\d+ s: labels of other audio",
    ):
        evaluate(subject, [sample, PhoneProbe(sample, spelt, ["strict"])])


def test_the_command(tmp_path, run):
    for name in "ab":
        _, alignments = noisy_data(tmp_path / name, "abc")
        write_ctm(tmp_path / name / "phones.ctm", alignments)
    out = tmp_path / "results"
    arguments = ["evaluate", "mfcc13", "--test", tmp_path / "b", "--module", "last"]
    train = ["--train", tmp_path / "a"]
    status, _, err = run(
        *arguments,
        *train,
        "--out",
        out,
        "--tasks",
        "phones,slowness",
        "--shifts",
        "0,1",
        "--stack",
        1,
    )
    assert status == 0, err
    assert sorted(file.name for file in out.iterdir()) == [
        "phones-ref-shift0.json", "phones-ref-shift1.json", "phones-strict-shift0.json", "phones-strict-shift1.json",
        "slowness-autocorrelation.json",
    ]  # fmt: skip
    record = json.loads((out / "phones-strict-shift1.json").read_text())
    assert record["settings"]["stack"] == 1
    assert record["seconds"]["all"] >= record["seconds"]["encoding train"]
    assert "phones, mfcc13, strict, label shift 1" in err
    for wrong, message in (
        ([*train, "--out", out], "exists already"),
        ([*train, "--out", tmp_path / "x", "--tasks", "phones,words"], "words is none of phones"),
        ([*train, "--out", tmp_path / "x", "--shifts", "one"], "whole numbers"),
        ([*train, *train, "--out", tmp_path / "x"], "--train is given 2 times: once is enough"),
        (["--out", tmp_path / "x", "--train", tmp_path / "none"], "none"),
    ):
        status, _, err = run(*arguments, *wrong)
        assert (status, message in err) == (2, True), err
    assert not (tmp_path / "x").exists()
