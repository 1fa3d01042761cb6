"""The phone probe: one decision a frame."""

from collections.abc import Callable, Sequence

import numpy as np

from gim_audio.errors import DataError
from gim_audio.featurize import Encoder
from gim_audio.phones import PHONES
from gim_audio.probes.encoding import Labelled, phone_frames, some_phone_frames
from gim_audio.probes.solvers import Protocol, Published, fit, settings
from gim_audio.probes.tally import Result, Tally

__all__ = ["probe_phones"]

PUBLISHED = Published(learning_rate=1e-4, epochs=20, batch=None)
"""A batch is an utterance."""


def probe_phones(
    encoder: Encoder,
    train: Labelled,
    test: Labelled,
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
    examples, seen = some_phone_frames(
        encoder,
        train,
        modules,
        shift=shift,
        most_frames=most_frames,
        seed=seed,
        allow_pipes=allow_pipes,
        progress=progress,
    )
    classifiers = fit(protocol, examples, len(PHONES), PUBLISHED, seed)
    majority_class = int(np.bincount(examples.labels).argmax())

    tally, majority = Tally(), 0
    frames = phone_frames(encoder, test, modules, shift=shift, allow_pipes=allow_pipes)
    for done, (name, features, labels) in enumerate(frames, start=len(train[0].utterances) + 1):
        known = labels >= 0
        right = [int((c.predict(f[known]) == labels[known]).sum()) for c, f in zip(classifiers, features, strict=True)]
        tally.add(test[0].speakers[name], right, int(known.sum()))
        majority += int((labels == majority_class).sum())
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
