"""`gim-audio train`."""

from pathlib import Path
from typing import Any

import click

from gim_audio.cli.progress import progress, say


@click.command(epilog="Example: gim-audio train conf.yaml training.steps=500 --data packed/toy --out exp/toy")
@click.argument("conf", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--data", "packed", required=True, type=click.Path(path_type=Path), help="A packed corpus.")
@click.option("--out", "experiment", required=True, type=click.Path(path_type=Path), help="The experiment's folder.")
@click.option("--resume", is_flag=True, help="Go on from the latest checkpoint, if there is one.")
def train(conf: Path, overrides: tuple[str, ...], packed: Path, experiment: Path, resume: bool) -> None:
    """Train a model: CONF is a YAML file, its keys can be overridden on the line.

    Writes checkpoints `step-NNNNNN/` (the first before any training), `latest` and `metrics.jsonl`.
    """
    from gim_audio.config import load
    from gim_audio.packed import PackedCorpus
    from gim_audio.training import train as run

    config = load(conf, overrides)
    with progress("training", config.training.steps) as update:

        def show(metrics: dict[str, Any]) -> None:
            loss = " ".join(f"{value:.2f}" for value in metrics["loss"])
            accuracy = " ".join(f"{value:.0%}" for value in metrics["accuracy"])
            update(metrics["step"], f"step {metrics['step']} loss {loss} accuracy {accuracy}")

        run(config, PackedCorpus(packed), experiment, resume=resume, say=say, progress=show)
    say(f"trained {config.training.steps} steps: {experiment}")
