"""Measure features of a long file against the convolutions alone, and probes.

The published probes encode again in each epoch.

python tools/bench_features.py [--minutes 5] [--out tools/bench_features.md]
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from bench import apart, precisions, seconds, table, write_page

from gim_audio.config import Config
from gim_audio.devices import keep_freed_memory
from gim_audio.featurize import Featurizer
from gim_audio.model.build import build_model
from gim_audio.model.stack import GreedyInfoMax

RATE, CROP = 16000, 20480
SLICE = 10
"""Seconds of audio that a reference is measured on and scaled from."""
EPOCHS = {"phones": 20, "speakers": 50}
"""Epochs of the published probes, each of which encodes all utterances or crops again."""
HOUR = 3600


def model() -> GreedyInfoMax:
    """The reference model, untrained."""
    torch.manual_seed(0)
    return build_model(Config().model, Config().objective)


def noise(length: float) -> np.ndarray:
    """Seconds of noise as loud as speech."""
    return (0.06 * np.random.default_rng(0).standard_normal(int(length * RATE))).astype(np.float32)


def measure(what: str, length: float) -> float:
    """Seconds per second of audio, in this process."""
    kind, _, precision = what.partition(" ")
    if kind == "featurize":
        keep_freed_memory()
        encoder, waveform = Featurizer(model(), "random", precision=precision), noise(length)
        return seconds(lambda: encoder.encode(waveform, [6]), 2) / length
    if kind == "every":  # all modules at once, as a probe encodes
        keep_freed_memory()
        encoder, waveform = Featurizer(model(), "random"), noise(SLICE)
        return seconds(lambda: encoder.encode(waveform), 5) / SLICE
    if kind == "published":  # a whole utterance through plain modules, one probe's epoch
        stack, waveform = model(), torch.from_numpy(noise(SLICE))[None]
        with torch.no_grad():
            return seconds(lambda: stack(waveform), 5) / SLICE
    return convolutions(precision)


def convolutions(precision: str, channels: int = 512) -> float:
    """Return the seconds that the forward passes take per second of audio.

    Each convolution is alone, in the faster of torch's layouts.
    """
    keep_freed_memory()
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    x, total, config = torch.from_numpy(noise(SLICE))[None, None].to(dtype), 0.0, Config().model
    for kernel, stride, padding in zip(
        config.kernels, config.strides, config.paddings, strict=True
    ):
        w = torch.randn(channels, x.shape[1], kernel).to(dtype)
        x4, w4 = (t[:, :, None].contiguous(memory_format=torch.channels_last) for t in (x, w))
        total += min(
            seconds(lambda x=x, w=w, s=stride, p=padding: F.conv1d(x, w, None, s, p), 10, warm=3),
            seconds(
                lambda x=x4, w=w4, s=stride, p=padding: F.conv2d(x, w, None, (1, s), (0, p)),
                10,
                warm=3,
            ),
        )
        x = F.conv1d(x, w, None, stride, padding)
    return total / SLICE


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps({"seconds": measure(options.measure, 60 * options.minutes)}))
        return

    took = {}
    known = precisions(torch.device("cpu"))
    alone = [f"{part} {precision}" for precision in known for part in ("convolutions", "featurize")]
    for what in (*alone, "every module", "published"):
        print(what, file=sys.stderr)
        found = [
            apart(__file__, "--measure", what, "--minutes", options.minutes)["seconds"]
            for _ in range(2)
        ]
        took[what] = min(found)
    rows = [
        [
            precision,
            f"{1 / took[f'featurize {precision}']:.0f}",
            f"{1 / took[f'convolutions {precision}']:.0f}",
            f"{took[f'convolutions {precision}'] / took[f'featurize {precision}']:.2f}",
        ]
        for precision in known
    ]
    # An hour of LibriSpeech is 290 utterances; a published speaker epoch encodes one crop of each.
    crops = 290 * CROP / RATE
    once = 2 * HOUR * took["every module"]
    again = 6 * took["published"] * (EPOCHS["phones"] * HOUR + EPOCHS["speakers"] * crops)
    write_page(
        options.out,
        "Features and probes",
        f"The reference model, one file of {options.minutes:g} minutes, last module, on the CPU; in"
        f" seconds of audio a second. The convolutions' forward alone, on {SLICE} s, is the fastest"
        " of torch's layouts.\n",
        table(["precision", "featurize", "convolutions alone", "ratio"], rows),
        "## Probes\n\nEncoding one hour of training audio for all six modules and both tasks, as"
        " `gim-audio probe` does (once a task), and as published (for each module, in each of 20"
        f" epochs of whole utterances and 50 of crops); scaled from {SLICE} s.\n",
        table(
            ["probe", "published", "times faster"],
            [[f"{once / 60:.1f} min", f"{again / 60:.0f} min", f"{again / once:.0f}"]],
        ),
    )


if __name__ == "__main__":
    main()
