"""n-gram models against modified Kneser-Ney smoothing written out with dictionaries, and read back from the ARPA file naively."""

import itertools
import math
import re
from collections import Counter, defaultdict

import numpy as np
import pytest

from audiossl.data.ngram import train_ngrams, write_arpa


def sentences(seed=0, count=400, words=30):
    rng = np.random.default_rng(seed)
    draws = [np.minimum(rng.geometric(0.12, rng.integers(1, 9)), words) for _ in range(count)]
    return [[f"w{k}" for k in draw] for draw in draws]


class KneserNey:
    """Chen and Goodman (1998), with Heafield's (2013) treatment of sentence boundaries; every probability by recursion."""

    def __init__(self, texts, order):
        self.order = order
        raw = [Counter() for _ in range(order + 1)]
        for text in texts:
            padded = ("<s>", *text, "</s>")
            for n in range(1, order + 1):
                raw[n].update(padded[i : i + n] for i in range(len(padded) - n + 1))
        self.words = sorted({word for (word,) in raw[1]} - {"<s>"} | {"<unk>"})
        self.count = [{}]
        for n in range(1, order + 1):
            left = defaultdict(set)
            for gram in raw[n + 1] if n < order else ():
                left[gram[1:]].add(gram[0])
            whole = n == order
            self.count.append({g: c if whole or g[0] == "<s>" else len(left[g]) for g, c in raw[n].items()})
        self.count[1].pop(("<s>",))
        self.discounts = [None, *(self._discounts(self.count[n]) for n in range(1, order + 1))]
        self.followers = [defaultdict(list) for _ in range(order)]
        for n in range(1, order + 1):
            for gram, count in self.count[n].items():
                self.followers[n - 1][gram[:-1]].append(count)

    @staticmethod
    def _discounts(counts):
        t = Counter(counts.values())
        if all(t[k] for k in (1, 2, 3)):
            y = t[1] / (t[1] + 2 * t[2])
            found = [k - (k + 1) * y * t[k + 1] / t[k] for k in (1, 2, 3)]
            if min(found) >= 0:
                return found
        return [0.5, 1.0, 1.5]

    def probability(self, word, history):
        n = len(history) + 1
        discounts = self.discounts[n]
        counts = self.followers[n - 1].get(history, [])
        shorter = self.probability(word, history[1:]) if history else 1 / len(self.words)
        if not counts:
            return shorter
        mine = self.count[n].get((*history, word), 0)
        seen = mine - discounts[min(mine, 3) - 1] if mine else 0.0
        left = sum(discounts[min(count, 3) - 1] for count in counts)
        return (seen + left * shorter) / sum(counts)

    def perplexity(self, texts):
        total = count = 0
        for text in texts:
            padded = ("<s>", *text, "</s>")
            for i in range(1, len(padded)):
                total += math.log(self.probability(padded[i], padded[max(0, i - self.order + 1) : i]))
                count += 1
        return math.exp(-total / count)


class Arpa:
    """An ARPA file, and the probability that its backoff gives."""

    def __init__(self, path):
        text = path.read_text()
        self.sizes = [int(size) for size in re.findall(r"^ngram \d+=(\d+)$", text, re.MULTILINE)]
        self.prob, self.backoff = {}, {}
        for n, block in enumerate(re.split(r"\\\d+-grams:\n", text)[1:], start=1):
            lines = block.split("\n\n")[0].splitlines()
            assert len(lines) == self.sizes[n - 1]
            for line in lines:
                prob, words, *rest = line.split("\t")
                assert len(words.split()) == n
                self.prob[tuple(words.split())] = float(prob)
                self.backoff[tuple(words.split())] = float(rest[0]) if rest else 0.0
        assert text.endswith("\n\\end\\\n")

    def log_prob(self, word, history):
        if (*history, word) in self.prob:
            return self.prob[(*history, word)]
        if not history:
            return self.prob[("<unk>",)]
        return self.backoff.get(history, 0.0) + self.log_prob(word, history[1:])


@pytest.fixture(scope="module", params=[1, 2, 4])
def models(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("ngram") / "x.arpa"
    write_arpa(train_ngrams(iter(sentences()), request.param), path)
    return KneserNey(sentences(), request.param), Arpa(path)


def test_every_probability_is_that_of_the_definition(models):
    naive, arpa = models
    for text in sentences(seed=1, count=50):
        padded = ("<s>", *text, "</s>")
        for i in range(1, len(padded)):
            history = padded[max(0, i - naive.order + 1) : i]
            assert 10 ** arpa.log_prob(padded[i], history) == pytest.approx(
                naive.probability(padded[i], history), rel=1e-5
            )


def test_perplexity_of_unseen_text(models):
    naive, arpa = models
    text = sentences(seed=2, count=60)
    logs = []
    for padded in (("<s>", *line, "</s>") for line in text):
        logs += [arpa.log_prob(padded[i], padded[max(0, i - naive.order + 1) : i]) for i in range(1, len(padded))]
    assert 10 ** -np.mean(logs) == pytest.approx(naive.perplexity(text), rel=1e-5)
    assert naive.perplexity(text) < len(naive.words)


def test_probabilities_after_any_history_sum_to_one(models):
    naive, arpa = models
    histories = {gram[:-1] for gram in arpa.prob} | {("w1", "never", "seen")[-naive.order + 1 :]}
    for history in itertools.islice(sorted(histories), 0, None, 7):
        assert sum(10 ** arpa.log_prob(word, history) for word in naive.words) == pytest.approx(1.0, abs=1e-5)


def test_larger_text_has_discounts_of_its_own(caplog):
    model = train_ngrams(sentences(count=3000, words=300), 3)
    assert not caplog.records
    naive = KneserNey(sentences(count=3000, words=300), 3)
    assert naive.discounts[3] != [0.5, 1.0, 1.5]
    words = model.words
    level, above = model.levels[1], model.levels[2]
    for k in range(0, len(above.word), 97):
        first = level.history[above.history[k]]
        gram = tuple(words[i] for i in (first, level.word[above.history[k]], above.word[k]))
        assert 10 ** model.log_prob[2][k] == pytest.approx(naive.probability(gram[2], gram[:2]), rel=1e-9)


def test_kenlm_reads_the_file(tmp_path):
    decoder = pytest.importorskip("flashlight.lib.text.decoder.kenlm", reason="KenLM comes with the extra `lm`")
    from flashlight.lib.text.dictionary import Dictionary

    path = tmp_path / "x.arpa"
    write_arpa(train_ngrams(sentences(), 3), path)
    naive, words = KneserNey(sentences(), 3), Dictionary([f"w{k}" for k in range(1, 31)] + ["<unk>"])
    lm = decoder.KenLM(str(path), words)
    for text in sentences(seed=3, count=20):
        state, padded = lm.start(False), ("<s>", *text, "</s>")
        for i in range(1, len(padded)):
            state, score = lm.score(state, words.get_index(padded[i])) if i <= len(text) else lm.finish(state)
            assert 10**score == pytest.approx(naive.probability(padded[i], padded[max(0, i - 2) : i]), rel=1e-4)


def test_words_of_a_file(tmp_path):
    write_arpa(train_ngrams([["A", "É"]], 2), tmp_path / "x.arpa")
    singles = (tmp_path / "x.arpa").read_text(encoding="utf-8").partition("\\1-grams:")[2].partition("\\2-grams:")[0]
    assert {line.split("\t")[1] for line in singles.split("\n") if line} == {"<unk>", "<s>", "</s>", "A", "É"}
    assert not list(tmp_path.glob("*.partial"))


def test_complaints_are_one_line(caplog):
    with pytest.raises(ValueError, match="the text holds no words"):
        train_ngrams([[], []], 2)
    with pytest.raises(ValueError, match="holds <s> or </s>"):
        train_ngrams([["a", "<s>"]], 2)
    with pytest.raises(ValueError, match="--order 0 is no length"):
        train_ngrams([["a"]], 0)
    train_ngrams([["a"]], 2)
    assert [record.getMessage()[:50] for record in caplog.records] == [
        "too little text for the discounts of order 1: they",
        "too little text for the discounts of order 2: they",
    ]
