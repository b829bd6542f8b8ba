"""Slots of an utterance, marked in its text: `play B-artist the clash E-artist please`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def slots(text: str) -> dict[str, list[str]]:
    """Return the values of each type of slot, in the order of the text.

    A slot opens with `B-type`, closes with the nearest `E-type` and has at least one word; what is left open is none. Of tags inside
    it, such as those of a prediction whose slots overlap, its value holds nothing.
    """
    words, found, place = text.split(), dict[str, list[str]](), 0
    while place < len(words):
        end = _end(words, place)
        if end is not None:
            value = " ".join(word for word in words[place + 1 : end] if not word.startswith(("B-", "E-")))
            found.setdefault(words[place][2:], []).append(value)
            place = end
        place += 1
    return found


def _end(words: list[str], start: int) -> int | None:
    """Index of the tag that closes the slot which opens at `start`; None where none opens, or none closes it."""
    if not words[start].startswith("B-"):
        return None
    closing = "E-" + words[start][2:]
    return next((place for place in range(start + 2, len(words)) if words[place] == closing), None)


def paired_slots(
    predictions: Sequence[str], references: Sequence[str]
) -> list[tuple[dict[str, list[str]], dict[str, list[str]]]]:
    """Slots of each prediction and of its reference; ValueError when they are not as many, or none."""
    if len(predictions) != len(references) or not references:
        raise ValueError(f"{len(predictions)} predictions for {len(references)} references; give one for each")
    return [(slots(predicted), slots(wanted)) for predicted, wanted in zip(predictions, references, strict=True)]
