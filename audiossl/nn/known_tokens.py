"""Whether texts are like those that a model was trained on: how many of their tokens it has, and whether another case would do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from audiossl.nn.bpe import MARKS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from audiossl.nn.bpe import BPE
    from audiossl.nn.vocabulary import Vocabulary

_MOST = 0.9  # share of the tokens that training should have


def check_known(vocabulary: Vocabulary | BPE, texts: Sequence[str], place: Path) -> str:
    """Say in a line that training lacks many tokens of these texts, "" where it has most; ValueError where it has none since they are in another case. place: where they are from."""
    known, total = _count(vocabulary, texts)
    if known >= _MOST * total:
        return ""
    words = (word for text in texts for word in text.split())
    strange = next((word for word in words if vocabulary.unknown_index in vocabulary.encode(word)), " ")
    case = in_another_case(lambda change: _count(vocabulary, map(change, texts))[0], known)
    said = (
        f"{place}: training has {known or 'none'} of the {total} tokens looked at, and not those of {strange!r}{case}; "
    )
    if case and not known:
        raise ValueError(said + "give texts like those of training, or leave out --dev")
    return said + "what training lacks cannot be read, and counts as errors"


def in_another_case(count: Callable[[Callable[[str], str]], int], known: int) -> str:
    """What is to be said where more than `known` would be known in lower or upper case, "" where not. count: how many are after such a change."""
    for case, change in (("lower", str.lower), ("upper", str.upper)):
        if (number := count(change)) > known:
            return f", and {number} if they were in {case} case: write both in one case"
    return ""


def _count(vocabulary: Vocabulary | BPE, texts: Iterable[str]) -> tuple[int, int]:
    """Known tokens and all, spaces and ends left aside."""
    marks = {index for index, token in enumerate(vocabulary.tokens) if token in MARKS}
    found = [index for text in texts for index in vocabulary.encode(text).tolist() if index not in marks]
    return sum(index != vocabulary.unknown_index for index in found), len(found)
