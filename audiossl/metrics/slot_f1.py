"""F1 of the types of slots found in utterances."""

from __future__ import annotations

from typing import TYPE_CHECKING

from audiossl.metrics._slots import paired_slots

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence


def slot_f1(predictions: Sequence[str], references: Sequence[str]) -> float:
    """Mean over utterances, in percent, of the F1 between the sets of slot types (SUPERB: Yang et al., 2021, slot filling).

    Both: texts with slots marked as `B-artist the clash E-artist`. Only types count: neither their values nor how often one occurs.
    1 where neither side has a slot, 0 where only one has. ValueError if the two are not as many, or none.
    """
    pairs = paired_slots(predictions, references)
    return 100.0 * sum(_f1(predicted.keys(), wanted.keys()) for predicted, wanted in pairs) / len(pairs)


def _f1(predicted: Collection[str], wanted: Collection[str]) -> float:
    total = len(predicted) + len(wanted)
    return 2.0 * len(set(predicted) & set(wanted)) / total if total else 1.0
