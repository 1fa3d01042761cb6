"""The phone probe: one decision a frame."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from gim_audio.errors import DataError
from gim_audio.featurize import Encoder, Features, encode_at_one_rate, waveforms
from gim_audio.kaldi import DataDir
from gim_audio.phones import LABEL_SECONDS, PHONES, Alignment, frame_labels
from gim_audio.probes.encoding import Labels, join
from gim_audio.probes.solvers import Protocol, Published, fit, settings
from gim_audio.probes.tally import Result, Tally

__all__ = ["probe_phones"]

PUBLISHED = Published(learning_rate=1e-4, epochs=20, batch=None)
"""A batch is an utterance."""


def probe_phones(
    encoder: Encoder,
    train: tuple[DataDir, Mapping[str, Alignment]],
    test: tuple[DataDir, Mapping[str, Alignment]],
    *,
    protocol: Protocol = "strict",
    shift: int = 1,
    modules: Sequence[int],
    most_frames: int = 400_000,
    seed: int = 0,
    allow_pipes: bool = False,
    progress: Callable[[int], None] = lambda done: None,
) -> Result:
    """Frame-wise phone accuracy of a linear classifier.

    Args:
        encoder: frozen.
        train: utterances and their alignments.
        test: the same.
        protocol: `ref` or `strict`, see `gim_audio.probes`.
        shift: of the labels, in steps of 10 ms: see `gim_audio.phones.frame_labels`.
        modules: to probe, from 1.
        most_frames: of training; of more, a random share is used.
        seed: of that choice, and of `ref`'s initialisation and order.
        allow_pipes: run the commands in `wav.scp`.
        progress: called with the number of utterances encoded.

    Raises:
        DataError: audio cannot be decoded, or there are no labelled frames or only one class.
    """
    grid = encoder.geometries[-1]

    def label(alignments: Mapping[str, Alignment], name: str, frames: int) -> Labels:
        if name not in alignments:
            return np.full(frames, -1)
        return frame_labels(
            alignments[name],
            frames,
            centre=grid.centre / encoder.rate,
            hop=grid.hop / encoder.rate,
            shift=shift,
        )

    labelled = (
        sum(float(a.ends[-1] - a.starts[0]) for n, a in train[1].items() if n in train[0].speakers) / LABEL_SECONDS
    )
    keep = min(1.0, most_frames / max(1.0, labelled))
    generator = np.random.default_rng(seed)
    parts: list[tuple[list[Features], Labels]] = []
    seen, done = 0, 0
    for name, waveform in waveforms(train[0], encoder, allow_pipes=allow_pipes):
        features = encode_at_one_rate(encoder, waveform, modules)
        labels = label(train[1], name, len(features[0]))
        seen += int((labels >= 0).sum())
        chosen = np.flatnonzero((labels >= 0) & (generator.random(len(labels)) < keep))
        parts.append(([f[chosen] for f in features], labels[chosen]))
        done += 1
        progress(done)
    examples = join(parts, str(train[0].path))
    classifiers = fit(protocol, examples, len(PHONES), PUBLISHED, seed)
    majority_class = int(np.bincount(examples.labels).argmax())

    tally, majority = Tally(), 0
    for name, waveform in waveforms(test[0], encoder, allow_pipes=allow_pipes):
        features = encode_at_one_rate(encoder, waveform, modules)
        labels = label(test[1], name, len(features[0]))
        known = labels >= 0
        right = [int((c.predict(f[known]) == labels[known]).sum()) for c, f in zip(classifiers, features, strict=True)]
        tally.add(test[0].speakers[name], right, int(known.sum()))
        majority += int((labels == majority_class).sum())
        done += 1
        progress(done)
    total = sum(tally.total.values())
    if not total:
        raise DataError(f"{test[0].path}: no labelled frames to test on")
    return Result(
        task="phones",
        protocol=protocol,
        modules=tally.rows(modules, encoder.modules, [c.note for c in classifiers]),
        counts={
            "classes": len(np.unique(examples.labels)),
            "train_utterances": len(train[0].utterances),
            "train_frames": len(examples.labels),
            "train_frames_labelled": seen,
            "train_speakers": len(set(train[0].speakers.values())),
            "test_utterances": len(test[0].utterances),
            "test_frames": total,
            "test_speakers": len(tally.total),
            "majority": majority / total,
        },
        settings={"shift": shift, "seed": seed, "most_frames": most_frames, **settings(protocol, PUBLISHED)},
    )
