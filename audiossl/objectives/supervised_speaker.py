"""Speaker classification with labels: what self-supervised speaker models are measured against, and how they are fine-tuned."""

from __future__ import annotations

from dataclasses import dataclass

from audiossl.objectives._classes import ClassConfig, ClassObjective
from audiossl.objectives._speaker import MarginConfig


class SupervisedSpeaker(ClassObjective):
    """AAM- or AM-softmax over the speakers of the training set (Deng et al., 2019, eq. 3; Wang et al., 2018, eq. 4).

    From random weights with all labels it is the upper bound of self-supervised models; with `--init` and a small `fraction` it is
    label-efficient fine-tuning (as in Lepage and Dehak, 2022, with margin softmax directly on the embeddings).
    """

    @dataclass(frozen=True)
    class Config(ClassConfig):
        """column: `utt2spk`, or any other `utt2X`."""

        column: str = "utt2spk"

        @classmethod
        def tiny(cls) -> SupervisedSpeaker.Config:
            """Return the smallest one that exercises everything, for tests."""
            margin = MarginConfig("additive_angular", 0.1, ramp_steps=2)
            return cls(crop_duration=0.3, margin=margin)
