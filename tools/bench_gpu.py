"""All that is measured on a GPU, in one command with a time limit.

    tools/bench_gpu.sh PACKED [--minutes 8] [--out OUT] [--labelled TRAIN TEST] [--device cuda]

Parts: the device; the tests of `pytest -m gpu`; steps by batch, precision and way of launching,
beside the published code's work; memory by schedule; features; and a model, trained in the minutes
that are left. Each part runs in a process of its own with its own time limit, prints rows as it has
them, and loses none of them when it is stopped. `OUT/bench_gpu.md` is written after each part,
`OUT/PART.jsonl` has the numbers. On a CPU, everything is of toy size.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from bench import ROOT, seconds, table, write_page
from bench_step import CROP, objectives, published_step, synchronised

from gim_audio.config import Config, load
from gim_audio.devices import arithmetic, pick_device
from gim_audio.errors import GimAudioError
from gim_audio.kaldi import DataDir
from gim_audio.model.build import build_model
from gim_audio.packed import PackedCorpus
from gim_audio.training.cuda_graph import GraphedStep
from gim_audio.training.optimizers import AdamW
from gim_audio.training.step import Step, type_of_products

Row = dict[str, str | float | None]
TOY = ["model.channels=16", "model.context.hidden=16"]
BATCHES = {"cuda": [8, 32, 64, 128, 256], "cpu": [2]}
KINDS = {
    "published": [],
    "gim tf32": ["training.precision=tf32"],
    "gim bf16": ["training.precision=bf16"],
    "cpc bf16": ["training.precision=bf16", "model.isolate_after=[]"],
}
EVALUATION = 0.3
"""The share of the minutes left for the model that evaluating it may take."""


@dataclass
class Setting:
    """The device, the corpus and the folder of results."""

    device: torch.device
    packed: Path
    out: Path

    def config(self, *settings: str) -> Config:
        """Return the reference model's configuration, of toy size on a CPU."""
        toy = TOY if self.device.type == "cpu" else []
        return load(None, [f"training.device={self.device.type}", *toy, *settings])

    def measured(self, part: str) -> list[Row]:
        """Return the rows of a part that has run."""
        path = self.out / f"{part}.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        # The last line of a part that was stopped may be half a line.
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]


def step_flops(config: Config) -> float:
    """Return the floating-point operations of a training step.

    They are twice the products of every convolution, head and GRU, in forward and in each backward.

    Gradients of inputs count where a module has layers below the loss that need them; scores, a
    hundredth, do not.
    """
    model = build_model(config.model, config.objectives)
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


def facts(setting: Setting) -> Iterator[Row]:
    """Return the device's name, and what it does at most."""
    device, on_gpu = setting.device, setting.device.type == "cuda"
    name = torch.cuda.get_device_name(device) if on_gpu else "CPU"
    total = torch.cuda.get_device_properties(device).total_memory / 1e9 if on_gpu else None
    size, dtype = (8192, torch.bfloat16) if on_gpu else (512, torch.float32)
    a = torch.randn(2, size, size, device=device, dtype=dtype)
    big = torch.empty(2**29 if on_gpu else 2**20, device=device)
    product = seconds(synchronised(lambda: a[0] @ a[1], device), 10, warm=3)
    copy = seconds(synchronised(big.clone, device), 10, warm=3)
    yield {
        "device": name,
        "memory, GB": total,
        "matrix product, TFLOP/s": 2e-12 * size**3 / product,
        "copy, TB/s": 2e-12 * big.nbytes / copy,
    }


def tests(setting: Setting) -> Iterator[Row]:
    """Run `pytest -m gpu`."""
    log = setting.out / "tests.log"
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "tests/test_gpu.py"]
    with log.open("w") as file:
        command += ["-p", "no:cacheprovider", "-rfEs", "--durations=0"]
        done = subprocess.run(command, cwd=ROOT, check=False, stdout=file, stderr=file)
    said = log.read_text(encoding="utf-8").splitlines()
    ends = [line for line in said if "passed" in line or "skipped" in line or "FAILED" in line]
    yield from ({"status": done.returncode, "tests": line} for line in ends)


def launched(
    setting: Setting, kind: str, way: str, config: Config, waveform: torch.Tensor
) -> Callable[[], object]:
    """Return a step, launched kernel by kernel or as a graph."""
    if kind == "published":
        return published_step(config, waveform)
    model = build_model(config.model, config.objectives).to(setting.device)
    step, x = Step.joint(model, config), model.standardise(waveform)
    index = torch.zeros((), dtype=torch.int64, device=setting.device)
    if way == "eager":
        return lambda: step(x, index)
    graphed = GraphedStep(step, print)
    for _ in range(5):
        graphed(x, 0)
    return lambda: graphed(x, 1)


def steps(setting: Setting) -> Iterator[Row]:
    """Time joint steps."""
    device, on_gpu = setting.device, setting.device.type == "cuda"
    ways, crop_gigabytes = ["eager", "graph"] if on_gpu else ["eager"], 0.0
    for batch in BATCHES[device.type]:
        waveform = 0.06 * torch.randn(batch, CROP, device=device)
        for kind, settings in KINDS.items():
            if not on_gpu and "training.precision=tf32" in settings:
                continue
            emulated = [s.replace("bf16", "bf16-emulated") for s in settings]
            config = setting.config(f"training.batch={batch}", *(settings if on_gpu else emulated))
            for way in ways[:1] if kind == "published" else ways:
                if on_gpu:
                    free = torch.cuda.mem_get_info(device)[0] / 1e9
                    if kind == "published" and crop_gigabytes * batch > 0.8 * free:
                        continue  # it would end the whole table
                    torch.cuda.reset_peak_memory_stats()
                with arithmetic(tf32=kind == "gim tf32"):
                    work = launched(setting, kind, way, config, waveform)
                    taken = seconds(synchronised(work, device), 10, warm=2)
                memory = torch.cuda.max_memory_allocated() / 1e9 if on_gpu else None
                if kind == "published" and memory:
                    crop_gigabytes = memory / batch
                flops = 1e-12 * step_flops(config) / taken
                yield {
                    "batch": batch,
                    "step": kind,
                    "launched": way,
                    "ms": 1e3 * taken,
                    "hours of audio/s": batch * CROP / 16000 / 3600 / taken,
                    "TFLOP/s": flops,
                    "memory, GB": memory,
                }
                del work
                if on_gpu:
                    torch.cuda.empty_cache()
        if on_gpu:
            config = setting.config(f"training.batch={batch}", "training.precision=bf16")
            work = as_graph(objectives(config, waveform))
            taken = seconds(synchronised(work, device), 10, warm=2)
            yield {
                "batch": batch,
                "step": "heads and losses of gim bf16",
                "launched": "graph",
                "ms": 1e3 * taken,
            }


def as_graph(work: Callable[[], object]) -> Callable[[], object]:
    """Return work that is captured once and replayed."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            work()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


def memory(setting: Setting) -> Iterator[Row]:
    """Measure the peak of a step's memory, by what learns."""
    device, on_gpu = setting.device, setting.device.type == "cuda"
    batch = 64 if on_gpu else 2
    learns = {"joint": range(1, 7), **{f"module {n} alone": [n] for n in range(1, 7)}}
    settings = [f"training.batch={batch}", "training.precision=bf16" if on_gpu else ""]
    waveform = 0.06 * torch.randn(batch, CROP, device=device)
    for name, modules in [*learns.items(), ("end to end (CPC)", range(1, 2))]:
        cut = ["model.isolate_after=[]"] if "CPC" in name else []
        config = setting.config(*filter(None, settings), *cut)
        model = build_model(config.model, config.objectives).to(device)
        optimizers = {n: AdamW(model.stack[n - 1], 2e-4) for n in modules}
        step = Step(model, optimizers, seed=0, dtype=type_of_products(config), last=max(modules))
        x = model.standardise(waveform)
        index = torch.zeros((), dtype=torch.int64, device=device)
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        taken = seconds(synchronised(partial(step, x, index), device), 3)
        peak = torch.cuda.max_memory_allocated() / 1e9 if on_gpu else None
        yield {"training": name, "batch": batch, "GB": peak, "eager, ms": 1e3 * taken}
        del model, optimizers, step, x


def features(setting: Setting) -> Iterator[Row]:
    """Featurize the corpus, by the published model's shape and by gim-small."""
    from gim_audio.cli import main as command_line

    hours = float(PackedCorpus(setting.packed).samples.sum()) / 16000 / 3600
    precisions = ["fp32", "bf16"] if setting.device.type == "cuda" else ["fp32"]
    names = ["random", "gim-small"] if setting.device.type == "cuda" else ["gim-small"]
    for name in names:
        for precision in precisions:
            folder = setting.out / "features"
            shutil.rmtree(folder, ignore_errors=True)
            arguments = [name, str(setting.packed), str(folder), "--precision", precision]
            started = time.perf_counter()
            try:
                command_line(["featurize", *arguments, "--device", setting.device.type])
            except SystemExit as done:
                if done.code:
                    raise
            taken = time.perf_counter() - started
            yield {
                "model": "published shape" if name == "random" else name,
                "precision": precision,
                "hours": hours,
                "seconds": taken,
                "hours/s": hours / taken,
            }
            shutil.rmtree(folder, ignore_errors=True)


def model(setting: Setting, minutes: float, labelled: list[str]) -> Iterator[Row]:
    """Train the reference model for some minutes, and evaluate it."""
    on_gpu = setting.device.type == "cuda"
    rows = [r for r in setting.measured("steps") if r["step"] == "gim bf16"]
    batch = 64 if on_gpu else 2
    known = [float(r["ms"] or 0) for r in rows if r["batch"] == batch]
    each = min(known, default=100.0) / 1e3
    # Once more as long as a step alone: crops, metrics, checkpoints, diagnoses.
    number = max(4, int((1 - EVALUATION) * 60 * minutes / (1.3 * each))) if on_gpu else 4
    experiment, started = setting.out / "exp", time.perf_counter()
    conf = setting.out / "conf.yaml"
    precision = "auto" if on_gpu else "fp32"
    settings = [
        f"training.steps={number}",
        f"training.batch={batch}",
        "training.learning_rate=auto",
        "training.decay=cosine",
        f"training.precision={precision}",
        "data.short=leave out",
        f"training.checkpoint_every={max(1, number // 4)}",
        "training.diagnose_every=1000",
    ]
    conf.write_text(setting.config(*settings).to_yaml(), encoding="utf-8")
    gim("train", conf, "--data", setting.packed, "--out", experiment)
    taken = time.perf_counter() - started
    last = json.loads((experiment / "metrics.jsonl").read_text().splitlines()[-1])
    shown = {"steps": number, "batch": batch, "ms a step": 1e3 * taken / number}
    yield {**shown, "seconds": taken, "accuracy": " ".join(f"{a:.3f}" for a in last["accuracy"])}
    train, test = labelled or split(setting)
    known, asked = (set(DataDir.read(part).speakers.values()) for part in (train, test))
    tasks = ["phones"] if (Path(train) / "phones.ctm").exists() else []
    tasks += ["speakers"] if asked <= known else []
    if not tasks:
        return
    for name in (str(experiment), "mfcc"):
        results = setting.out / "results" / Path(name).name
        options = [
            "--tasks",
            ",".join(tasks),
            "--protocols",
            "strict",
            "--device",
            setting.device.type,
        ]
        gim("evaluate", name, "--train", train, "--test", test, *options, "--out", results)
        for path in sorted(results.glob("*.json")):
            found = json.loads(path.read_text(encoding="utf-8"))["modules"]
            accuracies = [f"{100 * module['accuracy']:.1f}" for module in found]
            yield {
                "features": Path(name).name,
                "task": path.stem,
                "%, each module": " ".join(accuracies),
            }
    if "phones" in tasks:
        for name in (str(experiment), "mfcc"):
            path = setting.out / "results" / f"abx-{Path(name).name}.json"
            gim("abx", name, test, "--out", path, "--device", setting.device.type)
            found = json.loads(path.read_text(encoding="utf-8"))["modules"]
            for where in ("within", "across"):
                errors = [
                    module[where] and f"{100 * module[where]['error']:.1f}" for module in found
                ]
                yield {
                    "features": Path(name).name,
                    "ABX": f"{where} speakers",
                    "% wrong, each module": " ".join(e or "-" for e in errors),
                }


def split(setting: Setting) -> list[str]:
    """Return two parts of the corpus that have the same speakers. Both were trained on."""
    parts = [str(setting.out / "data" / part) for part in ("train", "test")]
    gim("data", "split", setting.packed, *parts, "--by", "utterances", "--share", "0.8")
    return parts


def gim(*arguments: object) -> None:
    """Run the command line; what it says is this part's log."""
    command = [sys.executable, "-m", "gim_audio", *map(str, arguments)]
    subprocess.run(command, cwd=ROOT, check=True, stdout=sys.stderr)


PARTS = {"device": (facts, 30), "tests": (tests, 100), "steps": (steps, 90), "memory": (memory, 40)}
PARTS |= {"features": (features, 60)}
"""The parts before the model, and the seconds that each may take of eight minutes."""


def run_part(name: str, limit: float, arguments: list[str], out: Path) -> str:
    """Run a part in a process of its own; return how it ended."""
    command = [sys.executable, __file__, *arguments, "--part", name]
    with (out / f"{name}.jsonl").open("w") as rows, (out / f"{name}.log").open("w") as log:
        part = subprocess.Popen(command, stdout=rows, stderr=log, start_new_session=True)
        try:
            status = part.wait(limit)
        except subprocess.TimeoutExpired:
            os.killpg(part.pid, signal.SIGKILL)  # what it has started too
            part.wait()
            return f"stopped after {limit:.0f} s"
    return "done" if status == 0 else f"failed: see {name}.log"


def page(setting: Setting, ends: dict[str, str]) -> None:
    """Write what is measured so far."""
    parts = []
    peak = next((r["matrix product, TFLOP/s"] for r in setting.measured("device")), None)
    for name, end in ends.items():
        parts.append(f"## {name.capitalize()}\n")
        groups: dict[tuple[str, ...], list[Row]] = {}
        for row in setting.measured(name):
            if peak and row.get("TFLOP/s"):
                row["of its rate"] = f"{float(row['TFLOP/s'] or 0) / float(peak):.1%}"
            groups.setdefault(tuple(row), []).append(row)
        for head, rows in groups.items():
            parts.append(table(head, [[shown(row[key]) for key in head] for row in rows]))
        if end != "done":
            parts.append(f"This part {end}.\n")
    write_page(
        setting.out / "bench_gpu.md",
        "On a GPU",
        "The reference model, crops of 20480 samples. `published` does the work of the published "
        "code's step in today's torch; `of its rate` is against the matrix product above.\n"
        if setting.device.type == "cuda"
        else "A trial run of toy size; not run on a GPU.\n",
        *parts,
    )


def shown(value: str | float | None) -> str:
    """Return a cell of a table."""
    return "" if value is None else value if isinstance(value, str) else f"{value:.4g}"


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("packed", type=Path)
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--out", type=Path, default=Path("bench_gpu"))
    parser.add_argument("--labelled", nargs=2, type=Path, default=[], metavar=("TRAIN", "TEST"))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--left", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    device = pick_device(options.device)
    setting = Setting(device, options.packed.resolve(), options.out.resolve())
    if options.part:
        rows = (
            model(setting, options.left, [str(part.resolve()) for part in options.labelled])
            if options.part == "model"
            else PARTS[options.part][0](setting)
        )
        for row in rows:
            print(json.dumps(row), flush=True)
        return
    PackedCorpus(setting.packed)  # a wrong one costs no minutes
    setting.out.mkdir(parents=True, exist_ok=True)
    started, ends = time.monotonic(), {}
    for name, (_, limit) in PARTS.items():
        ends[name] = run_part(name, limit * options.minutes / 8, sys.argv[1:], setting.out)
        page(setting, ends)
    left = options.minutes - (time.monotonic() - started) / 60
    arguments = [*sys.argv[1:], "--left", str(left)]
    ends["model"] = run_part("model", max(20, 60 * left), arguments, setting.out)
    page(setting, ends)


if __name__ == "__main__":
    try:
        main()
    except GimAudioError as error:
        print(f"bench_gpu: {error}", file=sys.stderr)
        sys.exit(2)
