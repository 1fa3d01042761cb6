"""`gim-audio import` and `export`."""

from pathlib import Path

import click

from gim_audio.cli.options import EXPERIMENT, MODULE, PATH, command
from gim_audio.cli.progress import say


@command(
    "import", epilog="Example: gim-audio import logs/audio_experiment/model_299.ckpt exp/published"
)
@click.argument("checkpoint", type=PATH)
@click.argument("exp", type=PATH)
def import_(checkpoint: Path, exp: Path) -> None:
    """Make an experiment of the published code's CHECKPOINT (model_N.ckpt), or of one of CPC_audio.

    CPC_audio's layer norms have no counterpart here: of its checkpoints, those with --normMode ID
    and a GRU fit.
    """
    import json

    from gim_audio.checkpoints.folders import digest, load_model, save_model
    from gim_audio.checkpoints.import_checkpoints import read_published
    from gim_audio.files import absent, new_folder, write_text
    from gim_audio.inference.layers import module_names
    from gim_audio.provenance import provenance

    absent(exp)
    config, weights = read_published(checkpoint)
    with new_folder(exp) as folder:
        save_model(folder, config, weights)
        source = {"file": checkpoint.name, "sha256": digest(checkpoint), **provenance()}
        write_text(folder / "imported.json", json.dumps(source, indent=2) + "\n")
    say(f"{exp}: {', '.join(module_names(load_model(exp)[1]))}")


@command(
    epilog=(
        "Example: gim-audio export exp/gim gim.onnx    Example: gim-audio export exp/gim small/"
        " --half"
    )
)
@click.argument("exp", type=EXPERIMENT)
@click.argument("out", type=PATH)
@click.option(
    "--module",
    type=MODULE,
    help="ONNX: a number from 1, -1 for the last, or a name.  [default: the last]",
)
@click.option(
    "--stream", is_flag=True, help="ONNX: for sound that is going on; states go in and come out."
)
@click.option(
    "--half", is_flag=True, help="Weights in float16, half the size; products stay in float32."
)
def export(exp: str, out: Path, module: int | str | None, stream: bool, half: bool) -> None:
    """Write what features need: a graph, or a checkpoint without prediction heads.

    OUT.onnx becomes a graph, any other OUT a folder with a checkpoint.
    """
    import torch

    from gim_audio.checkpoints.folders import (
        features_only,
        resolve,
        save_model,
        seal,
        trained_steps,
    )
    from gim_audio.config import load
    from gim_audio.errors import ConfigError, GimAudioError
    from gim_audio.featurize import Featurizer
    from gim_audio.files import absent, new_file, new_folder

    absent(out)
    encoder = Featurizer.load(exp)
    if out.suffix != ".onnx":
        if module is not None or stream:
            raise ConfigError(f"{out}: --module and --stream are for ONNX: name it FILE.onnx")
        config = load(resolve(Path(exp)) / "config.yaml")
        kept = {
            name: w.half() if half and w.ndim else w
            for name, w in features_only(encoder.model).items()
        }
        with new_folder(out) as folder:
            save_model(folder, config, kept)
            seal(folder, {"step": trained_steps(Path(exp))})
        say(f"{out}: {sum(w.nbytes for w in kept.values()) / 1e6:.1f} MB")
        return
    try:
        from gim_audio.inference.onnx import to_onnx
    except ModuleNotFoundError as error:
        raise GimAudioError(f"{out}: needs {error.name}: pip install 'gim-audio[onnx]'") from error
    number = encoder.pick(module)
    geometry = encoder.geometries[number - 1]
    notes = {
        "model": encoder.name,
        "module": encoder.module_names[number - 1],
        "sample_rate": encoder.rate,
        "hop_samples": geometry.hop,
        "receptive_field_samples": geometry.receptive_field,
        "frame_shift": geometry.hop / encoder.rate,
        "frame_offset": geometry.centre / encoder.rate,
    }
    with new_file(out) as temporary, torch.no_grad():
        to_onnx(encoder.model, number, temporary, stream=stream, half=half, notes=notes)
    say(f"{out}: {encoder.module_names[number - 1]}, {out.stat().st_size / 1e6:.1f} MB")
