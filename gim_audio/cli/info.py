"""`gim-audio info`."""

from pathlib import Path

import click

from gim_audio.cli.options import PATH, command


@command(epilog="Example: gim-audio info exp/gim")
@click.argument("experiment", type=PATH)
def info(experiment: Path) -> None:
    """Print what a trained model is made of, module by module, and what training it takes in memory.

    Memory is that of the tensors, by arithmetic; libraries take some for themselves.
    """
    import torch

    from gim_audio.config import load
    from gim_audio.model.checkpoint import load_for_features, resolve
    from gim_audio.model.gim import GreedyInfoMax, module_names
    from gim_audio.training.memory import memory_by_module, peaks

    load_for_features(experiment)  # says what is wrong with it
    config = load(resolve(experiment) / "config.yaml")
    with torch.device("meta"):  # for arithmetic
        model = GreedyInfoMax.build(config.model, config.objective)
    names, modules = module_names(model), memory_by_module(model, config)
    rows = [["module", "made of", "parameters", "frames/s", "receptive field", "weights", "optimizer", "activations"]]
    for number, (name, module, geometry, memory) in enumerate(
        zip(names, model.stack, model.geometries, modules, strict=True), start=1
    ):
        causal = " and the past" if module.context is not None else ""
        rows.append(
            [
                str(number),
                name,
                f"{sum(p.numel() for p in module.parameters()):,}",
                f"{model.rate / geometry.hop:g}",
                f"{1000 * geometry.receptive_field / model.rate:g} ms{causal}",
                *(_mega(size) for size in (memory.weights, memory.optimizer, memory.activations)),
            ]
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    end_to_end = config.model.model_copy(update={"isolate_after": (), "added": ()})
    cpc = GreedyInfoMax.build(end_to_end, config.objective)
    whole = {**peaks(model, config), "end to end (CPC)": peaks(cpc, config)["joint"]}
    click.echo(
        f"\n{sum(p.numel() for p in model.parameters()):,} parameters. At most, in a step of "
        f"{config.training.batch} crops in {config.training.precision}, by schedule:"
    )
    for name, size in whole.items():
        click.echo(f"  {name.ljust(max(map(len, whole)))}  {_mega(size)}")


def _mega(size: int) -> str:
    return f"{size / 1e6:.0f} MB" if size >= 1e7 else f"{size / 1e6:.2g} MB"
