"""The speaker probe: one decision an utterance."""

from collections.abc import Callable, Sequence

import numpy as np

from gim_audio.errors import DataError
from gim_audio.featurize import Encoder, Features, encode_at_one_rate, waveforms
from gim_audio.kaldi import DataDir
from gim_audio.probes.encoding import Labels, join
from gim_audio.probes.solvers import Protocol, Published, fit, settings
from gim_audio.probes.tally import Result, Tally

__all__ = ["probe_speakers"]

PUBLISHED = Published(learning_rate=1e-3, epochs=5, batch=64)
"""Five epochs of ten windows: as many updates as the published 50 of one crop."""

WINDOW = 128
"""Frames that a speaker is told from while training: one crop of 20480 samples."""

WINDOWS = 10
"""Random windows of each training utterance."""


def probe_speakers(
    encoder: Encoder,
    train: DataDir,
    test: DataDir,
    *,
    protocol: Protocol = "strict",
    modules: Sequence[int],
    seed: int = 0,
    allow_pipes: bool = False,
    progress: Callable[[int], None] = lambda done: None,
) -> Result:
    """Speaker accuracy of a linear classifier on mean features.

    Training examples are means over ten random windows of each utterance (128 frames; of the whole utterance
    where it is shorter). A test utterance is one such window under `ref`, its mean under `strict`.

    Raises:
        DataError: audio cannot be decoded, a test speaker is not in training, or there is only one.
    """
    names = sorted(set(train.speakers.values()))
    classes = {speaker: number for number, speaker in enumerate(names)}
    if strangers := sorted(set(test.speakers.values()) - set(names)):
        raise DataError(
            f"{test.path}: speaker {strangers[0]} ({len(strangers)} in all) is not in {train.path}: the speaker probe "
            "needs the same speakers in both (`gim-audio data split --by utterances` or `--by time`)"
        )
    generator = np.random.default_rng(seed)
    parts: list[tuple[list[Features], Labels]] = []
    done = 0
    for name, waveform in waveforms(train, encoder, allow_pipes=allow_pipes):
        features = encode_at_one_rate(encoder, waveform, modules)
        windows = [_window(len(features[0]), generator) for _ in range(WINDOWS)]
        means = [np.stack([f[window].mean(axis=0) for window in windows]) for f in features]
        parts.append((means, np.full(WINDOWS, classes[train.speakers[name]])))
        done += 1
        progress(done)
    examples = join(parts, str(train.path))
    classifiers = fit(protocol, examples, len(names), PUBLISHED, seed)
    tally = Tally()
    most_frequent = int(np.bincount(examples.labels).argmax())
    majority = sum(classes[speaker] == most_frequent for speaker in test.speakers.values())
    for name, waveform in waveforms(test, encoder, allow_pipes=allow_pipes):
        features = encode_at_one_rate(encoder, waveform, modules)
        window = _window(len(features[0]), generator) if protocol == "ref" else slice(None)
        speaker = test.speakers[name]
        right = [
            int(classifier.predict(f[window].mean(axis=0, keepdims=True))[0] == classes[speaker])
            for classifier, f in zip(classifiers, features, strict=True)
        ]
        tally.add(speaker, right, 1)
        done += 1
        progress(done)
    return Result(
        task="speakers",
        protocol=protocol,
        modules=tally.rows(modules, encoder.modules, [c.note for c in classifiers]),
        counts={
            "classes": len(names),
            "train_utterances": len(train.utterances),
            "train_windows": len(examples.labels),
            "test_utterances": len(test.utterances),
            "majority": majority / len(test.utterances),
        },
        settings={"seed": seed, "window": WINDOW, "windows": WINDOWS, **settings(protocol, PUBLISHED)},
    )


def _window(frames: int, generator: np.random.Generator) -> slice:
    first = int(generator.integers(max(1, frames - WINDOW + 1)))
    return slice(first, first + WINDOW)
