"""Rungs of the ladder: learn for minutes of a core, choose on some speakers, test on others."""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from copy import deepcopy
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from page import write_page

HERE = Path(__file__).resolve().parent
RUNGS: dict[str, dict[str, Any]] = yaml.safe_load((HERE / "rungs.yaml").read_text())
TRIAL = 30
"""Steps of each phase that are timed, to know how many fit."""
FRAMES = 60_000
"""Frames that a probe is fitted on."""


def merged(settings: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """Return settings with some of them changed; what is not a section is replaced."""
    found = deepcopy(settings)
    for key, value in change.items():
        both = isinstance(value, dict) and isinstance(found.get(key), dict)
        # Another kind of objective or context has settings of its own.
        other = both and value.get("kind", found[key].get("kind")) != found[key].get("kind")
        found[key] = merged(found[key], value) if both and not other else deepcopy(value)
    return found


def settings_of(name: str) -> tuple[dict[str, Any], list[Any], str | None]:
    """Return the settings of a rung, the shares of its phases, and the rung that it grows on."""
    rung = RUNGS[name]
    settings, shares, below = settings_of(rung["from"]) if "from" in rung else ({}, [], None)
    settings = merged(settings, rung.get("set", {}))
    return settings, rung.get("shares", shares), rung.get("above", below)


def learn(name: str, seed: int, data: Path, exp: Path, minutes: float) -> None:
    """Train a rung for some minutes of a core, and probe it on the speakers that choose."""
    folder = exp / f"{name}-{seed}"
    if (folder / "results/valid").exists():
        return
    import torch

    from gim_audio.config import Config
    from gim_audio.packed import PackedCorpus
    from gim_audio.training import train

    torch.set_num_threads(1)
    settings, shares, below = settings_of(name)
    minutes = RUNGS[name].get("minutes", minutes)
    base = None if below is None else exp / f"{below}-{seed}"
    if below is not None:
        learn(below, seed, data, exp, minutes)
        minutes -= RUNGS[below]["minutes"]
    settings = merged(settings, {"training": {"seed": seed, "checkpoint_every": 10**6}})
    corpus = PackedCorpus(data / "train")
    conf = exp / f"{name}-{seed}.yaml"

    def scheduled(steps: list[int]) -> Config:
        if shares:
            phases = [{"modules": m, "steps": n} for (_, m), n in zip(shares, steps, strict=True)]
            return Config.model_validate(merged(settings, {"training": {"schedule": phases}}))
        return Config.model_validate(merged(settings, {"training": {"steps": steps[0]}}))

    def run(config: Config, out: Path, **more: Any) -> list[float]:
        times = [time.process_time()]
        train(
            config, corpus, out, base=base, say=lambda line: None,
            progress=lambda done, total, metrics: times.append(time.process_time()), **more,
        )  # fmt: skip
        return times

    if not conf.exists():
        parts = [share for share, _ in shares] or [1.0]
        with tempfile.TemporaryDirectory() as scratch:
            times = run(scheduled([TRIAL] * len(parts)), Path(scratch) / "trial")
        took = [later - earlier for earlier, later in pairwise(times)]
        steps, units = [], 0.0
        for phase, part in enumerate(parts):
            own = took[phase * TRIAL : (phase + 1) * TRIAL]
            step = statistics.median(own[5:])
            units = max(0.0, own[0] - step)  # what a phase does before it begins, as clustering
            steps.append(max(TRIAL, int((60 * minutes * part - units) / step)))
        exp.mkdir(parents=True, exist_ok=True)
        conf.write_text(scheduled(steps).to_yaml())
    config = Config.model_validate(yaml.safe_load(conf.read_text()))
    began = folder.exists()
    times = run(config, folder, resume=began)
    spent = None if began else (times[-1] - times[0]) / 60
    if base is not None and spent is not None:
        first = json.loads((base / "minutes.json").read_text())["minutes"]
        spent = None if first is None else spent + first
    (folder / "minutes.json").write_text(json.dumps({"minutes": spent}))
    evaluate(folder, data / "fit", data / "valid", folder / "results/valid", FRAMES, "phones")


def command(out: Path, *words: object) -> None:
    """Run a command of gim-audio that writes `out`, in one thread, if it is not there."""
    if not out.exists():
        line = [sys.executable, "-m", "gim_audio", *map(str, words), "--out", str(out)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run(line, check=True, env=environment)  # noqa: S603 - our own command


def evaluate(
    model: Path | str, train: Path, test: Path, out: Path, frames: int, tasks: str, *more: object
) -> None:
    """Probe the last module of a model, in one thread."""
    command(
        out, "evaluate", model, "--train", train, "--test", test, "--tasks", tasks,
        "--protocols", "strict", "--module", "last", "--frames", frames, *more,
    )  # fmt: skip


def test(model: Path | str, folder: Path, data: Path) -> None:
    """Measure a model on speakers that nothing was chosen on."""
    fit, held = data / "probes_train", data / "probes_test"
    evaluate(
        model, fit, held, folder / "results/test", FRAMES, "phones,per,verification",
        "--speaker-train", data / "same_train", "--speaker-test", data / "same_test",
    )  # fmt: skip
    command(folder / "results/abx.json", "abx", model, held)


def main() -> None:
    """Read the command line and run one part."""
    parser = argparse.ArgumentParser(description=__doc__)
    parts = parser.add_subparsers(dest="part", required=True)
    parts.add_parser("names")
    parts.add_parser("grown-on")
    for part in ("learn", "try", "baseline", "report"):
        given = parts.add_parser(part)
        given.add_argument("--exp", type=Path, required=True)
        if part == "report":
            given.add_argument("--out", type=Path, required=True)
        else:
            given.add_argument("--data", type=Path, required=True)
            given.add_argument("name")
        if part in {"learn", "try"}:
            given.add_argument("seed", type=int)
        if part in {"learn", "report"}:
            given.add_argument("--minutes", type=float, required=True)
    options = parser.parse_args()
    if options.part == "names":
        print(" ".join(RUNGS))
    elif options.part == "grown-on":
        print(" ".join(dict.fromkeys(rung["above"] for rung in RUNGS.values() if "above" in rung)))
    elif options.part == "learn":
        learn(options.name, options.seed, options.data, options.exp, options.minutes)
    elif options.part == "try":
        folder = options.exp / f"{options.name}-{options.seed}"
        test(folder, folder, options.data)
    elif options.part == "baseline":
        folder = options.exp / options.name
        fit, held = options.data / "fit", options.data / "valid"
        evaluate(options.name, fit, held, folder / "results/valid", FRAMES, "phones")
        test(options.name, folder, options.data)
    else:
        write_page(options.exp, RUNGS, options.minutes, options.out)


if __name__ == "__main__":
    main()
