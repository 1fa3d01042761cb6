"""Features held against those of each file alone, whole, on the CPU, in float32."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from gim_audio.featurize.encode import Task
from gim_audio.featurize.encoders import Featurizer
from gim_audio.featurize.work import IndexEntry, Work
from gim_audio.kaldi import DataDir

__all__ = ["largest_difference"]

LONGEST = 300.0
"""Seconds that are encoded in one pass: the first module of the published model takes 6.5 MB for
each."""


def largest_difference(
    task: Task,
    modules: Sequence[int],
    data: DataDir,
    work: Work,
    done: Mapping[str, list[IndexEntry]],
    count: int,
) -> tuple[float, float] | None:
    """Featurize some utterances again, spread over all.

    Return None where all are longer than five minutes.

    Returns:
        The largest absolute difference, and the largest absolute value.
    """
    fit = [
        name
        for name in data.utterances
        if not done[name][0].failed and done[name][0].seconds <= LONGEST
    ]
    if not fit:
        return None
    chosen = data.select(
        fit[i] for i in np.linspace(0, len(fit) - 1, min(count, len(fit))).round().astype(int)
    )
    encoder = replace(task, device="cpu", precision="fp32").encoder()
    difference = largest = 0.0
    for name, waveform in chosen.waveforms(encoder.rate, allow_pipes=task.allow_pipes):
        if isinstance(waveform, Exception):
            raise waveform
        encode = encoder.encode_whole if isinstance(encoder, Featurizer) else encoder.encode
        for module, entry, features in zip(
            modules, done[name], encode(waveform, modules), strict=True
        ):
            assert module == entry.module, "an index has the order of the modules"  # noqa: S101
            expected = task.pooling.of(features)
            found = np.concatenate(list(work.blocks(entry))).astype(np.float32)
            if found.shape != expected.shape:
                return float("inf"), float(np.abs(expected).max())
            difference = max(difference, float(np.abs(found - expected).max()))
            largest = max(largest, float(np.abs(expected).max()))
    return difference, largest
