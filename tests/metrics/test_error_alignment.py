"""Alignments and what is added up from them, against a plain edit distance and a plain way back through it."""

import random

import pytest

from audiossl.metrics._edits import Edits, align
from audiossl.metrics._error_tally import ErrorTally
from audiossl.metrics.character_error_rate import character_error_rate
from audiossl.metrics.word_error_rate import word_error_rate

RATES = {"words": word_error_rate, "characters": character_error_rate}


def table(a, b):
    """Edits from the first i of `a` to the first j of `b`."""
    costs = [list(range(len(b) + 1))] + [[i] + [0] * len(b) for i in range(1, len(a) + 1)]
    for i, x in enumerate(a, 1):
        for j, y in enumerate(b, 1):
            costs[i][j] = min(costs[i - 1][j] + 1, costs[i][j - 1] + 1, costs[i - 1][j - 1] + (x != y))
    return costs


def plain_alignment(wanted, said):
    """Take off what both begin with, then what both end with, and go back: deletion, substitution, insertion, match."""
    head = 0
    while head < min(len(wanted), len(said)) and wanted[head] == said[head]:
        head += 1
    tail = 0
    while tail < min(len(wanted), len(said)) - head and wanted[-1 - tail] == said[-1 - tail]:
        tail += 1
    a, b = wanted[head : len(wanted) - tail], said[head : len(said) - tail]
    costs, i, j, back = table(a, b), len(a), len(b), []
    while i or j:
        here = costs[i][j]
        if i and here == costs[i - 1][j] + 1:
            i -= 1
            back.append((a[i], None))
        elif j and here == costs[i][j - 1] + 1 and not (i and a[i - 1] != b[j - 1] and here == costs[i - 1][j - 1] + 1):
            j -= 1
            back.append((None, b[j]))
        else:
            i, j = i - 1, j - 1
            back.append((a[i], b[j]))
    same = [(token, token) for token in wanted]
    return same[:head] + back[::-1] + same[len(wanted) - tail :]


def texts(rng, count, longest):
    return [" ".join(rng.choices(["a", "bb", "abc", "ça", "中"], k=rng.randrange(longest))) for _ in range(count)]


def pairs_of_texts():
    rng = random.Random(4)
    for count, longest in ((200, 9), (15, 50), (1, 150)):
        yield from zip(texts(rng, count, longest), texts(rng, count, longest), strict=True)


def tokens(text, unit):
    return text.split() if unit == "words" else list(text)


@pytest.mark.parametrize("unit", ["words", "characters"])
def test_an_alignment_has_the_edits_of_the_distance_and_the_ties_that_it_says(unit):
    for said, wanted in pairs_of_texts():
        a, b = tokens(wanted, unit), tokens(said, unit)
        pairs = align(said, wanted, unit)
        assert [x for x, _ in pairs if x is not None] == a
        assert [y for _, y in pairs if y is not None] == b
        edits = Edits.of(pairs)
        assert edits.substitutions + edits.deletions + edits.insertions == edits.errors == table(a, b)[-1][-1]
        assert edits.total == len(a)
        assert edits.correct + edits.substitutions + edits.insertions == len(b)
        assert pairs == plain_alignment(a, b)


@pytest.mark.parametrize("unit", ["words", "characters"])
def test_the_rate_is_that_of_the_metric(unit):
    for seed in range(20):
        rng = random.Random(seed)
        said, wanted = texts(rng, 7, 12), texts(rng, 7, 12)
        tally = ErrorTally()
        for left, right in zip(said, wanted, strict=True):
            tally.add(align(left, right, unit))
        assert tally.overall.edits.rate == RATES[unit](said, wanted)


def test_examples_of_ties():
    def words(said, wanted):
        return align(said, wanted, "words")

    # One substitution and one deletion either way; the deletion is the last that can be.
    assert words("x", "a b") == [("a", "x"), ("b", None)]
    assert words("x y", "a") == [(None, "x"), ("a", "y")]
    # A deletion, a match and an insertion cost as much as two substitutions.
    assert words("b c", "a b") == [("a", "b"), ("b", "c")]
    assert words("a b", "b c") == [(None, "a"), ("b", "b"), ("c", None)]
    assert words("a", "a a") == [("a", "a"), ("a", None)]


def test_nothing_said_or_wanted():
    assert align("", "", "words") == []
    assert align("", "a  b", "words") == [("a", None), ("b", None)]
    assert align(" a b ", "", "characters") == [(None, "a"), (None, " "), (None, "b")]
    assert Edits().rate is None
    assert Edits(insertions=2).rate is None


def test_speakers_and_confusions_are_in_order():
    tally = ErrorTally()
    for speaker, said, wanted in (
        ("s", "a x c", "a b c"),
        ("r", "a x c", "a b c"),
        ("none", "i", ""),
        ("good", "a", "a"),
        ("silent", "", ""),
        ("bad", "", "c"),
        ("s", "a y", "a b"),
        ("s", "a x z", "a b d"),
    ):
        tally.add(align(said, wanted, "words"), speaker)
    assert [name for name, _ in tally.speakers()] == ["none", "bad", "s", "r", "good", "silent"]
    assert tally.substitutions() == [("b", "x", 3), ("b", "y", 1), ("d", "z", 1)]
    assert tally.deletions() == [("c", 1)]
    assert tally.insertions() == [("i", 1)]
    assert (tally.overall.utterances, tally.overall.wrong) == (8, 6)
    groups = [group for _, group in tally.speakers()]
    assert sum((group.edits for group in groups), Edits()) == tally.overall.edits
    assert sum(group.wrong for group in groups) == 6
