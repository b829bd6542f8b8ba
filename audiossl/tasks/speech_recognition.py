"""Speech recognition on a frozen encoder: characters by CTC on a recurrent head, read out greedily."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np

from audiossl.metrics.character_error_rate import character_error_rate
from audiossl.metrics.word_error_rate import word_error_rate
from audiossl.nn.vocabulary import BOUNDARY, PAD, Vocabulary
from audiossl.tasks._ctc_head import RecurrentConfig, RecurrentCTC, TextLabels

if TYPE_CHECKING:
    from collections.abc import Sequence

    from audiossl.contracts import Utterance
    from audiossl.data.manifest import Manifest
    from audiossl.nn.ssl_encoder import SSLEncoder

CHARACTERS = (PAD, *sorted(f"ABCDEFGHIJKLMNOPQRSTUVWXYZ'{BOUNDARY}"))
"""The published list: with `<blank>`, `<unk>` and `<eos>` 32 tokens."""


class SpeechRecognition(RecurrentCTC):
    """The task ASR of SUPERB (Yang et al., 2021, section 3.2), without a language model."""

    variant: ClassVar[str] = (
        "SpecAugment masks up to its full widths, and no padding; batches end at superb.batch_seconds of padded audio"
    )

    @dataclass(frozen=True)
    class Config(RecurrentConfig):
        """Texts come from `text`.

        vocabulary: the published 28 characters, and a word boundary at the end of each text too; or the characters of the training texts, without.
        """

        column: str = "text"
        vocabulary: Literal["published", "training"] = "published"

        @classmethod
        def tiny(cls) -> SpeechRecognition.Config:
            """Return the smallest one that exercises everything, for tests."""
            return cls(
                vocabulary="training", projector_dim=4, hidden_dim=3, time_warp=1, time_width=3, frequency_width=3
            )

    kind = "characters"
    metric: tuple[str, Literal["min", "max"]] = ("wer", "min")

    def __init__(self, encoder_dim: int, num_layers: int, config: Config, vocabulary: Vocabulary) -> None:
        super().__init__(encoder_dim, num_layers, config, vocabulary)
        if config.vocabulary == "published":
            self.labels = BoundedLabels(vocabulary, config.column)

    @classmethod
    def from_data(cls, encoder: SSLEncoder, config: Config, manifest: Manifest) -> Self:
        """Build it; ValueError for a training text with a character that the published list lacks."""
        if config.vocabulary == "training":
            return super().from_data(encoder, config, manifest)
        column = manifest.column(config.column)
        texts = (column[index] for index in range(len(manifest)))
        vocabulary = Vocabulary.of(CHARACTERS, cls.kind, manifest, config.column, texts)
        return cls(encoder.dim, encoder.num_layers, config, vocabulary)

    def score(self, predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
        """Word and character error rate in percent."""
        return {
            "wer": word_error_rate(predictions, references),
            "cer": character_error_rate(predictions, references),
        }


@dataclass(frozen=True)
class BoundedLabels(TextLabels):
    """Text to tokens, with a word boundary behind the last word too, in the loader's workers."""

    def __call__(self, utterance: Utterance) -> dict[str, Any]:
        """tokens: (label,) int64. text: as written, spaces tidied."""
        labels = super().__call__(utterance)
        boundary = self.vocabulary.tokens.index(BOUNDARY)
        return {**labels, "tokens": np.insert(labels["tokens"], -1, boundary)}  # before `<eos>`
