"""Intent classification: what a spoken command asks for, as an action, its object and a place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from audiossl.metrics.accuracy import accuracy
from audiossl.nn.utterance_classifier import UtteranceClassifier
from audiossl.tasks._sizes import check_sizes

if TYPE_CHECKING:
    from collections.abc import Sequence


class Intent(UtteranceClassifier):
    """The task IC of SUPERB (Yang et al., 2021, section 3.2): one head for three labels, the sum of their cross entropies.

    An utterance is right if all three are.
    """

    @dataclass(frozen=True)
    class Config:
        """columns: files of the data directory with the labels. projector_dim: 256 in SUPERB; 0 is none."""

        tokens: ClassVar[Literal["words"]] = "words"

        columns: tuple[str, ...] = ("utt2action", "utt2object", "utt2location")
        projector_dim: int = 256

        def __post_init__(self) -> None:
            check_sizes(self, 0, "projector_dim")
            if len(set(self.columns)) != len(self.columns) or len(self.columns) < 2:
                raise ValueError(
                    f"task.columns: {list(self.columns)} are not several different files; name at least two"
                )

        @classmethod
        def tiny(cls) -> Intent.Config:
            """Return the smallest one that exercises everything, for tests."""
            return cls(projector_dim=4)

    published_classes: ClassVar[int | None] = 24

    def score(self, predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
        """Accuracy of all labels together and of each, in percent."""
        pairs = zip(
            *(zip(*(text.split() for text in texts), strict=True) for texts in (predictions, references)), strict=True
        )
        names = (f"accuracy_{column.removeprefix('utt2')}" for column in self.needs)
        each = {name: accuracy(*pair) for name, pair in zip(names, pairs, strict=True)}
        return super().score(predictions, references) | each
