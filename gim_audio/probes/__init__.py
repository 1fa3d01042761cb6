"""Linear probes: how much about phones and speakers a linear classifier reads off frozen features.

Each utterance is encoded once. Every module is probed at the last module's frame rate: frames of a faster
module are averaged around the centre of each of its frames.

Two protocols. `ref` is the published code's: a linear layer on the features as they are, Adam, a fixed number
of epochs. `strict` is multinomial logistic regression on whitened features, with an L2 penalty, to
convergence; a speaker is decided from a whole utterance.

Where `ref` differs from the published code, because an utterance is encoded once: speakers are told from windows
of 128 frames of the whole utterance's features, ten drawn once instead of one crop encoded anew each epoch, with as
many updates; phones are learnt from at most `most_frames` frames.
"""

from gim_audio.probes.phones import probe_phones
from gim_audio.probes.speakers import probe_speakers
from gim_audio.probes.tally import Result, write_result
from gim_audio.probes.units import probe_units
from gim_audio.probes.verification import probe_verification

__all__ = ["Result", "probe_phones", "probe_speakers", "probe_units", "probe_verification", "write_result"]
