"""Speaker classification with labels: what self-supervised speaker models are measured against, and how they are fine-tuned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch.nn import functional as F

from audiossl.losses.sup_con import sup_con
from audiossl.objectives._classes import ClassConfig, Classes, ClassObjective, Judged, names_in
from audiossl.objectives._speaker import MarginConfig

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from audiossl.contracts import SpeakerEncoder


class SupervisedSpeaker(ClassObjective):
    """AAM- or AM-softmax over the speakers of the training set (Deng et al., 2019, eq. 3; Wang et al., 2018, eq. 4), or SupCon.

    From random weights with all labels it is the upper bound of self-supervised models; with `--init` and a small `fraction` it is
    label-efficient fine-tuning (as in Lepage and Dehak, 2022, with margin softmax directly on the embeddings).
    """

    @dataclass(frozen=True)
    class Config(ClassConfig):
        """column: `utt2spk`, or any other `utt2X`.

        loss: `sup_con` compares the crops of a batch with one another (Khosla et al., 2020, eq. 2) and has no vectors of classes. There the
        paper has two crops, a scale of 10 and no margin.
        """

        column: str = "utt2spk"
        loss: Literal["margin_softmax", "sup_con"] = "margin_softmax"

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.loss == "sup_con" and self.num_crops < 2:
                raise ValueError(
                    f"objective.num_crops: {self.num_crops} crop of an utterance has no positive for sup_con; give 2 or more"
                )

        @classmethod
        def tiny(cls) -> SupervisedSpeaker.Config:
            """Return the smallest one that exercises everything, for tests."""
            margin = MarginConfig("additive_angular", 0.1, ramp_steps=2)
            return cls(crop_duration=0.3, margin=margin)

    def __init__(self, encoder: SpeakerEncoder, config: Config, classes: Classes) -> None:
        super().__init__(encoder, config, classes)
        self.contrastive = config.loss == "sup_con"
        if self.contrastive:  # processes that train together would wait for their gradient
            self.register_parameter("vectors", None)
            self.least_utterances = 2

    def start_from(self, weights: Mapping[str, Tensor]) -> str | None:
        """Take the vectors of another experiment of this objective where its classes have the same names; returns what is to be said.

        weights: all of its checkpoint. None where either has no vectors.
        """
        if self.contrastive or "vectors" not in weights:
            return None
        names, vectors = names_in(weights["_extra_state"]), weights["vectors"]
        if names != self.classes.names or vectors.shape != self.vectors.shape:
            return f"its vectors are not used, for its {len(names)} classes are not the {len(self.classes.names)} of the data; these start afresh"
        with torch.no_grad():
            self.vectors.copy_(vectors)
        return f"the vectors of its {len(names)} classes are used too"

    def judge(self, rows: Tensor, label: Tensor) -> Judged:
        """See `sup_con`, of the labelled rows; a row is taken for the class of the nearest other one in this process's batch."""
        if not self.contrastive:
            return super().judge(rows, label)
        labelled = label >= 0
        points, own = rows[labelled], label[labelled]
        right = torch.zeros_like(labelled)
        if not len(own):  # in evaluation, of speakers that training does not know
            return Judged(0.0 * rows.sum(), labelled, right)
        right[labelled] = own[_nearest_other(points)] == own
        temperature = 1 / self.config.scale
        loss = sup_con(points, own, temperature=temperature, margin=self.margin, across_processes=self.across)
        return Judged(loss * len(own), labelled, right)


@torch.no_grad()
def _nearest_other(points: Tensor) -> Tensor:
    """Number of the row of the largest cosine, of the others: (row,)."""
    units = F.normalize(points.float(), dim=1)
    return (units @ units.T).fill_diagonal_(-2.0).argmax(dim=1)
