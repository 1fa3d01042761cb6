"""Measure gradients by layer in stacks of more and more convolutions.

Greedy InfoMax against CPC.

    python gradients.py CONF PACKED OUT.json DEPTH...

A layer's figure is the root mean square of the gradient of its weights, for one batch at the
initialisation, and once more after some updates of the whole stack. More convolutions than five are
three frames wide and keep the rate.
"""

import json
import sys
from pathlib import Path

import torch

from gim_audio.config import Config, load
from gim_audio.files import write_text
from gim_audio.model.build import build_model
from gim_audio.packed import Crops, PackedCorpus
from gim_audio.provenance import provenance
from gim_audio.training.feed import Feed
from gim_audio.training.optimizers import AdamW
from gim_audio.training.step import Step

UPDATES = 100


def settings(conf: Path, depth: int, *, greedy: bool) -> Config:
    """A stack of `depth` convolutions and a GRU."""
    more = depth - 5
    cuts = list(range(1, depth + 1)) if greedy else []
    return load(
        conf,
        [
            f"model.kernels={[10, 8, 4, 4, 4, *[3] * more]}",
            f"model.strides={[5, 4, 2, 2, 2, *[1] * more]}",
            f"model.paddings={[2, 2, 2, 2, 1, *[1] * more]}",
            f"model.isolate_after={cuts}",
            "training.precision=fp32",
        ],
    )


def measure(config: Config, corpus: PackedCorpus) -> dict[str, list[float]]:
    """Root mean square gradients of each convolution's weights, before and after some updates."""
    torch.manual_seed(config.training.seed)
    model = build_model(config.model, config.objectives)
    crops = Crops(
        corpus, crop=config.data.crop, hop=config.model.hop, batch=config.training.batch, seed=1
    )
    feed = Feed(crops, torch.device("cpu"), "never")
    layers = [block.convolution.weight for module in model.stack for block in module.encoder]
    found: dict[str, list[float]] = {}

    def note(optimizer: AdamW) -> None:
        """Gradients are kept, weights are not changed."""

    learn = Step.joint(model, config)
    look = Step(model, learn.optimizers, seed=config.training.seed, dtype=learn.dtype, apply=note)
    for when, updates in (("at initialisation", 0), (f"after {UPDATES} updates", UPDATES)):
        for index in range(updates):
            learn(model.standardise(feed(index)), index)
        model.zero_grad(set_to_none=True)
        look(model.standardise(feed(UPDATES)), UPDATES)
        found[when] = [float(weight.grad.square().mean().sqrt()) for weight in layers]
    return found


if __name__ == "__main__":
    conf, packed, out, *depths = sys.argv[1:]
    corpus = PackedCorpus(Path(packed))
    measured = {
        f"{name}, {depth} convolutions": measure(
            settings(Path(conf), int(depth), greedy=greedy), corpus
        )
        for depth in depths
        for name, greedy in (("GIM", True), ("CPC", False))
    }
    write_text(
        Path(out), json.dumps({"gradients": measured, "provenance": provenance()}, indent=2) + "\n"
    )
    print(f"wrote {out}")
