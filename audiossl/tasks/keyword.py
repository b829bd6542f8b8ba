"""Keyword spotting as classification: which of a closed set of words the utterance is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from audiossl.nn.utterance_classifier import ClassifierConfig, UtteranceClassifier


class Keyword(UtteranceClassifier):
    """The task KS of SUPERB (Yang et al., 2021, section 3.2), with its head and metric."""

    @dataclass(frozen=True)
    class Config(ClassifierConfig):
        """Labels come from `utt2keyword`."""

        column: str = "utt2keyword"

        @classmethod
        def tiny(cls) -> Keyword.Config:
            """Return the smallest one that exercises everything, for tests."""
            return cls(projector_dim=4)

    variant: ClassVar[str] = (
        "dev weighs all classes alike, where it is drawn with replacement; "
        "silence is of seconds drawn beforehand, where the published code draws a new one each time"
    )

    probe: ClassVar[dict[str, Any]] = {"steps": 2000, "batch": 256}
    """What `audiossl probe` starts from: keys of its `[probe]` table."""
