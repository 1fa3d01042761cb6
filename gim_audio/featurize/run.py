"""Featurize a set of utterances: the good ones are written, the bad ones come back with the reason."""

from collections.abc import Callable

from gim_audio.errors import AudioError, DataError
from gim_audio.featurize.encoders import Encoder, pick_module
from gim_audio.featurize.outputs import open_output
from gim_audio.kaldi import DataDir
from gim_audio.provenance import provenance

__all__ = ["featurize"]


def featurize(
    encoder: Encoder,
    data: DataDir,
    output: str,
    *,
    module: int | None = None,
    allow_pipes: bool = False,
    progress: Callable[[int], None] = lambda done: None,
) -> dict[str, str]:
    """Write the features of every utterance, with `utt2num_frames` and the times of frames beside them.

    Args:
        encoder: a model or baseline.
        data: the utterances.
        output: a folder, `ark,scp:A,B` or `ark:A`; nothing is overwritten.
        module: from 1; the last one by default.
        allow_pipes: run the commands in `wav.scp`.
        progress: called with the number of utterances that are done.

    Returns:
        The utterances that could not be featurized, with the reason.

    Raises:
        AudioError: none of them could; then nothing is written.
        GimAudioError: the output exists or is not understood.
    """
    number = pick_module(encoder, module)
    geometry = encoder.geometries[number - 1]
    description = {
        "model": encoder.name,
        "module": number,
        "module_name": encoder.modules[number - 1],
        "precision": encoder.precision,
        "sample_rate": encoder.rate,
        "hop_samples": geometry.hop,
        "receptive_field_samples": geometry.receptive_field,
        "frame_shift": geometry.hop / encoder.rate,
        "frame_offset": geometry.centre / encoder.rate,
        "time_of_frame": "frame i is centred on frame_offset + i * frame_shift seconds",
        **provenance(),
    }
    failed: dict[str, str] = {}
    with open_output(output, description) as write:
        for done, (name, waveform) in enumerate(data.waveforms(encoder.rate, allow_pipes=allow_pipes), start=1):
            try:
                if isinstance(waveform, Exception):
                    raise waveform
                write(name, encoder.encode(waveform, [number])[0])
            except AudioError as error:
                where = "" if isinstance(waveform, Exception) else f"{data.recordings.get(name, name)}: "
                failed[name] = f"{where}{error}"
            except DataError as error:
                failed[name] = str(error)
            progress(done)
        if len(failed) == len(data.utterances):
            first = next(iter(failed.values()))
            raise AudioError(first if len(failed) == 1 else f"all {len(failed)} utterances failed, the first: {first}")
    return failed
