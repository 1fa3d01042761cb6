"""`gim-audio import`."""

from pathlib import Path

import click

from gim_audio.cli.progress import say

PATH = click.Path(path_type=Path)


@click.command("import", epilog="Example: gim-audio import logs/audio_experiment/model_299.ckpt exp/published")
@click.argument("checkpoint", type=PATH)
@click.argument("exp", type=PATH)
def import_(checkpoint: Path, exp: Path) -> None:
    """Make an experiment of the published code's CHECKPOINT (model_N.ckpt), or of one of CPC_audio.

    CPC_audio's layer norms have no counterpart here: of its checkpoints, those with --normMode ID and a GRU fit.
    """
    import json

    from gim_audio.files import absent, new_folder, write_text
    from gim_audio.model.checkpoint import digest, load_model, save_model
    from gim_audio.model.gim import module_names
    from gim_audio.model.published import read_published
    from gim_audio.provenance import provenance

    absent(exp)
    config, weights = read_published(checkpoint)
    with new_folder(exp) as folder:
        save_model(folder, config, weights)
        source = {"file": checkpoint.name, "sha256": digest(checkpoint), **provenance()}
        write_text(folder / "imported.json", json.dumps(source, indent=2) + "\n")
    say(f"{exp}: {', '.join(module_names(load_model(exp)[1]))}")
