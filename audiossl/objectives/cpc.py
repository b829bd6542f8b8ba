"""CPC for speakers: what a recurrent context of one crop expects at the end of the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import nn

from audiossl.losses.cpc import cpc
from audiossl.nn.context_speaker import ContextSpeaker
from audiossl.objectives._speaker import CropConfig, SpeakerObjective, output_of, together

if TYPE_CHECKING:
    from torch import Tensor

    from audiossl.contracts import Batch, SpeakerEncoder, StepOutput


class CPC(SpeakerObjective):
    """Contrastive predictive coding (van den Oord et al., 2018) from one crop of an utterance to another.

    A GRU reads crop 1 without its last `steps` frames; from its last state, one linear map per step predicts the last `steps` frames of
    crop 2. As both crops are of one speaker, what helps across them is the speaker. Only the frames of the encoder's last layer are
    trained: what lies above them (pooling, embedding) is frozen as it is. So the embedding of such an experiment is the mean over time of
    the GRU's states: our variant, for all published versions return its last one. The frames are the encoder's own; those of Lepage and Dehak's
    code are a linear map of all channels of all frequency bins, 640 numbers, to 512, and so are its latents.
    """

    @dataclass(frozen=True)
    class Config(CropConfig):
        """Defaults: the model on Fast ResNet-34 of Lepage and Dehak's code. temperature: of the inner products, as they are in the paper."""

        steps: int = 4
        context_dim: int = 256
        temperature: float = 1.0

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.steps < 1 or self.context_dim < 1:
                raise ValueError(
                    f"objective: steps {self.steps} and context_dim {self.context_dim} must be at least 1; the published are 4 and 256"
                )

        @classmethod
        def tiny(cls) -> CPC.Config:
            """Return the smallest one that exercises everything, for tests."""
            return cls(crop_duration=0.5, steps=2, context_dim=6, temperature=0.5)

    headline: ClassVar[tuple[str, ...]] = ("accuracy",)

    def __init__(self, encoder: SpeakerEncoder, config: Config) -> None:
        super().__init__(encoder, config)
        frames = encoder.num_frames(self._sizes[0])
        if frames <= config.steps:
            raise ValueError(
                f"objective.steps: {config.steps} of the {frames} frames of a crop leave none as context; "
                "lower it or raise objective.crop_duration"
            )
        _freeze_above_frames(encoder, self._sizes[0])
        self.config = config
        self.context = _context(encoder, config)
        self.predictors = nn.ModuleList(nn.Linear(config.context_dim, encoder.dim) for _ in range(config.steps))

    @classmethod
    def evaluated_encoder(cls, encoder: SpeakerEncoder, config: Config) -> ContextSpeaker:
        """Return what loading gives: the encoder under the GRU, by the names that both have here."""
        return ContextSpeaker(encoder, _context(encoder, config))

    def forward(self, batch: Batch) -> StepOutput:
        """See `cpc`. accuracy: share of frames that are found among those of this process's batch."""
        frames = self._frames(self.pieces(batch))  # (view, batch, frame, dim)
        _, state = self.context(frames[0, :, : -self.config.steps])
        predictions = torch.stack([predictor(state[-1]) for predictor in self.predictors])  # (step, batch, dim)
        latents = frames[1, :, -self.config.steps :].transpose(0, 1)
        loss = cpc(predictions, latents, temperature=self.config.temperature, across_processes=self.across)
        return output_of(loss, frames.mean(dim=2), accuracy=_found(predictions, latents))

    def _frames(self, pieces: list[Tensor]) -> Tensor:
        top = torch.cat([self.encoder(*together(part)).layers[-1] for part in self.passes(pieces)])
        return top.view(len(pieces), -1, *top.shape[1:])


def _context(encoder: SpeakerEncoder, config: CPC.Config) -> nn.GRU:
    return nn.GRU(encoder.dim, config.context_dim, batch_first=True)


def _freeze_above_frames(encoder: SpeakerEncoder, samples: int) -> None:
    """Stop the training of all parameters on which the frames of the last layer do not depend, as a pass over a tone tells.

    Processes that train together would wait for the gradients of these for ever.
    """
    assert isinstance(encoder, nn.Module)
    training = encoder.training
    encoder.eval()  # batch norms must not see the tone
    parameters = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
    tone = torch.arange(samples).mul(0.1).sin().unsqueeze(0).to(parameters[0].device)
    top = encoder(tone, torch.tensor([samples], device=tone.device)).layers[-1]
    if not top.requires_grad:
        raise ValueError(
            "encoder.adapter: freezes all that the frames depend on, and cpc trains nothing else; choose another adapter, or another objective"
        )
    gradients = torch.autograd.grad(top.sum(), parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.requires_grad_(gradient is not None)
    encoder.train(training)


@torch.no_grad()
def _found(predictions: Tensor, latents: Tensor) -> Tensor:
    """predictions, latents: (step, batch, dim)."""
    nearest = torch.einsum("knd,kmd->knm", predictions.float(), latents.float()).argmax(dim=2)
    return (nearest == torch.arange(latents.shape[1], device=latents.device)).float().mean()
