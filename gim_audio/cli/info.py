"""`gim-audio info`."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gim_audio.cli.options import PATH, command

if TYPE_CHECKING:
    from gim_audio.model.stack import GreedyInfoMax


@command(epilog="Example: gim-audio info exp/gim")
@click.argument("experiment", type=PATH)
def info(experiment: Path) -> None:
    """Print the modules of a trained model, and the memory that training it takes.

    Memory is that of the tensors, by arithmetic; libraries take some for themselves.
    """
    import torch

    from gim_audio.checkpoints.folders import has_heads, load_for_features, resolve
    from gim_audio.config import load
    from gim_audio.model.build import build_model
    from gim_audio.training.memory import memory_by_module, peaks

    model = load_for_features(experiment)  # says what is wrong with it
    if not has_heads(experiment):
        _table(
            model,
            [
                ["weights"],
                *([_mega(4 * sum(p.numel() for p in m.parameters()))] for m in model.stack),
            ],
        )
        click.echo(
            f"\n{sum(p.numel() for p in model.parameters()):,} parameters. "
            "It was exported for features: it has no prediction heads, and is not trained on."
        )
        return
    config = load(resolve(experiment) / "config.yaml")
    with torch.device("meta"):  # for arithmetic
        model = build_model(config.model, config.objectives)
    memory = ((m.weights, m.optimizer, m.activations) for m in memory_by_module(model, config))
    _table(
        model,
        [["weights", "optimizer", "activations"], *(list(map(_mega, sizes)) for sizes in memory)],
    )
    shape = config.model.model_copy(update={"isolate_after": (), "added": ()})
    end_to_end = config.model_copy(update={"model": shape, "objective": config.objectives[-1]})
    cpc = build_model(shape, end_to_end.objectives)
    name = "end to end (CPC)" if config.objectives[-1].kind == "infonce" else "end to end"
    whole = {**peaks(model, config), name: peaks(cpc, end_to_end)["joint"]}
    click.echo(
        f"\n{sum(p.numel() for p in model.parameters()):,} parameters. At most, in a step of "
        f"{config.training.batch} crops in {config.training.precision}, by schedule:"
    )
    for name, size in whole.items():
        click.echo(f"  {name.ljust(max(map(len, whole)))}  {_mega(size)}")


def _table(model: "GreedyInfoMax", memory: list[list[str]]) -> None:
    """Print a line for each module, with its memory; the first line is the heading."""
    from gim_audio.inference.layers import module_names

    rows = [["module", "made of", "parameters", "frames/s", "receptive field"]]
    for number, (name, module, geometry) in enumerate(
        zip(module_names(model), model.stack, model.geometries, strict=True), start=1
    ):
        parameters = f"{sum(p.numel() for p in module.parameters()):,}"
        seen = f"{1000 * geometry.receptive_field / model.rate:g} ms"
        if module.context is not None:
            seen += " and the past"
        if math.isinf(geometry.lookahead):
            seen += " and the future"
        elif geometry.lookahead:
            seen += f" and {1000 * geometry.lookahead / model.rate:g} ms ahead"
        rows.append([str(number), name, parameters, f"{model.rate / geometry.hop:g}", seen])
    rows = [row + sizes for row, sizes in zip(rows, memory, strict=True)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        click.echo(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )


def _mega(size: int) -> str:
    return f"{size / 1e6:.0f} MB" if size >= 1e7 else f"{size / 1e6:.2g} MB"
