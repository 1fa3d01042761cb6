"""The limits of training on 60,000 hours, by arithmetic from measurements on one GPU.

    python tools/scaling.py [--hours 60000] [--batch 64] [--link 50] [--out docs/scaling.md]

Step times and modules' times are those of `tools/bench_gpu.md`. The rate of the link between
processes is assumed, in GB/s; no two GPUs were measured.
"""

import argparse
from pathlib import Path

from bench import ROOT, table, write_page

from gim_audio.config import Config
from gim_audio.model.build import build_model

CROP_SECONDS = Config().data.crop / Config().model.rate
BYTES = 2
"""Bytes of a sample, of a frame's channel in bf16."""


TEXT = """\
By arithmetic from steps of {batch} crops of {crop} s in bf16 on one H100
([measured](../tools/bench_gpu.md)): more GPUs, each with as many crops, and a link of
{link:g} GB/s between processes are assumed. No two GPUs were measured.

## `parallel: data`

{data}
- **Launching.** One process replays its step as a graph. Several launch it kernel by kernel,
  because what travels between them is not captured: below a batch of 256 that is what limits
  each of them.
- **Reading.** {hours:,.0f} hours are {terabytes:.1f} TB as packed, more than GPUs hold: a thread
  of each process reads the next batch while this one is learnt from.
- **Drawing.** Crops are drawn on the host, once an epoch. Negatives are drawn on the device, by
  each process for all of them: it must know what the others ask it for, and to draw costs less
  than to ask.
- **Gradients.** They travel module by module while the next module computes. Their share of the
  step is what would be waited for if nothing overlapped.
- **Negatives of all processes** are more than the gradients, and are waited for: on many GPUs
  take `objective.negatives.ranks: own`, which sends none.

## `parallel: modules`

A process has some of the modules, and nothing travels down. Times are of steps that are launched
kernel by kernel, with the forward pass of the modules below.

{modules}
The slowest module sets the pace: six processes do the work of {busy:.1f}. As no gradient comes
back, no process waits but in the first batches of a phase. This multiplies the memory that a
model can have; for more audio a second take data parallelism.
"""


def measured(page: Path) -> tuple[dict[tuple[str, ...], list[float]], list[float]]:
    """Return the ms of steps by batch, kind and way, and the ms of each module alone."""
    steps, modules = {}, []
    for line in page.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 8 and cells[0].isdigit():
            steps[tuple(cells[:3])] = [float(cells[3]), float(cells[4])]
        elif cells[0].startswith("module ") and cells[0].endswith(" alone"):
            modules.append(float(cells[3]))
    return steps, modules


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hours", type=float, default=60_000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--link", type=float, default=50)
    parser.add_argument("--page", type=Path, default=ROOT / "tools/bench_gpu.md")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/scaling.md")
    options = parser.parse_args()
    steps, modules = measured(options.page)
    config = Config()
    model = build_model(config.model, config.objectives)
    weights = 4 * sum(p.numel() for p in model.parameters()) / 1e9
    frames = model.frames(config.data.crop)
    window, negatives = config.objective.window, config.objective.negatives.number
    row = BYTES * config.model.widths[0]
    rows = []
    for count in (1, 8, 64):
        way = "graph" if count == 1 else "eager"  # what travels is not captured
        ms, hours_a_second = steps[str(options.batch), "gim bf16", way]
        others = (count - 1) / count
        # A ring sends each gradient twice, less a part; all but the last module's travel while the
        # next module computes.
        sums = 2 * others * weights
        # Rows and their gradients, of each module, for `negatives.ranks: all`.
        exchanged = 2 * len(frames) * options.batch * window * negatives * row * others / 1e9
        audio = count * hours_a_second
        rows.append(
            [
                str(count),
                f"{ms:.3g}",
                f"{audio:.3g}",
                f"{options.hours / audio / 3600:.3g}",
                f"{audio * 3600 * config.model.rate * BYTES / 1e6:.0f}",
                f"{sums:.3g}",
                f"{1e3 * sums / options.link / ms:.0%}",
                f"{exchanged:.3g}",
                f"{1e3 * exchanged / options.link / ms:.0%}",
            ]
        )
    head = [
        "GPUs",
        "a step, ms",
        "hours of audio/s",
        "hours an epoch",
        "read, MB/s",
        "gradients, GB a step",
    ]
    head += ["of the step", "negatives of all, GB a step", "of the step"]
    slowest = max(modules)
    sent = [BYTES * options.batch * n * config.model.widths[0] / 1e6 for n in frames[:5]]
    pipeline = [
        [str(n), f"{alone:.3g}", f"{up:.0f}"]
        for n, alone, up in zip(range(1, 7), modules, [*sent, 0.0], strict=True)
    ]
    terabytes = options.hours * 3600 * config.model.rate * BYTES / 1e12
    text = TEXT.format(
        batch=options.batch,
        crop=CROP_SECONDS,
        link=options.link,
        hours=options.hours,
        terabytes=terabytes,
        busy=sum(modules) / slowest,
        data=table(head, rows),
        modules=table(["module", "alone, ms", "sent up, MB a step"], pipeline),
    )
    write_page(options.out, "60,000 hours on many GPUs", text)


if __name__ == "__main__":
    main()
