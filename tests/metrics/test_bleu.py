"""BLEU against the formula of Papineni et al. (2002), sections 2.1 to 2.3, on texts that are split already."""

from __future__ import annotations

import math
import sys
from collections import Counter

import numpy as np
import pytest

from audiossl.metrics.bleu import bleu

pytest.importorskip("sacrebleu", reason="BLEU needs the extra `st`")


def grams(words, n):
    return Counter(tuple(words[k : k + n]) for k in range(len(words) - n + 1))


def by_hand(predictions, references):
    predictions, references = ([text.split() for text in texts] for texts in (predictions, references))
    logs = []
    for n in (1, 2, 3, 4):
        matched = sum((grams(p, n) & grams(r, n)).total() for p, r in zip(predictions, references, strict=True))
        logs.append(math.log(matched / sum(grams(p, n).total() for p in predictions)))
    said, wanted = (sum(map(len, texts)) for texts in (predictions, references))
    return 100 * min(1.0, math.exp(1 - wanted / said)) * math.exp(sum(logs) / 4)


def test_it_is_the_published_formula():
    rng = np.random.default_rng(0)
    words = np.array(["der", "Hund", "die", "Katze", "sieht", "nicht", "heute"])
    references = [" ".join(words[rng.integers(7, size=12)]) for _ in range(20)]
    predictions = []
    for text in references:
        changed = text.split()[: rng.integers(9, 13)]
        changed[int(rng.integers(len(changed)))] = "Maus"
        predictions.append(" ".join(changed))
    assert bleu(predictions, references) == pytest.approx(by_hand(predictions, references))
    assert 20 < bleu(predictions, references) < 90
    assert bleu(references, references) == pytest.approx(100.0)


def test_case_counts_and_punctuation_is_split_off():
    reference = ["Die Katze sieht den Hund, sagte sie."]
    assert bleu(["die Katze sieht den Hund, sagte sie."], reference) < 100
    assert bleu(["Die Katze sieht den Hund , sagte sie ."], reference) == pytest.approx(100.0)
    assert bleu(["x"], reference) == pytest.approx(0.0)
    assert bleu(["你好世界吗"], ["你好世界吗"], tokenizer="zh") == pytest.approx(100.0)


def test_faults_are_named(monkeypatch):
    with pytest.raises(ValueError, match="2 predictions for 1 references"):
        bleu(["a", "b"], ["a"])
    with pytest.raises(ValueError, match="0 predictions for 0 references"):
        bleu([], [])
    with pytest.raises(ValueError, match="unknown tokenizer '13b'; known: 13a"):
        bleu(["a"], ["a"], tokenizer="13b")
    monkeypatch.setitem(sys.modules, "MeCab", None)
    with pytest.raises(ValueError, match="^BLEU: tokenizer 'ja-mecab' cannot be used here") as error:
        bleu(["a"], ["a"], tokenizer="ja-mecab")
    assert "\n" not in str(error.value)
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    with pytest.raises(ValueError, match=r"pip install 'audiossl\[st\]'"):
        bleu(["a"], ["a"])
