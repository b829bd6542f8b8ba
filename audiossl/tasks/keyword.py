"""Keyword spotting as classification: which of a closed set of words the utterance is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from audiossl.nn.utterance_classifier import ClassifierConfig, UtteranceClassifier
from audiossl.tasks._sizes import check_sizes

if TYPE_CHECKING:
    from collections.abc import Collection

_SILENCE = "_silence_"
_DEV = "dev weighs all classes alike, where it is drawn with replacement"
_DRAWN = "silence is of seconds drawn beforehand, where the published code draws a new one each time"


class Keyword(UtteranceClassifier):
    """The task KS of SUPERB (Yang et al., 2021, section 3.2), with its head and metric."""

    @dataclass(frozen=True)
    class Config(ClassifierConfig):
        """Labels come from `utt2keyword`."""

        column: str = "utt2keyword"

        def __post_init__(self) -> None:
            check_sizes(self, 0, "projector_dim")

        @classmethod
        def tiny(cls) -> Keyword.Config:
            """Return the smallest one that exercises everything, for tests."""
            return cls(projector_dim=4)

    published_classes: ClassVar[int | None] = 12
    variant: ClassVar[str] = f"{_DEV}; {_DRAWN}"

    @classmethod
    def variant_of(cls, classes: Collection[str]) -> str:
        """`variant` on data that have these classes."""
        return cls.variant if _SILENCE in classes else _DEV
