"""Speaker identification: which of the speakers of the training set it is.

The speakers of train, dev and test are the same people; a corpus that keeps them apart is split by utterance
(`audiossl probe --split 0.7/0.1/0.2`). For speakers that training never heard there is verification.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from audiossl.nn.utterance_classifier import ClassifierConfig, UtteranceClassifier
from audiossl.tasks._sizes import check_sizes

if TYPE_CHECKING:
    from audiossl.data.manifest import Manifest
    from audiossl.nn.ssl_encoder import SSLEncoder


class Speaker(UtteranceClassifier):
    """The task SID of SUPERB (Yang et al., 2021, section 3.2), with its head and metric.

    The paper trains on random crops of 8 s. `audiossl superb sid` draws a few of each utterance beforehand; `audiossl probe` takes whole
    utterances.
    """

    @dataclass(frozen=True)
    class Config(ClassifierConfig):
        """Labels come from `utt2spk`."""

        column: str = "utt2spk"

        def __post_init__(self) -> None:
            check_sizes(self, 0, "projector_dim")

        @classmethod
        def tiny(cls) -> Speaker.Config:
            """Return the smallest one that exercises everything, for tests."""
            return cls(projector_dim=4)

    @classmethod
    def from_data(cls, encoder: SSLEncoder, config: Any, manifest: Manifest) -> Self:
        """Build it for the speakers of a data directory; ValueError for fewer than two."""
        task = super().from_data(encoder, config, manifest)
        if len(task.classes) < 2:
            raise ValueError(f"{manifest.path / config.column}: has one speaker; give recordings of at least two")
        return task

    published_classes: ClassVar[int | None] = 1251
    # Speakers are many and have few utterances each: more steps than for words.
    probe: ClassVar[dict[str, Any]] = {"steps": 4000, "batch": 256}
    """What `audiossl probe` starts from: keys of its `[probe]` table."""
