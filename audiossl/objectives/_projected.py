"""What objectives with a projector share: its widths in the configuration, and both views through it in one pass."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from audiossl.nn.gather import layout_of
from audiossl.objectives._speaker import CropConfig, SpeakerObjective, output_of, projector

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

    from audiossl.contracts import SpeakerEncoder, StepOutput

_SHORT_BATCHES = 3
_WEIGHTS = ("invariance", "variance", "covariance", "redundancy", "scale")
"""Of subclasses that have such terms."""


@dataclass(frozen=True)
class ProjectedConfig(CropConfig):
    """projector_dims: of the published models on Fast ResNet-34, which Lepage and Dehak's code gives for VoxCeleb2; empty for no projector."""

    projector_dims: tuple[int, ...] = (2048, 2048, 512)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in _WEIGHTS:
            if getattr(self, name, 0) < 0:
                raise ValueError(f"objective.{name}: {getattr(self, name)} is negative; give 0 or more")


class ProjectedObjective(SpeakerObjective):
    """Two crops, an encoder and a projector: the representation y is what is kept, the embedding z = projector(y) what is trained on."""

    def __init__(self, encoder: SpeakerEncoder, config: ProjectedConfig) -> None:
        super().__init__(encoder, config)
        self.projector = projector(encoder.embedding_dim, config.projector_dims)
        self.out_dim = config.projector_dims[-1] if config.projector_dims else encoder.embedding_dim
        self._short = 0  # a guard only: nothing that is trained depends on it, so it is no state

    def project(self, representations: Tensor) -> Tensor:
        """Return z of all views from their y: (view, batch, dim) to (view, batch, out_dim)."""
        return self.per_view(self.projector, representations)

    def fills_group(self, view: Tensor) -> bool:
        """Whether a batch, of which `view` is (batch, dim), has `group_rows` utterances over all processes.

        ValueError for the third one in a row in training that has not.
        """
        total = layout_of(view, across_processes=self.across).total
        if total >= self.group_rows:
            self._short = 0
            return True
        self._short += self.training
        if self._short >= _SHORT_BATCHES:
            raise ValueError(
                f"w_mse: {self._short} batches in a row, the last of {total} utterances, do not fill a group of {self.group_rows}; "
                "raise data.batch_seconds or lower group_size"
            )
        return False


def uncounted(projected: Tensor, representations: Tensor, names: Iterable[str] = (), **metrics: Tensor) -> StepOutput:
    """Return what a batch gives that trains nothing and counts nothing: gradients of zero, and no value of the metrics in `names`."""
    idle = output_of(0.0 * projected.sum(), representations, **metrics)
    nothing = torch.zeros_like(idle.count)
    return replace(idle, count=nothing, metrics=dict.fromkeys(names, (nothing, nothing)) | idle.metrics)
