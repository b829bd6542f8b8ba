"""Error rates against a plain edit distance."""

import random

import pytest

from audiossl.metrics.character_error_rate import character_error_rate
from audiossl.metrics.word_error_rate import word_error_rate


def distance(a, b):
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
    return row[-1]


def texts(seed, count=40):
    rng = random.Random(seed)
    return [" ".join(rng.choices(["a", "bb", "abc", "ça"], k=rng.randrange(7))) for _ in range(count)]


def test_equal_the_edits_over_the_units_of_all_references():
    predictions, references = texts(1), texts(2)
    assert "" in references
    assert "" in predictions
    pairs = list(zip(predictions, references, strict=True))
    words = 100 * sum(distance(p.split(), r.split()) for p, r in pairs) / sum(len(r.split()) for r in references)
    characters = 100 * sum(distance(p, r) for p, r in pairs) / sum(map(len, references))
    assert word_error_rate(predictions, references) == pytest.approx(words, rel=1e-12)
    assert character_error_rate(predictions, references) == pytest.approx(characters, rel=1e-12)


def test_the_two_arguments_are_not_alike():
    assert word_error_rate(["a b c"], ["a"]) == 200
    assert word_error_rate(["a"], ["a b c"]) == pytest.approx(200 / 3)


def test_words_for_an_empty_reference_are_insertions():
    assert word_error_rate(["a b", "x"], ["", "x"]) == 200
    assert character_error_rate(["", "ab"], ["", "ab"]) == 0


def test_spaces_do_not_count_twice():
    assert character_error_rate([" a  b "], ["a b"]) == 0
    assert character_error_rate(["ab"], ["a b"]) == pytest.approx(100 / 3)


@pytest.mark.parametrize("metric", [word_error_rate, character_error_rate])
def test_no_reference_at_all_is_an_error(metric):
    with pytest.raises(ValueError, match="undefined"):
        metric(["a"], [""])
    with pytest.raises(ValueError, match="1 predictions for 2 references"):
        metric(["a"], ["a", "b"])
