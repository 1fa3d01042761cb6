"""The slow, obvious oracle: InfoNCE in NumPy loops, written from the paper and independent of the package."""

import math

import numpy as np
import torch


def infonce(z, c, weights, kind, number, window, generator):
    """Loss and accuracy of one module.

    `z` is (batch, frames, channels), `c` is (batch, frames, width), `weights` one (channels, width) for each k.
    Random numbers are drawn from the generator in the documented order: the window, then for `batch` one
    permutation of all frames for each negative, for `utterance` how far each negative lies from its target, for
    `pool` the pool; for `exact` the same for each k. Frames are numbered in order of time, then of utterance.
    """
    batch, frames, _ = z.shape
    total = batch * frames
    length = min(frames, window)
    first = int(torch.randint(frames - length + 1, (), generator=generator))
    targets = [(t, b) for t in range(first, first + length) for b in range(batch)]

    def frame(index):
        return z[index % batch, index // batch]

    def draw():
        if kind == "batch":
            permutations = [torch.randperm(total, generator=generator).tolist() for _ in range(number)]
            return {target: [p[i] for p in permutations] for i, target in enumerate(targets)}
        if kind == "pool":
            pool = torch.randperm(total, generator=generator)[:number].tolist()
            return {(t, b): [j for j in pool if j != t * batch + b] for t, b in targets}
        if kind == "utterance":
            ahead = torch.randint(1, frames, (len(targets), number), generator=generator).tolist()
            return {
                (t, b): [((t + step) % frames) * batch + b for step in steps]
                for (t, b), steps in zip(targets, ahead, strict=True)
            }
        ahead = torch.randint(1, total, (len(targets), number), generator=generator).tolist()
        return {
            (t, b): [(t * batch + b + step) % total for step in steps]
            for (t, b), steps in zip(targets, ahead, strict=True)
        }

    shared = None if kind == "exact" else draw()
    losses, accuracies = [], []
    for k, weight in enumerate(weights, start=1):
        negatives = draw() if shared is None else shared
        loss, right, count = 0.0, 0, 0
        for t in range(first, first + length - k):
            for b in range(batch):
                prediction = weight @ c[b, t]
                positive = float(prediction @ z[b, t + k])
                others = [float(prediction @ frame(j)) for j in negatives[(t + k, b)]]
                top = max([positive, *others])
                denominator = sum(math.exp(score - top) for score in [positive, *others])
                loss += math.log(denominator) + top - positive
                right += positive > max(others)
                count += 1
        losses.append(loss / count)
        accuracies.append(right / count)
    return np.mean(losses), np.mean(accuracies)
