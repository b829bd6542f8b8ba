"""Emotion recognition: which of a closed set of emotions an utterance is spoken with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from audiossl.metrics.unweighted_average_recall import unweighted_average_recall
from audiossl.nn.utterance_classifier import ClassifierConfig, UtteranceClassifier
from audiossl.tasks._sizes import check_sizes

if TYPE_CHECKING:
    from collections.abc import Sequence


class Emotion(UtteranceClassifier):
    """The task ER of SUPERB (Yang et al., 2021, section 3.2), with its head and metric.

    Its accuracy counts utterances, which the literature on emotions calls the weighted accuracy; the mean over classes stands beside it.
    """

    published_classes: ClassVar[int | None] = 4
    variant: ClassVar[str] = "dev is another random fifth of the utterances"

    @dataclass(frozen=True)
    class Config(ClassifierConfig):
        """Labels come from `utt2emotion`."""

        column: str = "utt2emotion"

        def __post_init__(self) -> None:
            check_sizes(self, 0, "projector_dim")

        @classmethod
        def tiny(cls) -> Emotion.Config:
            """Return the smallest one that exercises everything, for tests."""
            return cls(projector_dim=4)

    def score(self, predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
        """Accuracy, and the mean over classes of the share of each that is found, in percent."""
        recall = unweighted_average_recall(predictions, references)
        return super().score(predictions, references) | {"unweighted_average_recall": recall}
