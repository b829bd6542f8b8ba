"""Edit operations between predictions and references, added up over utterances."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence


def error_rate(predictions: Sequence[str], references: Sequence[str], unit: Literal["words", "characters"]) -> float:
    """Substitutions, deletions and insertions per 100 units of the references, over all utterances together."""
    import jiwer

    if len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions for {len(references)} references; give one for each")
    process = jiwer.process_words if unit == "words" else jiwer.process_characters
    result = process(_tidy(references), _tidy(predictions))
    errors: int = result.substitutions + result.deletions + result.insertions
    total: int = result.hits + result.substitutions + result.deletions
    if total == 0:
        raise ValueError(
            f"{len(references)} references hold no {unit}, so their error rate is undefined; give references"
        )
    return 100.0 * errors / total


def _tidy(texts: Sequence[str]) -> list[str]:
    return [" ".join(text.split()) for text in texts]
