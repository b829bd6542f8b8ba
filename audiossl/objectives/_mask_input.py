"""What objectives share that can write their masks into the filterbank, before the frontend's convolutions tell neighbours of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from audiossl.nn.fbank_frontend import FbankFrontend
from audiossl.objectives._self_guided import SelfGuidedConfig, SelfGuidedObjective

if TYPE_CHECKING:
    from torch import Tensor

    from audiossl.contracts import Batch
    from audiossl.nn.ssl_encoder import LocalFeatures, SSLEncoder


@dataclass(frozen=True)
class MaskInputConfig(SelfGuidedConfig):
    """mask_input: whether the filterbank frames of masked frames are hidden too, for encoders with one in front.

    Without it masks stand behind the frontend, whose convolutions hear across frames: at 25 Hz, frame t hears filterbank frames 4 t - 6 to 4 t + 6, and
    the target is 4 t to 4 t + 3, all of which frame t + 1 has heard where it is visible. Longer spans leak at their ends alone.
    """

    mask_input: bool = False


class MaskInputObjective(SelfGuidedObjective):
    """The base: `features` gives what the encoder hears, and the masks. A subclass says its `Config` and `forward`."""

    def __init__(self, encoder: SSLEncoder, config: MaskInputConfig) -> None:
        if config.mask_input:
            need_filterbank(encoder)
        super().__init__(encoder, config)
        self._mask_input = config.mask_input

    def features(self, batch: Batch, *, noise_std: float = 0.0) -> tuple[LocalFeatures, Tensor, Tensor]:
        """Local features and what `masks` gives; with mask_input those of a filterbank that is N(0, noise_std^2) where it is masked."""
        waveform, lengths = batch["waveform"], batch["waveform_lengths"]
        if not self._mask_input:
            local = self.encoder.local_features(waveform, lengths)
            return local, *self.masks(batch, local)
        if "masked" in batch:
            masked, places = batch["masked"], batch["masked_frames"]
        else:
            with torch.no_grad():
                masked, places = self.masks(batch, self.encoder.local_features(waveform, lengths))
        return self.encoder.local_features(waveform, lengths, hidden=masked, noise_std=noise_std), masked, places


def need_filterbank(encoder: SSLEncoder) -> None:
    """ValueError where no filters that each hear one window are in front; the slopes of MFCC hear several."""
    frontend = getattr(encoder, "frontend", None)
    if not isinstance(frontend, FbankFrontend) or frontend.inputs != "log_mel":
        raise ValueError(
            f"objective.mask_input: true, but {type(encoder).__name__} as configured has no filterbank in front; "
            "leave it out, or choose encoder.name = 'fbank'"
        )
