"""Discrete units: k-means clusters of frames, and how much they say about phones (Hsu et al. 2021, HuBERT)."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from gim_audio.errors import DataError
from gim_audio.featurize import Encoder
from gim_audio.phones import PHONES
from gim_audio.probes.encoding import Labelled, phone_frames, some_phone_frames
from gim_audio.probes.tally import Result, bootstrap

__all__ = ["probe_units"]


def probe_units(
    encoder: Encoder,
    train: Labelled,
    test: Labelled,
    *,
    units: int = 100,
    shift: int = 1,
    modules: Sequence[int],
    most_frames: int = 400_000,
    seed: int = 0,
    allow_pipes: bool = False,
    progress: Callable[[int], None] = lambda done: None,
) -> Result:
    """Clusters of training frames, compared with the phones of test frames.

    Of each module: `pnmi`, the share of the phones' entropy that a frame's unit takes away (mutual information over
    H(phone)); `phone_purity`, how often a frame has the commonest phone of its unit; `cluster_purity`, how often it has
    the commonest unit of its phone. The interval is `pnmi`'s, by bootstrap over speakers.

    Args:
        encoder: frozen.
        train: utterances and their alignments; its labelled frames are clustered.
        test: the same.
        units: clusters.
        shift: of the labels, in steps of 10 ms.
        modules: to cluster, from 1.
        most_frames: of training; of more, a random share is used.
        seed: of that choice, and of where the clusters begin.
        allow_pipes: run the commands in `wav.scp`.
        progress: called with the number of utterances encoded.

    Raises:
        DataError: audio cannot be decoded, there are no labelled frames, or fewer than units.
    """
    from sklearn.cluster import MiniBatchKMeans

    examples, _ = some_phone_frames(
        encoder,
        train,
        modules,
        shift=shift,
        most_frames=most_frames,
        seed=seed,
        allow_pipes=allow_pipes,
        progress=progress,
    )
    if len(examples.labels) < units:
        raise DataError(f"{train[0].path}: {len(examples.labels)} labelled frames are too few for {units} units")
    clusters = [
        MiniBatchKMeans(units, batch_size=4096, n_init=3, random_state=seed).fit(features)
        for features in examples.features
    ]
    speakers = sorted(set(test[0].speakers.values()))
    counts = np.zeros((len(modules), len(speakers), units, len(PHONES)))
    frames = phone_frames(encoder, test, modules, shift=shift, allow_pipes=allow_pipes)
    for done, (name, features, labels) in enumerate(frames, start=len(train[0].utterances) + 1):
        known, speaker = labels >= 0, speakers.index(test[0].speakers[name])
        for number, cluster in enumerate(clusters):
            if known.any():
                np.add.at(counts[number, speaker], (cluster.predict(features[number][known]), labels[known]), 1)
        progress(done)
    if not counts.any():
        raise DataError(f"{test[0].path}: no labelled frames to test on")
    counts = counts[:, counts.any(axis=(0, 2, 3))]  # speakers without labels say nothing
    rows = []
    for number, module in enumerate(modules):
        table, total = counts[number].sum(axis=0), counts[number].sum()
        rows.append(
            {
                "module": module,
                "name": encoder.modules[module - 1],
                "pnmi": pnmi(table),
                "interval": bootstrap(counts[number], pnmi),
                "phone_purity": float(table.max(axis=1).sum() / total),
                "cluster_purity": float(table.max(axis=0).sum() / total),
            }
        )
    return Result(
        task="units",
        protocol="k-means",
        modules=rows,
        counts={
            "train_frames": len(examples.labels),
            "test_frames": int(counts[0].sum()),
            "test_speakers": counts.shape[1],
        },
        settings={"units": units, "shift": shift, "seed": seed, "most_frames": most_frames},
    )


def pnmi(table: npt.NDArray[np.float64]) -> float:
    """I(unit; phone) / H(phone) of counts. Shape: `(units, phones)`."""
    from scipy.stats import entropy

    phones = entropy(table.sum(axis=0))
    return float((phones + entropy(table.sum(axis=1)) - entropy(table.ravel())) / phones) if phones else 0.0
