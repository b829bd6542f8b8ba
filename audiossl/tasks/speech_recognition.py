"""Speech recognition on a frozen encoder: characters by CTC on a recurrent head, read out greedily."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from audiossl.metrics.character_error_rate import character_error_rate
from audiossl.metrics.word_error_rate import word_error_rate
from audiossl.tasks._ctc_head import RecurrentConfig, RecurrentCTC

if TYPE_CHECKING:
    from collections.abc import Sequence


class SpeechRecognition(RecurrentCTC):
    """The task ASR of SUPERB (Yang et al., 2021, section 3.2), without a language model.

    Differs from the published code: the characters are those of the training texts, and no word boundary stands before `<eos>`.
    """

    variant: ClassVar[str] = (
        "characters of the training texts, not the published list of 32, and no word boundary at the end; SpecAugment masks up to its full widths, and no padding"
    )

    @dataclass(frozen=True)
    class Config(RecurrentConfig):
        """Texts come from `text`."""

        column: str = "text"

        @classmethod
        def tiny(cls) -> SpeechRecognition.Config:
            """Return the smallest one that exercises everything, for tests."""
            return cls(projector_dim=4, hidden_dim=3, time_warp=1, time_width=3, frequency_width=3)

    kind = "characters"
    metric: tuple[str, Literal["min", "max"]] = ("wer", "min")

    def score(self, predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
        """Word and character error rate in percent."""
        return {
            "wer": word_error_rate(predictions, references),
            "cer": character_error_rate(predictions, references),
        }
