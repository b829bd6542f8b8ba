"""Word error rate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from audiossl.metrics._edits import error_rate

if TYPE_CHECKING:
    from collections.abc import Sequence


def word_error_rate(predictions: Sequence[str], references: Sequence[str]) -> float:
    """Word error rate in percent: the edits of all utterances over the words of all references.

    Words are what whitespace separates; case and punctuation count. The words predicted for an empty reference are insertions.
    ValueError if the two are not as many, or if no reference holds a word.
    """
    return error_rate(predictions, references, "words")
