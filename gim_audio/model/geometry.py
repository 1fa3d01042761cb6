"""The samples that frames depend on, derived once from kernels, strides and paddings."""

from dataclasses import dataclass, replace

__all__ = ["Geometry"]


@dataclass(frozen=True)
class Geometry:
    """The receptive fields of a layer's frames, in samples.

    Frame i depends on the samples from `start + i * hop` up to and without
    `start + i * hop + receptive_field`; those before the first and after the last sample are zeros.

    Attributes:
        hop: The distance between two frames.
        start: The first sample of frame 0; negative where padding precedes the waveform.
        receptive_field: The number of samples that a frame of convolutions depends on.
        lookahead: The number of samples after these that contexts depend on too.
    """

    hop: int = 1
    start: int = 0
    receptive_field: int = 1
    lookahead: float = 0

    @property
    def latency(self) -> float:
        """The samples from the one on which a frame is centred to the last that it depends on."""
        return self.start + self.receptive_field - 1 + self.lookahead - self.centre

    @property
    def centre(self) -> float:
        """The sample on which frame 0 is centred; frame i is centred on `centre + i * hop`."""
        return self.start + (self.receptive_field - 1) / 2

    def then(self, kernel: int, stride: int, padding: int) -> "Geometry":
        """Return the geometry after one more convolution."""
        return Geometry(
            hop=self.hop * stride,
            start=self.start - padding * self.hop,
            receptive_field=self.receptive_field + (kernel - 1) * self.hop,
            lookahead=self.lookahead,
        )

    def with_context(self, frames: float) -> "Geometry":
        """Return the geometry of contexts that look some frames ahead."""
        return replace(self, lookahead=self.lookahead + frames * self.hop) if frames else self

    def under(self, slower: "Geometry") -> tuple[int, int]:
        """Return which of these frames lie around frame 0 of a slower geometry.

        Returns:
            The first of them and their number n: those whose middle is nearest to the centre of
            the slower frame 0. Around the slower frame i lie n frames, from first + i · n on.
        """
        ratio = slower.hop // self.hop
        return round((slower.centre - self.centre) / self.hop - (ratio - 1) / 2), ratio
