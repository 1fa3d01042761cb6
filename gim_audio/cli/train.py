"""`gim-audio train`."""

import os
from pathlib import Path
from typing import Any

import click

from gim_audio.cli.options import COUNT, PATH, command
from gim_audio.cli.progress import progress, say


@command(
    epilog="Example: gim-audio train conf.yaml training.steps=500 --data packed/toy --out exp/toy"
)
@click.argument("conf", type=PATH)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--data", "packed", required=True, type=PATH, help="A packed corpus.")
@click.option("--out", "experiment", required=True, type=PATH, help="The experiment's folder.")
@click.option(
    "--resume", is_flag=True, help="Continue from the latest checkpoint where there is one."
)
@click.option("--from", "base", type=PATH, help="Grow this experiment: CONF adds modules to it.")
@click.option(
    "--init", type=PATH, help="Begin with these weights: an experiment, a checkpoint or gim-small."
)
@click.option("--valid", type=PATH, help="A packed corpus that says which checkpoint is best.")
@click.option(
    "--keep", type=COUNT, help="The number of checkpoints to keep, beside the first and the best."
)
def train(
    conf: Path,
    overrides: tuple[str, ...],
    packed: Path,
    experiment: Path,
    resume: bool,
    base: Path | None,
    init: Path | None,
    valid: Path | None,
    keep: int | None,
) -> None:
    """Train a model: CONF is a YAML file, its keys can be overridden on the line.

    Writes checkpoints `step-NNNNNN/` (the first before any training), `latest` and `metrics.jsonl`.
    Ctrl-C and SIGTERM write a checkpoint first, SIGUSR1 writes one and continues. Under torchrun,
    training.parallel=data or =modules divides the work.
    """
    from gim_audio.checkpoints.folders import resolve
    from gim_audio.config import load
    from gim_audio.devices import keep_freed_memory
    from gim_audio.packed import PackedCorpus
    from gim_audio.training import train as run

    keep_freed_memory()
    config = load(conf, overrides)
    with progress("training", None) as update:

        def show(done: int, total: int, metrics: dict[str, Any]) -> None:
            loss, accuracy = (
                " ".join("-" if value is None else format(value, style) for value in metrics[name])
                for name, style in (("loss", ".2f"), ("accuracy", ".0%"))
            )
            update(done, f"step {metrics['step']} loss {loss} accuracy {accuracy}", total)

        made = run(
            config,
            PackedCorpus(packed),
            experiment,
            resume=resume,
            base=base,
            init=init,
            valid=PackedCorpus(valid) if valid else None,
            keep=keep,
            say=say,
            progress=show,
        )
    if os.environ.get("RANK", "0") == "0":
        done = resolve(experiment)
        say(
            f"trained: {experiment}"
            if made
            else f"{experiment}: nothing was left to train: it is at {done.name}"
        )
