"""Slow, obvious oracles, written from the paper and independent of the package.

`infonce` is the loss in NumPy loops; `PlainTraining` is a joint run of all modules by nothing but
torch's own parts.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F


def infonce(z, c, weights, first, length, negatives):
    """Loss and accuracy of one module.

    `z` is (batch, frames, channels), `c` is (batch, frames, width), `weights` one (channels, width)
    for each k. The window has `length` frames from `first`; `negatives` is a function of k and of
    the target's time and utterance that returns pairs of utterance and time.
    """
    batch = len(z)
    losses, accuracies = [], []
    for k, weight in enumerate(weights, start=1):
        loss, right, count = 0.0, 0, 0
        for t in range(first, first + length - k):
            for b in range(batch):
                prediction = weight @ c[b, t]
                positive = float(prediction @ z[b, t + k])
                others = [float(prediction @ z[place]) for place in negatives(k, t + k, b)]
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

    def step(self, waveform, draws):
        """Losses of all modules, before the update, by what was drawn for each."""
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
                self.loss(z, c, self.weights[f"stack.{number}.objective.heads"], draws[number])
            )
            x = x.detach()
        self.optimizer.zero_grad()
        sum(losses).backward()
        self.optimizer.step()
        return [loss.item() for loss in losses]

    def loss(self, z, c, heads, draw):
        """Return the loss of a draw, whose window begins with its last frame."""
        rows = z.flatten(0, 1)
        places = draw.candidates.flip(0)
        first, length = int(draw.last) + 1 - len(places), len(places)
        contexts = c.transpose(0, 1)[first : first + length]
        losses = []
        for k, head in enumerate(heads, start=1):
            prediction = F.linear(contexts[:-k].flatten(0, 1), head)[:, None]
            candidates = rows[places[k:].flatten(0, 1)]
            scores = (prediction * candidates).sum(2)
            losses.append(F.cross_entropy(scores, torch.zeros(len(scores), dtype=torch.long)))
        return sum(losses) / len(losses)
