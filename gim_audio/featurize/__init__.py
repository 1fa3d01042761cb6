"""Audio to features: any module of a model, whole files of any length, or a named baseline."""

from gim_audio.featurize.encoders import (
    BASELINES,
    Encoder,
    Features,
    Featurizer,
    KaldiFeatures,
    load_encoder,
    pick_module,
)
from gim_audio.featurize.inputs import gather
from gim_audio.featurize.one_rate import Pool, encode_at_one_rate, waveforms
from gim_audio.featurize.outputs import check_output
from gim_audio.featurize.run import featurize

__all__ = [
    "BASELINES",
    "Encoder",
    "Features",
    "Featurizer",
    "KaldiFeatures",
    "Pool",
    "check_output",
    "encode_at_one_rate",
    "featurize",
    "gather",
    "load_encoder",
    "pick_module",
    "waveforms",
]
