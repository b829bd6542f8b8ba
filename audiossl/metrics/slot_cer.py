"""Character error rate of the values of slots."""

from __future__ import annotations

from typing import TYPE_CHECKING

from audiossl.metrics._edits import error_rate
from audiossl.metrics._slots import paired_slots

if TYPE_CHECKING:
    from collections.abc import Sequence


def slot_cer(predictions: Sequence[str], references: Sequence[str]) -> float:
    """Character error rate, in percent, of the references' slot values (SUPERB: Yang et al., 2021, slot filling).

    Both: texts with slots marked as `B-artist the clash E-artist`. Each value of a reference is compared with the nearest value that
    its prediction has for the same type, with nothing where there is none; the edits are summed over the characters of all
    references' values. So a predicted slot that no reference has costs nothing here, and one prediction may serve two values: read
    it beside `slot_f1`. ValueError if the two are not as many, or if no reference has a slot.
    """
    found: list[str] = []
    values: list[str] = []
    for predicted, wanted in paired_slots(predictions, references):
        for slot, slot_values in wanted.items():
            values += slot_values
            found += [_nearest(value, predicted.get(slot, [""])) for value in slot_values]
    if not any(values):
        raise ValueError(
            f"{len(references)} references have no slot, so its error rate is undefined; mark slots as B-x ... E-x"
        )
    return error_rate(found, values, "characters")


def _nearest(value: str, candidates: list[str]) -> str:
    if len(candidates) == 1:
        return candidates[0]
    return min(candidates, key=lambda candidate: error_rate([candidate], [value], "characters"))
