"""The packed corpus: decoded once, read in place, and itself a Kaldi data directory.

PCM16 WAVs lie one after another in `wav.N.ark`, each after its utterance's name and a space, as
Kaldi's wav archives have it; `wav.scp` has their offsets. Any Kaldi tool can read it.
"""

from gim_audio.packed.corpus import PackedCorpus
from gim_audio.packed.crops import Crops
from gim_audio.packed.packing import pack

__all__ = ["Crops", "PackedCorpus", "pack"]
