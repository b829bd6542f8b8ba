"""Slot filling on a frozen encoder: the words with the marks of their slots, as ASR spells them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from audiossl.metrics._slots import slots
from audiossl.metrics.slot_cer import slot_cer
from audiossl.metrics.slot_f1 import slot_f1
from audiossl.tasks._ctc_head import RecurrentConfig, RecurrentCTC
from audiossl.tasks._variants import BY_TEXT, CUT_BATCHES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from audiossl.data.manifest import Manifest


class SlotFilling(RecurrentCTC):
    """The task SF of SUPERB (Yang et al., 2021, section 3.2): ASR's head; each mark of a slot is one more token.

    Differs from the published code: characters and slots are those of the training texts, not those of its lists.
    """

    variant: ClassVar[str] = (
        f"characters and slots of the training texts; SpecAugment masks up to its full widths and no padding; {BY_TEXT}; {CUT_BATCHES}"
    )

    @dataclass(frozen=True)
    class Config(RecurrentConfig):
        """Texts with slots, `play B-artist the clash E-artist`, come from `utt2slots`."""

        column: str = "utt2slots"

        @classmethod
        def tiny(cls) -> SlotFilling.Config:
            """Return the smallest one that exercises everything, for tests."""
            return cls(projector_dim=4, hidden_dim=3, time_warp=1, time_width=3, frequency_width=3)

    kind = "slots"
    metric: tuple[str, Literal["min", "max"]] = ("slot_f1", "max")

    @classmethod
    def check_labels(cls, config: Config, manifest: Manifest) -> None:
        """Raise ValueError where no slot has a value, so that its error rate would be undefined."""
        super().check_labels(config, manifest)
        if not any(any(values) for text in manifest.column(config.column) for values in slots(text).values()):
            raise ValueError(f"{manifest.path / config.column}: no slot has a value; mark slots as `B-x ... E-x`")

    def score(self, predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
        """F1 of the types of slots and character error rate of their values, in percent."""
        return {"slot_f1": slot_f1(predictions, references), "slot_cer": slot_cer(predictions, references)}
