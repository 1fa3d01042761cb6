"""Audio to features: any module of a model, files of any length, or a named baseline."""

from gim_audio.featurize.baselines import BASELINES, KaldiFeatures
from gim_audio.featurize.encode import Task
from gim_audio.featurize.encoders import Encoder, Features, Featurizer, ModuleName
from gim_audio.featurize.inputs import gather, one_by_one, standard_input, wave_archive
from gim_audio.featurize.jobs import share
from gim_audio.featurize.live import Live
from gim_audio.featurize.loading import EncodingPrecision, load, load_encoder
from gim_audio.featurize.normalised import encoders_of
from gim_audio.featurize.one_rate import ToSlowerRate, encode_at_one_rate, waveforms
from gim_audio.featurize.pooling import FRAMES, Pooling
from gim_audio.featurize.run import Report, featurize, pipe
from gim_audio.featurize.target import Target, numbered

__all__ = [
    "BASELINES",
    "FRAMES",
    "Encoder",
    "EncodingPrecision",
    "Features",
    "Featurizer",
    "KaldiFeatures",
    "Live",
    "ModuleName",
    "Pooling",
    "Report",
    "Target",
    "Task",
    "ToSlowerRate",
    "encode_at_one_rate",
    "encoders_of",
    "featurize",
    "gather",
    "load",
    "load_encoder",
    "numbered",
    "one_by_one",
    "pipe",
    "share",
    "standard_input",
    "wave_archive",
    "waveforms",
]
