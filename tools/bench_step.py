"""A training step of the reference model, against the published code's work, a roofline and CPC.

    python tools/bench_step.py [--batch 8] [--steps 5] [--rounds 2] [--out tools/bench_step.md]

Every variant runs in a process of its own, in turns; a round's time is the median of its steps, the
best round counts. Nothing else should run on the machine.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from bench import apart, noise, peak_gigabytes, precisions, seconds, table, write_page
from torch import Tensor, nn

from gim_audio.config import Config, load
from gim_audio.devices import decide_precision, keep_freed_memory, pick_device
from gim_audio.model import ranks
from gim_audio.model.build import build_model
from gim_audio.model.objectives import infonce as gim_objectives
from gim_audio.model.sampling import RandomNumbers
from gim_audio.training import train
from gim_audio.training.optimizers import AdamW
from gim_audio.training.step import Step

IMPORTED = peak_gigabytes()
"""The memory of torch and the package before anything is done."""

VARIANTS = {
    "gim fp32": [],
    "gim bf16": ["training.precision=bf16"],
    "gim tf32": ["training.precision=tf32"],
    "cpc fp32": ["model.isolate_after=[]"],
    "cpc bf16": ["model.isolate_after=[]", "training.precision=bf16"],
    "gim fp32, compiled": [],
    "gim bf16, compiled": ["training.precision=bf16"],
    "gim fp32, plain": [],
    "gim bf16, plain": ["training.precision=bf16"],
    "gim fp32, out of order": [],
    "gim bf16, out of order": ["training.precision=bf16"],
    "pool fp32": ["objective.negatives={kind: pool, number: 512}"],
    "small pool fp32": ["objective.negatives={kind: pool, number: 64}"],
}
PUBLISHED = ["published", "published, memory kept"]
CROP = 20480


class PublishedLoss(nn.Module):
    """InfoNCE with the work of the published code.

    All ten permutations of all frames are gathered.
    """

    def __init__(
        self, width: int, channels: int, steps: int = 12, negatives: int = 10, window: int = 128
    ) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(width, channels, bias=False) for _ in range(steps))
        self.negatives, self.window = negatives, window

    def forward(self, z: Tensor, c: Tensor) -> Tensor:
        """Shape: `(batch, frames, channels)`."""
        frames = z.shape[1]
        everywhere = z.transpose(0, 1).reshape(-1, z.shape[2])
        orders = [torch.randperm(len(everywhere), device=z.device) for _ in range(self.negatives)]
        negatives = torch.stack([everywhere.index_select(0, order) for order in orders], dim=2)
        length = min(frames, self.window)
        first = int(torch.randint(frames - length + 1, ()))
        z, c = z[:, first : first + length], c[:, first : first + length]
        loss = z.new_zeros(())
        for k, head in enumerate(self.heads, start=1):
            predictions = head(c[:, :-k]).transpose(0, 1).reshape(-1, z.shape[2])
            positives = z[:, k:].transpose(0, 1).reshape(-1, z.shape[2])
            positive = torch.matmul(predictions[:, None], positives[:, :, None])[:, 0]
            negative = torch.matmul(predictions[:, None], negatives[-len(predictions) :])[:, 0]
            scores = torch.cat([positive, negative], dim=1)
            loss = loss + F.cross_entropy(scores, scores.new_zeros(len(scores), dtype=torch.long))
        return loss / len(self.heads)


class Published(nn.Module):
    """Six modules, and one backward pass at the end of the step."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        model, channels = config.model, config.model.widths[0]
        self.encoders = nn.ModuleList(
            nn.Sequential(nn.Conv1d(1 if layer == 0 else channels, channels, *shape), nn.ReLU())
            for layer, shape in enumerate(
                zip(model.kernels, model.strides, model.paddings, strict=True)
            )
        )
        self.context = nn.GRU(channels, model.context.hidden, batch_first=True)
        self.losses = nn.ModuleList(PublishedLoss(channels, channels) for _ in self.encoders)
        self.losses.append(PublishedLoss(model.context.hidden, channels))

    def forward(self, waveform: Tensor) -> Tensor:
        """The sum of the losses. Shape: `(batch, samples)`."""
        x, losses = waveform[:, None], []
        for encoder, loss in zip(self.encoders, self.losses, strict=False):
            x = encoder(x)
            z = x.transpose(1, 2)
            losses.append(loss(z, z))
            x = x.detach()
        z = x.transpose(1, 2)
        losses.append(self.losses[-1](z, self.context(z)[0]))
        return torch.stack(losses).sum()


def published_step(config: Config, waveform: Tensor) -> Callable[[], object]:
    """The published code's step, in fp32."""
    model = Published(config).to(waveform.device)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.training.learning_rate)

    def step() -> None:
        optimizer.zero_grad()
        model(waveform).backward()
        optimizer.step()

    return step


class PlainPredict:
    """`gim_audio.gradients.Predict` in plain torch, by one product of all steps."""

    @staticmethod
    def apply(contexts: Tensor, weights: Tensor, batch: int) -> Tensor:
        """Shape: as in the class."""
        steps, rows = len(weights), len(contexts)
        padded = F.pad(contexts, (0, 0, 0, steps * batch))
        starts = [k * batch for k in range(1, steps + 1)]  # rows go back in time
        past = torch.stack([padded[start : start + rows] for start in starts])
        return torch.bmm(past, weights.to(contexts.dtype).transpose(1, 2)).transpose(0, 1)


class PlainCompare:
    """`gim_audio.gradients.Compare` in plain torch."""

    @staticmethod
    def apply(predictions: Tensor, candidates: Tensor) -> Tensor:
        """Shape: as in the class."""
        return torch.bmm(predictions.float(), candidates.float().transpose(1, 2))


def our_step(config: Config, waveform: Tensor, change: str = "") -> Callable[[], object]:
    """Return the package's own step, or with a change.

    Args:
        config: The configuration.
        waveform: Shape: `(batch, samples)`.
        change: The change: `compiled` lets torch.compile make the convolutions' kernels, `plain`
            writes no gradient by hand, and `out of order` leaves the gradients of frames in the
            order in which they come.
    """
    keep_freed_memory()
    compiled = change == "compiled"
    if change == "plain":
        gim_objectives.Predict, gim_objectives.Compare = PlainPredict, PlainCompare
    if change == "out of order":
        ranks._in_order = lambda gradient: gradient  # noqa: SLF001
    model = build_model(config.model, config.objectives).to(waveform.device)
    for block in (block for module in model.stack if compiled for block in module.encoder):
        block.compile()
    step, x, count = Step.joint(model, config), model.standardise(waveform), iter(range(10**9))
    return lambda: float(step(x, next(count))[1].sum())  # a run reads its losses


def objectives(config: Config, waveform: Tensor) -> Callable[[], object]:
    """Run the heads and losses alone, forward and backward.

    Frames have the shapes and layouts of a real step.
    """
    keep_freed_memory()
    model = build_model(config.model, config.objectives).to(waveform.device)
    dtype = torch.bfloat16 if config.training.precision == "bf16" else torch.float32
    work = []
    for module, frames in zip(model.stack, model.frames(waveform.shape[1]), strict=True):
        _, channels, width = module.objective.heads.shape
        z = torch.randn(
            len(waveform), channels, frames, dtype=dtype, device=waveform.device
        ).transpose(1, 2)
        c = torch.randn(
            len(waveform), frames, width, dtype=dtype, device=waveform.device, requires_grad=True
        )
        if width == channels:
            z.requires_grad_()
        work.append((module.objective, z, z if width == channels else c))

    most = max(objective.numbers(z.shape[1], len(z)) for objective, z, _ in work)
    numbers = RandomNumbers(0).of(range(1, 2), most, waveform.device)[0]

    def run() -> None:
        for objective, z, c in work:
            objective.score(z, c, numbers).loss.backward()
            z.grad = c.grad = objective.heads.grad = None

    return run


def memory_of_a_run(config: Config) -> None:
    """`train` on noise, with checkpoints and a diagnosis."""
    with tempfile.TemporaryDirectory() as temporary:
        training = config.training.model_copy(
            update={"steps": 12, "checkpoint_every": 5, "diagnose_every": 5}
        )
        train(
            config.model_copy(update={"training": training}),
            noise(Path(temporary), CROP),
            Path(temporary) / "exp",
            say=lambda line: None,
        )


def roofline(config: Config, waveform: Tensor, dtype: torch.dtype) -> dict[str, float]:
    """Return the seconds of the step's arithmetic, each part alone.

    Each takes the fastest of the ways that torch has here.
    """
    keep_freed_memory()
    parts: dict[str, float] = {}
    device, batch, channels, model = (
        waveform.device,
        len(waveform),
        config.model.widths[0],
        config.model,
    )

    def fastest(*ways: Callable[[], object]) -> float:
        return min(seconds(synchronised(way, device), 5, warm=2) for way in ways)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, device=device).to(dtype)

    def product(a: Tensor, b: Tensor) -> float:
        """A (rows, inner) times B (inner, columns): a product, and a convolution of kernel 1."""
        return fastest(lambda: a @ b, lambda x=a.T[None], w=b.T[:, :, None]: F.conv1d(x, w))

    length, x = waveform.shape[1], random(batch, 1, waveform.shape[1])
    for kernel, stride, padding in zip(model.kernels, model.strides, model.paddings, strict=True):
        w = random(channels, x.shape[1], kernel)
        y = F.conv1d(x, w, None, stride, padding)
        length = y.shape[2]
        x4, w4, y4 = (
            t[:, :, None].contiguous(memory_format=torch.channels_last) for t in (x, w, y)
        )

        def weight_gradient(
            g: Tensor, x: Tensor, w: Tensor, stride: list[int], padding: list[int]
        ) -> object:
            ones, mask = [1] * len(stride), [False, True, True]
            zeros = [0] * len(stride)
            return torch.ops.aten.convolution_backward(
                g, x, w, [len(w)], stride, padding, ones, False, zeros, 1, mask
            )

        parts["convolutions, forward"] = parts.get("convolutions, forward", 0) + fastest(
            lambda x=x, w=w, s=stride, p=padding: F.conv1d(x, w, None, s, p),
            lambda x=x4, w=w4, s=stride, p=padding: F.conv2d(x, w, None, (1, s), (0, p)),
        )
        parts["convolutions, weights' gradients"] = parts.get(
            "convolutions, weights' gradients", 0
        ) + fastest(
            lambda g=y, x=x, w=w, s=stride, p=padding, f=weight_gradient: f(g, x, w, [s], [p]),
            lambda g=y4, x=x4, w=w4, s=stride, p=padding, f=weight_gradient: f(
                g, x, w, [1, s], [0, p]
            ),
        )
        x = y
    rows, hidden = batch * min(length, config.objective.window), model.context.hidden
    for width, times in ((channels, len(model.kernels)), (hidden, 1)):
        c, w, g = random(rows, width), random(12 * channels, width), random(rows, 12 * channels)
        # A step k has no context for the first k frames: 6.5 of them on average.
        valid = 1 - 6.5 * batch / rows
        parts["heads' products"] = parts.get("heads' products", 0) + times * valid * (
            product(c, w.T) + product(g.T, c) + product(g, w)
        )
    z, w, g = random(rows, channels), random(3 * hidden, channels), random(rows, 3 * hidden)
    h, u = random(batch, hidden), random(3 * hidden, hidden)
    once = product(z, w.T) + product(g.T, z) + product(g.T, random(rows, hidden))
    d = random(batch, 3 * hidden)
    parts["the GRU's products"] = once + length * (
        fastest(lambda: h @ u.T) + fastest(lambda: d @ u)
    )
    whole = build_model(config.model, config.objectives).to(device)
    gradients = [torch.randn_like(p) for p in whole.parameters()]
    optimizer = AdamW(whole, 2e-4)

    def update() -> None:
        for parameter, gradient in zip(whole.parameters(), gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()

    parts["Adam"] = fastest(update)
    return parts


def synchronised(work: Callable[[], object], device: torch.device) -> Callable[[], object]:
    """Return work that on a GPU ends when its kernels do."""
    if device.type != "cuda":
        return work

    def run() -> None:
        work()
        torch.cuda.synchronize(device)

    return run


def measure(variant: str, batch: int, steps: int, device: torch.device) -> dict[str, float]:
    """One variant, in this process."""
    torch.manual_seed(0)
    name = variant.removeprefix("objectives of ").removeprefix("memory of ")
    config = load(
        None, [f"training.batch={batch}", f"training.device={device}", *VARIANTS.get(name, [])]
    )
    waveform = 0.06 * torch.randn(batch, CROP, device=device)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = (
        decide_precision(config.training.precision, device) == "tf32"
    )
    if variant.startswith("roofline"):
        return roofline(
            config, waveform, torch.bfloat16 if variant.endswith("bf16") else torch.float32
        )
    if variant.startswith("memory of"):
        memory_of_a_run(config)
        return {"gigabytes": memory(device)}
    if variant == "published, memory kept":
        keep_freed_memory()
    make = (
        published_step
        if variant.startswith("published")
        else objectives
        if variant != name
        else our_step
    )
    if make is our_step:
        make = partial(our_step, change=variant.partition(", ")[2])
    step = synchronised(make(config, waveform), device)
    taken = seconds(step, steps, warm=2)
    return {"seconds": taken, "gigabytes": memory(device)}


def memory(device: torch.device) -> float:
    """Most that was held so far."""
    return (
        torch.cuda.max_memory_allocated() / 1e9
        if device.type == "cuda"
        else peak_gigabytes() - IMPORTED
    )


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    device = pick_device(options.device)
    if options.measure:
        print(json.dumps(measure(options.measure, options.batch, options.steps, device)))
        return

    counted = ["gim fp32", "gim bf16", "cpc fp32", "cpc bf16"]
    variants = [
        *PUBLISHED,
        *VARIANTS,
        *(f"objectives of {name}" for name in counted),
        *(f"memory of {name}" for name in VARIANTS if "," not in name),
        "roofline fp32",
        "roofline bf16",
    ]
    if device.type != "cuda":
        variants = [variant for variant in variants if "tf32" not in variant]
    if "bf16" not in precisions(device):
        variants = [variant for variant in variants if "bf16" not in variant]
    rounds: dict[str, list[dict[str, float]]] = {variant: [] for variant in variants}
    for turn in range(options.rounds):
        for variant in variants:
            print(f"round {turn + 1} of {options.rounds}: {variant}", file=sys.stderr)
            found = apart(
                __file__,
                "--measure",
                variant,
                "--batch",
                options.batch,
                "--steps",
                options.steps,
                "--device",
                device,
            )
            rounds[variant].append(found)
    best = {
        variant: {
            key: (max if key == "gigabytes" else min)(one[key] for one in found) for key in found[0]
        }
        for variant, found in rounds.items()
    }
    write(best, options.out, options.batch, device)


def write(best: dict[str, dict[str, float]], out: Path, batch: int, device: torch.device) -> None:
    """The page."""
    took = {variant: found.get("seconds", sum(found.values())) for variant, found in best.items()}
    steps = [
        [
            variant,
            f"{took[variant]:.3f}",
            f"{took['published'] / took[variant]:.1f}",
            f"{best.get(f'memory of {variant}', best[variant])['gigabytes']:.2f}",
        ]
        for variant in [*PUBLISHED, *VARIANTS]
        if variant in best
    ]
    measured = [precision for precision in ("fp32", "bf16") if f"roofline {precision}" in best]
    floor = [
        [part, *(f"{1e3 * best[f'roofline {precision}'][part]:.0f}" for precision in measured)]
        for part in best["roofline fp32"]
    ]
    total = [f"{1e3 * took[f'roofline {precision}']:.0f}" for precision in measured]
    ratio = [
        f"{took[f'gim {precision}'] / took[f'roofline {precision}']:.2f}" for precision in measured
    ]
    against = []
    for precision in measured:
        gim, cpc = (took[f"{kind} {precision}"] for kind in ("gim", "cpc"))
        own_gim, own_cpc = (
            whole - took[f"objectives of {kind} {precision}"]
            for kind, whole in (("gim", gim), ("cpc", cpc))
        )
        against.append(
            [
                precision,
                f"{gim:.3f}",
                f"{cpc:.3f}",
                f"{gim / cpc:.2f}",
                f"{own_gim:.3f}",
                f"{own_cpc:.3f}",
                f"{own_gim / own_cpc:.2f}",
            ]
        )
    write_page(
        out,
        "A training step",
        f"The reference model, batch {batch}, crops of {CROP} samples, on {device.type}."
        " `published` does the work of the published code's step in today's torch, once more with"
        " freed memory kept as `gim-audio train` keeps it; `pool` has 512 shared negatives, `small"
        " pool` 64; `compiled` lets torch.compile make the convolutions, `plain` writes no gradient"
        " by hand, and `out of order` leaves the gradients of frames in the order in which they"
        " come. Our memory is that of a whole run, checkpoints and all, "
        + (
            "what torch allocated on the device.\n"
            if device.type == "cuda"
            else "above what the imports hold.\n"
        ),
        table(["step", "seconds", "times faster than published", "peak memory, GB"], steps),
        "## Roofline\n\nThe step's arithmetic in ms, each part alone, with the fastest of torch's"
        " ways here.\n",
        table(
            ["part", *measured], [*floor, ["sum", *total], ["a GIM step, times the sum", *ratio]]
        ),
        "## Against CPC\n\nSeconds of a step; a GIM step has six sets of heads where CPC has one,"
        " so the last three columns leave out the heads and losses of both (measured alone).\n",
        table(["precision", "GIM", "CPC", "ratio", "GIM, rest", "CPC, rest", "ratio"], against),
    )


if __name__ == "__main__":
    main()
