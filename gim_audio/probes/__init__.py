"""Evaluations of frozen features.

Linear probes of phones and speakers, and what needs no classifier.

Each utterance is encoded once, whatever is asked (`evaluate`). Every module is probed at the last
module's frame rate: frames of a faster module are averaged around the centre of each of its frames.

Two protocols. `ref` is the published code's: a linear layer on the features as they are, Adam, a
fixed number of epochs. `strict` is multinomial logistic regression on whitened features, to
convergence, with the L2 penalty that does best on a part of the training set; a speaker is decided
from a whole utterance.

Where `ref` differs from the published code, because an utterance is encoded once: speakers are
recognised from windows of 128 frames of the whole utterance's features, ten drawn once instead of
one crop encoded again each epoch, with as many updates; phones are learnt from at most
`most_frames` frames.
"""

from gim_audio.probes.ctc import PhoneErrorRate
from gim_audio.probes.evaluation import Evaluation, Pass, Subject, evaluate
from gim_audio.probes.frames import FrameSample, Labelled
from gim_audio.probes.phones import PhoneProbe
from gim_audio.probes.solvers import Protocol
from gim_audio.probes.speakers import SpeakerProbe
from gim_audio.probes.structure import AlikenessProbe, SlownessProbe
from gim_audio.probes.tally import Result, write_result
from gim_audio.probes.units import UnitProbe
from gim_audio.probes.verification import VerificationProbe

__all__ = [
    "AlikenessProbe",
    "Evaluation",
    "FrameSample",
    "Labelled",
    "Pass",
    "PhoneErrorRate",
    "PhoneProbe",
    "Protocol",
    "Result",
    "SlownessProbe",
    "SpeakerProbe",
    "Subject",
    "UnitProbe",
    "VerificationProbe",
    "evaluate",
    "write_result",
]
