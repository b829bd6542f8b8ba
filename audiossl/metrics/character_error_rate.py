"""Character error rate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from audiossl.metrics._edits import error_rate

if TYPE_CHECKING:
    from collections.abc import Sequence


def character_error_rate(predictions: Sequence[str], references: Sequence[str]) -> float:
    """Character error rate in percent: the edits of all utterances over the characters of all references.

    Characters are Unicode code points; the single space between two words is one of them. The characters predicted for an empty
    reference are insertions. ValueError if the two are not as many, or if no reference holds a character.
    """
    return error_rate(predictions, references, "characters")
