"""Measure what larger batches give.

Steps and hours of audio a second, and the share of the device's peak that is used.

    python tools/bench_throughput.py [--device cuda] [--peak 989] [--batches 8 64 256] [--out FILE]

Greedy InfoMax, CPC and the published code's work, each in a process of its own. `--peak` is what
the device's maker says of dense bfloat16 products, in TFLOP/s (989 for an H100 SXM); without it
there is no utilisation.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from bench import apart, precisions, seconds, table, write_page
from bench_step import CROP, memory, our_step, published_step, synchronised

from gim_audio.config import Config, load
from gim_audio.devices import decide_precision, pick_device
from gim_audio.model.build import build_model

KINDS = {
    "published": [],
    "gim fp32": [],
    "gim tf32": ["training.precision=tf32"],
    "gim bf16": ["training.precision=bf16"],
    "cpc bf16": ["training.precision=bf16", "model.isolate_after=[]"],
}


def step_flops(config: Config) -> float:
    """Return the floating-point operations of a training step.

    They are twice the products of every convolution, head and GRU, in forward and in each backward.

    Gradients of inputs count where a module has layers below the loss that need them; scores, a
    hundredth, do not.
    """
    model = build_model(config.model, config.objective)
    batch, window, total = config.training.batch, config.objective.window, 0.0
    length = config.data.crop
    for module in model.stack:
        for number, block in enumerate(module.encoder):
            length = block.frames(length)
            passes = 2 if number == 0 else 3  # a module's input takes no gradient
            total += 2 * passes * batch * length * block.convolution.weight.numel()
        if module.context is not None:
            gru = module.context.gru
            # A context that is a module of its own takes frames without a gradient.
            inputs = 3 if len(module.encoder) else 2
            total += (
                2
                * batch
                * length
                * (inputs * gru.weight_ih_l0.numel() + 3 * gru.weight_hh_l0.numel())
            )
        steps, channels, width = module.objective.heads.shape
        scored = steps * min(length, window) - steps * (steps + 1) // 2
        total += 2 * 3 * batch * scored * channels * width
    return total


def measure(kind: str, batch: int, steps: int, device: torch.device) -> dict[str, float]:
    """One row, in this process."""
    torch.manual_seed(0)
    config = load(None, [f"training.batch={batch}", f"training.device={device}", *KINDS[kind]])
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = (
        decide_precision(config.training.precision, device) == "tf32"
    )
    waveform = 0.06 * torch.randn(batch, CROP, device=device)
    make = published_step if kind == "published" else our_step
    taken = seconds(synchronised(make(config, waveform), device), steps, warm=2)
    return {"seconds": taken, "gigabytes": memory(device), "flops": step_flops(config)}


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--batches", type=int, nargs="+", default=[8, 64, 256])
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--peak", type=float)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    device = pick_device(options.device)
    if options.measure:
        print(json.dumps(measure(options.measure, options.batches[0], options.steps, device)))
        return

    rows, known = [], precisions(device)
    for batch in options.batches:
        for kind in KINDS:
            if ("tf32" in kind and device.type != "cuda") or (
                "bf16" in kind and "bf16" not in known
            ):
                continue
            print(f"batch {batch}: {kind}", file=sys.stderr)
            found = apart(
                __file__,
                "--measure",
                kind,
                "--batches",
                batch,
                "--steps",
                options.steps,
                "--device",
                device,
            )
            rate, teraflops = 1 / found["seconds"], 1e-12 * found["flops"] / found["seconds"]
            rows.append(
                [
                    str(batch),
                    kind,
                    f"{rate:.3g}",
                    f"{rate * batch * CROP / 16000 / 3600:.3g}",
                    f"{teraflops:.3g}",
                    f"{teraflops / options.peak:.1%}" if options.peak else "",
                    f"{found['gigabytes']:.2f}",
                ]
            )
    name = (
        torch.cuda.get_device_name(device) if device.type == "cuda" else "the CPU; not run on a GPU"
    )
    write_page(
        options.out,
        "Larger batches",
        (
            f"The reference model on {name}. Utilisation is of {options.peak} TFLOP/s.\n"
            if options.peak
            else f"The reference model on {name}.\n"
        ),
        table(
            [
                "batch",
                "step",
                "steps/s",
                "hours of audio/s",
                "TFLOP/s",
                "utilisation",
                "memory, GB",
            ],
            rows,
        ),
    )


if __name__ == "__main__":
    main()
