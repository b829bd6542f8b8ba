"""Edit operations between predictions and references: aligned for one utterance, added up over utterances."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

Unit = Literal["words", "characters"]
Pair = tuple[str | None, str | None]
"""A unit of the reference and what was predicted for it; None on the left where it was inserted, on the right where it was deleted."""


@dataclass(frozen=True)
class Edits:
    """How many units were predicted rightly, and how many were not in each of three ways."""

    correct: int = 0
    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0

    @classmethod
    def of(cls, pairs: Sequence[Pair]) -> Edits:
        """Count an alignment, as `align` gives it."""
        deletions = sum(predicted is None for _, predicted in pairs)
        insertions = sum(wanted is None for wanted, _ in pairs)
        correct = sum(wanted == predicted for wanted, predicted in pairs)
        return cls(correct, len(pairs) - correct - deletions - insertions, deletions, insertions)

    def __add__(self, other: Edits) -> Edits:
        return Edits(
            self.correct + other.correct,
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
        )

    @property
    def errors(self) -> int:
        """Substitutions, deletions and insertions together."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def total(self) -> int:
        """Units of the references."""
        return self.correct + self.substitutions + self.deletions

    @property
    def rate(self) -> float | None:
        """Errors per 100 units of the references; None where these hold none."""
        return 100.0 * self.errors / self.total if self.total else None


def error_rate(predictions: Sequence[str], references: Sequence[str], unit: Unit) -> float:
    """Substitutions, deletions and insertions per 100 units of the references, over all utterances together."""
    if len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions for {len(references)} references; give one for each")
    result = _process(predictions, references, unit)
    rate = Edits(result.hits, result.substitutions, result.deletions, result.insertions).rate
    if rate is None:
        raise ValueError(
            f"{len(references)} references hold no {unit}, so their error rate is undefined; give references"
        )
    return rate


def align(prediction: str, reference: str, unit: Unit) -> list[Pair]:
    """Align one utterance with as few edits as can be, those that `error_rate` counts.

    Of several such alignments always the same one is taken: what both texts begin and end with alike is left as it is; the rest is read from its end,
    and of the steps that are on a shortest way a deletion goes before a substitution, that before an insertion, and that before a match; in texts of
    thousands of units ties may fall otherwise. Kaldi and sclite have ties of their own: sums are the same, shares of the three kinds may differ a little.
    """
    result = _process([prediction], [reference], unit)
    wanted, predicted = result.references[0], result.hypotheses[0]
    pairs: list[Pair] = []
    for chunk in result.alignments[0]:
        left = wanted[chunk.ref_start_idx : chunk.ref_end_idx]
        right = predicted[chunk.hyp_start_idx : chunk.hyp_end_idx]
        if chunk.type == "delete":
            pairs += [(token, None) for token in left]
        elif chunk.type == "insert":
            pairs += [(None, token) for token in right]
        else:
            pairs += zip(left, right, strict=True)
    return pairs


def _process(predictions: Sequence[str], references: Sequence[str], unit: Unit) -> Any:
    """What jiwer says of texts whose white space is tidied."""
    import jiwer

    process = jiwer.process_words if unit == "words" else jiwer.process_characters
    return process(_tidy(references), _tidy(predictions))


def _tidy(texts: Sequence[str]) -> list[str]:
    return [" ".join(text.split()) for text in texts]
