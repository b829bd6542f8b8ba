from __future__ import annotations

import numpy as np

from audiossl.data import grammar


def generated(rules, symbol):
    """All sentences of a grammar without recursion, as lists of words: the slow way."""
    if symbol not in rules:
        return [[symbol]]
    found = []
    for option in rules[symbol]:
        ways = [[]]
        for part in option:
            ways = [way + tail for way in ways for tail in generated(rules, part)]
        found += ways
    return found


RULES = {
    "SENTENCE": [("NP", "slept", "."), ("when", "NP", "slept", ",", "NP", "sang", ".")],
    "NP": [("NAME",), ("NAME", "'s", "dog")],
    "NAME": [("ann",), ("bob",)],
}


def test_samples_are_all_sentences_and_no_others():
    rng = np.random.default_rng(0)
    drawn = {grammar.sample(RULES, rng).spoken for _ in range(2000)}
    spoken = {
        " ".join(words).replace(" 's", "'s").replace(" ,", ",").replace(" .", ".")
        for words in generated(RULES, "SENTENCE")
    }
    assert drawn == spoken
    assert len(spoken) == 4 + 16


def test_words_are_upper_case_without_punctuation():
    rng = np.random.default_rng(0)
    drawn = {grammar.sample(RULES, rng) for _ in range(500)}
    longest = next(item for item in drawn if item.spoken == "when ann's dog slept, bob sang.")
    assert longest.words == ("WHEN", "ANN'S", "DOG", "SLEPT", "BOB", "SANG")
    assert {word for item in drawn for word in item.words} == grammar.vocabulary(RULES)


def test_restriction_keeps_what_known_words_can_say():
    known = {"ANN", "BOB", "SLEPT", "WHEN"}
    kept = grammar.restrict(RULES, known)
    wanted = [
        words
        for words in generated(RULES, "SENTENCE")
        if {word.upper() for word in words if word.isalpha()} <= known and "'s" not in words
    ]
    assert generated(kept, "SENTENCE") == wanted
    assert grammar.restrict(RULES, {"ANN"}) == {}


def test_english_has_no_loose_ends():
    rules = grammar.english()
    parts = {part for options in rules.values() for option in options for part in option}
    assert {part for part in parts if part[0].isupper()} == set(rules) - {"SENTENCE"}
    assert all(part.islower() or part in {",", ".", "?"} for part in parts - set(rules))
    assert set("".join(grammar.vocabulary(rules))) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZ'")
    assert 50 < len(grammar.vocabulary(rules)) < 80
    assert grammar.restrict(rules, grammar.vocabulary(rules)) == rules
