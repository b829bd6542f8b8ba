"""Slot F1 and CER and phone error rate against definitions written as loops, and against numbers worked out by hand."""

import random
import re

import pytest

from audiossl import registry
from audiossl.metrics._slots import slots
from audiossl.metrics.phone_error_rate import phone_error_rate
from audiossl.metrics.slot_cer import slot_cer
from audiossl.metrics.slot_f1 import slot_f1
from audiossl.metrics.word_error_rate import word_error_rate

TYPES = ("artist", "city", "time")


def edits(a, b):
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
    return row[-1]


def utterance(rng):
    """Text, and its slots as (type, value)."""
    pieces, marked = [], []
    for _ in range(rng.randrange(5)):
        value = " ".join(rng.choices(["rome", "a", "half past", "ö"], k=rng.randrange(1, 3)))
        if rng.random() < 0.6:
            kind = rng.choice(TYPES)
            marked.append((kind, value))
            value = f"B-{kind} {value} E-{kind}"
        pieces.append(value)
    return " ".join(pieces), marked


def slow_f1(pairs):
    total = 0.0
    for predicted, wanted in pairs:
        a, b = {kind for kind, _ in predicted}, {kind for kind, _ in wanted}
        if not a and not b:
            total += 1
        elif a & b:
            precision, recall = len(a & b) / len(a), len(a & b) / len(b)
            total += 2 * precision * recall / (precision + recall)
    return 100 * total / len(pairs)


def slow_cer(pairs):
    errors = characters = 0
    for predicted, wanted in pairs:
        for kind, value in wanted:
            found = [edits(other, value) for other_kind, other in predicted if other_kind == kind]
            errors += min(found, default=len(value))
            characters += len(value)
    return 100 * errors / characters


@pytest.mark.parametrize("seed", range(3))
def test_slots_equal_the_loops(seed):
    rng = random.Random(seed)
    predictions, references = ([utterance(rng) for _ in range(50)] for _ in range(2))
    texts = [text for text, _ in predictions], [text for text, _ in references]
    pairs = [(p, r) for (_, p), (_, r) in zip(predictions, references, strict=True)]
    assert any(len(r) > len({kind for kind, _ in r}) for _, r in pairs)  # one type twice
    assert any(not p for p, r in pairs if r)
    assert slot_f1(*texts) == pytest.approx(slow_f1(pairs), rel=1e-12)
    assert slot_cer(*texts) == pytest.approx(slow_cer(pairs), rel=1e-12)


def test_slots_are_those_of_the_published_pattern():
    """The published regular expression, held to whole words, finds the same in any mix of words and tags."""
    rng = random.Random(0)
    words = ["x", "yy", *(f"{side}-{kind}" for side in "BE" for kind in ("p", "q"))]
    seen = 0
    for _ in range(2000):
        text = " ".join(rng.choices(words, k=rng.randrange(9)))
        found = {}
        for kind, value in re.findall(r"(?<!\S)B-(\S+) (.+?) E-\1(?!\S)", text):
            kept = [word for word in value.split() if word[:2] not in ("B-", "E-")]
            found.setdefault(kind, []).append(" ".join(kept))
        assert slots(text) == found
        seen += len(found)
    assert seen > 200


def test_slots_by_hand():
    assert slots("play B-a the clash E-a in B-b rome E-b B-a x E-a") == {"a": ["the clash", "x"], "b": ["rome"]}
    assert slots("B-a open and B-b E-b empty E-c") == {}
    assert slots("B-play x E-play_list B-l B-m y E-l") == {"l": ["y"]}
    reference = "B-a ab E-a B-b cd E-b"
    assert slot_f1(["B-a zz E-a", "", "B-a x E-a"], [reference, "", ""]) == pytest.approx(100 * (2 / 3 + 1) / 3)
    assert slot_cer(["B-a ax E-a B-a abc E-a B-c much more E-c"], [reference]) == pytest.approx(100 * (1 + 2) / 4)


def test_phones_are_counted_with_their_stress_and_without_what_is_ignored():
    predictions, references = ["SIL AH0 B", " K  SPN AE1 T"], ["AH1 B SIL", "K AE1 T"]
    assert phone_error_rate(predictions, references) == word_error_rate(predictions, references)
    assert phone_error_rate(predictions, references, ignored={"SIL", "SPN"}) == pytest.approx(100 / 5)


def test_errors_say_what_to_do():
    for metric in (slot_f1, slot_cer, phone_error_rate):
        with pytest.raises(ValueError, match="1 predictions for 2 references"):
            metric(["B-a x E-a"], ["B-a x E-a", "B-a x E-a"])
        assert registry.get("metrics", metric.__name__) is metric
    with pytest.raises(ValueError, match="0 predictions for 0"):
        slot_f1([], [])
    with pytest.raises(ValueError, match="no slot"):
        slot_cer(["B-a x E-a"], ["x"])
    with pytest.raises(ValueError, match="no phone"):
        phone_error_rate(["A"], ["SIL"], ignored=["SIL"])
