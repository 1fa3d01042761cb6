"""The interface of an s3prl upstream (Yang et al. 2021), which needs nothing of s3prl."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from gim_audio.featurize.encoders import Featurizer
from gim_audio.featurize.one_rate import encode_at_one_rate

__all__ = ["Upstream", "gim_upstream"]


class Upstream(nn.Module):
    """An upstream: waveforms to the hidden states of all modules.

    Waveforms have the model's rate, and hidden states that of the last module's frames.

    The weights are frozen: features are computed without gradients. As s3prl sums hidden states by
    weights, all have the width of the widest; a narrower module's are filled up with zeros.

    Args:
        ckpt: an experiment or a checkpoint.
    """

    def __init__(self, ckpt: str) -> None:
        super().__init__()
        self.featurizer = Featurizer.load(ckpt)
        self.model = self.featurizer.model

    def get_downsample_rates(self, key: str) -> int:  # noqa: ARG002 - all hidden states have one rate
        """Samples a frame."""
        return self.featurizer.geometries[-1].hop

    def forward(self, wavs: Sequence[Tensor]) -> dict[str, list[Tensor] | Tensor]:
        """Return the hidden states of waveforms.

        Shape: each `(samples,)` → `hidden_states`, of each module `(batch, frames, width)`, zeros
        after the end.
        """
        self.featurizer.device = next(self.model.parameters()).device
        modules = range(1, len(self.featurizer.module_names) + 1)
        found = [
            encode_at_one_rate(self.featurizer, wav.detach().cpu().numpy(), modules) for wav in wavs
        ]
        states = [
            pad_sequence(
                [torch.from_numpy(features) for features in of_module], batch_first=True
            ).to(wavs[0].device)
            for of_module in zip(*found, strict=True)
        ]
        widest = max(state.shape[2] for state in states)
        alike = [nn.functional.pad(state, (0, widest - state.shape[2])) for state in states]
        return {"hidden_states": alike, "last_hidden_state": states[-1]}


def gim_upstream(ckpt: str, **_: object) -> Upstream:
    """Return an upstream as s3prl calls an entry of hubconf; its other settings are not used."""
    return Upstream(ckpt)
