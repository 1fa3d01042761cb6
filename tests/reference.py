"""Slow, obvious oracles, written from the paper and independent of the package.

`infonce` is the loss in NumPy loops; `PlainTraining` is a joint run of all modules by nothing but
torch's own parts.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F


def infonce(z, c, weights, kind, number, window, generator):
    """Loss and accuracy of one module.

    `z` is (batch, frames, channels), `c` is (batch, frames, width), `weights` one (channels, width)
    for each k. Random numbers are drawn from the generator in the documented order: the window,
    then for `batch` one permutation of all frames for each negative, for `utterance` how far each
    negative lies from its target, for `pool` the pool; for `exact` the same for each k. Frames are
    numbered in order of time, then of utterance.
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
            permutations = [
                torch.randperm(total, generator=generator).tolist() for _ in range(number)
            ]
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


class PlainTraining:
    """Greedy InfoMax as one would first write it.

    One loss for each k, one backward pass at the end, plain Adam.
    """

    def __init__(self, model, config):
        """Take a copy of the weights that `model` begins with."""
        self.config = config
        weights = {name: value.detach().clone() for name, value in model.state_dict().items()}
        self.mean, self.deviation = weights.pop("mean"), weights.pop("deviation")
        self.weights = {name: value.requires_grad_() for name, value in weights.items()}
        channels, hidden = config.model.widths[-1], config.model.context.hidden
        self.gru = torch.nn.GRU(channels, hidden, batch_first=True)
        for name, parameter in self.gru.named_parameters():
            parameter.data = self.weights.pop(
                f"stack.{len(config.model.kernels)}.context.gru.{name}"
            ).detach()
        self.optimizer = torch.optim.Adam(
            [*self.weights.values(), *self.gru.parameters()], lr=config.training.learning_rate
        )

    def step(self, waveform, generator):
        """Losses of all modules, before the update."""
        x = ((waveform - self.mean) / self.deviation)[:, None]
        shapes = list(zip(self.config.model.strides, self.config.model.paddings, strict=True))
        losses = []
        for number in range(len(shapes) + 1):
            if number < len(shapes):
                name = f"stack.{number}.encoder.0.convolution"
                stride, padding = shapes[number]
                x = F.conv1d(
                    x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"], stride, padding
                ).relu()
                z = c = x.transpose(1, 2)
            else:
                z = x.transpose(1, 2)
                c = self.gru(z)[0]
            losses.append(
                self.loss(
                    z, c, self.weights[f"stack.{number}.objective.heads"], generator(number + 1)
                )
            )
            x = x.detach()
        self.optimizer.zero_grad()
        sum(losses).backward()
        self.optimizer.step()
        return [loss.item() for loss in losses]

    def loss(self, z, c, heads, generator):
        """Published negatives: permutations of all frames, the first rows of each."""
        batch, frames, _ = z.shape
        length = min(frames, self.config.objective.window)
        first = int(torch.randint(frames - length + 1, (), generator=generator))
        rows = z.transpose(0, 1).reshape(frames * batch, -1)
        contexts = c.transpose(0, 1)[first : first + length]
        permutations = [
            torch.randperm(frames * batch, generator=generator)
            for _ in range(self.config.objective.negatives.number)
        ]
        targets = torch.arange(first * batch, (first + length) * batch)
        negatives = torch.stack([rows[p[: len(targets)]] for p in permutations], dim=1)
        losses = []
        for k, head in enumerate(heads, start=1):
            prediction = F.linear(contexts[:-k].flatten(0, 1), head)[:, None]
            candidates = torch.cat([rows[targets, None], negatives], dim=1)[k * batch :]
            scores = (prediction * candidates).sum(2)
            losses.append(F.cross_entropy(scores, torch.zeros(len(scores), dtype=torch.long)))
        return sum(losses) / len(losses)
