"""Speaker verification without training: is this the voice that was enrolled? By the cosine of mean features."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from gim_audio.errors import DataError
from gim_audio.featurize import Encoder, Features, encode_at_one_rate, waveforms
from gim_audio.kaldi import DataDir
from gim_audio.probes.tally import Result, bootstrap

__all__ = ["probe_verification"]


def probe_verification(
    encoder: Encoder,
    train: DataDir,
    test: DataDir,
    *,
    modules: Sequence[int],
    allow_pipes: bool = False,
    progress: Callable[[int], None] = lambda done: None,
) -> Result:
    """Equal error rate: the threshold at which as many true voices are refused as false ones are taken.

    A voice is the mean over a speaker's utterances in `train` of their mean features, less the mean over all of them;
    every test utterance is tried against every voice. The interval is by bootstrap over the test speakers.

    Args:
        encoder: frozen.
        train: the enrolled speakers.
        test: utterances to try; of other speakers too.
        modules: to compare, from 1.
        allow_pipes: run the commands in `wav.scp`.
        progress: called with the number of utterances encoded.

    Raises:
        DataError: audio cannot be decoded, no test speaker is enrolled, or only one voice is.
    """
    voices = sorted(set(train.speakers.values()))
    if len(voices) < 2:
        raise DataError(f"{train.path}: one speaker only: a false voice is needed too")
    if not set(voices) & set(test.speakers.values()):
        raise DataError(f"{test.path}: none of its speakers is in {train.path}: there is no true voice to try")
    done = 0

    def means(data: DataDir) -> list[Features]:
        """Of each utterance in order. Shape: a module each `(utterances, channels)`."""
        nonlocal done
        found = []
        for _, waveform in waveforms(data, encoder, allow_pipes=allow_pipes):
            found.append([f.mean(axis=0) for f in encode_at_one_rate(encoder, waveform, modules)])
            done += 1
            progress(done)
        return [np.stack(rows) for rows in zip(*found, strict=True)]

    enrolled, tried = means(train), means(test)
    owner = np.array([train.speakers[name] for name in train.utterances])
    speakers = sorted(set(test.speakers.values()))
    spoken = np.array([speakers.index(test.speakers[name]) for name in test.utterances])
    true = np.array([test.speakers[name] for name in test.utterances])[:, None] == np.array(voices)
    rows = []
    for number, module in enumerate(modules):
        centre = enrolled[number].mean(axis=0)
        known = np.stack([_unit(enrolled[number][owner == voice].mean(axis=0) - centre) for voice in voices])
        scores = _unit(tried[number] - centre) @ known.T

        def error(weights: npt.NDArray[np.float64], scores: Features = scores) -> float:
            return equal_error_rate(scores, true, np.repeat(weights[spoken], len(voices)))

        each = np.eye(len(speakers))  # of one speaker's trials; a sample of speakers is a sum of these
        rows.append(
            {
                "module": module,
                "name": encoder.modules[module - 1],
                "eer": error(np.ones(len(speakers))),
                "interval": bootstrap(each, error, samples=200),
            }
        )
    return Result(
        task="verification",
        protocol="cosine",
        modules=rows,
        counts={
            "voices": len(voices),
            "test_utterances": len(test.utterances),
            "true_trials": int(true.sum()),
            "false_trials": int((~true).sum()),
        },
        settings={},
    )


def _unit(vectors: npt.NDArray[np.float32]) -> Features:
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    unit: Features = (vectors / np.where(norms > 0, norms, 1)).astype(np.float32)
    return unit


def equal_error_rate(scores: Features, true: npt.NDArray[np.bool_], weights: npt.NDArray[np.float64]) -> float:
    """Where the shares of refused true and accepted false trials cross, between two thresholds if need be.

    NaN where no true or no false trial has a weight.
    """
    from sklearn.metrics import roc_curve

    if not weights[true.ravel()].any() or not weights[~true.ravel()].any():
        return np.nan
    accepted, right, _ = roc_curve(true.ravel(), scores.ravel(), sample_weight=weights)
    refused = 1 - right
    after = int(np.argmax(accepted >= refused))
    before = max(0, after - 1)
    gap, next_gap = refused[before] - accepted[before], refused[after] - accepted[after]
    share = gap / (gap - next_gap) if gap != next_gap else 0.0
    return float(accepted[before] + share * (accepted[after] - accepted[before]))
