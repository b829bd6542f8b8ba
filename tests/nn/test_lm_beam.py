"""Decoding with a language model against the best of all alignments, written out."""

import gzip
import itertools
import logging

import numpy as np
import pytest
import torch

from audiossl.data.ngram import train_ngrams, write_arpa
from audiossl.nn.lm_beam import LMBeam, read_lexicon
from audiossl.nn.vocabulary import Vocabulary

pytest.importorskip("flashlight.lib.text", reason="language models need the extra `lm`")

TEXTS = ["AB A", "A AB", "B A", "AB B A"]
VOCABULARY = Vocabulary.from_texts(TEXTS, "characters")  # <blank> <unk> A B |
LEXICON = "A A |\nAB\tA B\nB B |\n"
WEIGHT, WORD = 2.0, -1.0


@pytest.fixture
def files(tmp_path):
    """A bigram of words, one of tokens, a lexicon."""
    write_arpa(train_ngrams([text.split() for text in TEXTS], 2), tmp_path / "words.arpa")
    spelt = [[VOCABULARY.tokens[i] for i in VOCABULARY.encode(text)] for text in TEXTS]
    write_arpa(train_ngrams(spelt, 2), tmp_path / "tokens.arpa")
    (tmp_path / "lexicon.txt").write_text(LEXICON)
    return tmp_path


def bigram(path):
    """Return log10 P(units, </s>) of a bigram in an ARPA file."""
    prob, backoff = {}, {}
    for line in path.read_text().splitlines():
        fields = line.split("\t")
        if len(fields) > 1:
            gram = tuple(fields[1].split())
            prob[gram], backoff[gram] = float(fields[0]), float(fields[2]) if len(fields) > 2 else 0.0

    def score(units):
        total = 0.0
        for pair in itertools.pairwise(("<s>", *units, "</s>")):
            total += prob[pair] if pair in prob else backoff[pair[:1]] + prob[pair[1:]]
        return total

    return score


def best_text(log_probs, score):
    """Text of the alignment whose log probability and `score(tokens)`, None where impossible, add up highest."""
    found = []
    for path in itertools.product(range(log_probs.shape[1]), repeat=len(log_probs)):
        tokens = [VOCABULARY.tokens[k] for k, _ in itertools.groupby(path) if k != 0]
        extra = score(tokens)
        if extra is not None:
            found.append((sum(log_probs[t, k] for t, k in enumerate(path)) + extra, tokens))
    return VOCABULARY.decode(VOCABULARY.tokens.index(token) for token in max(found)[1])


def random_log_probs(seed, frames=5):
    return np.log(np.random.default_rng(seed).dirichlet(np.ones(len(VOCABULARY)), frames))


def read(decoder, log_probs):
    return decoder(torch.from_numpy(log_probs)[None], torch.tensor([len(log_probs)]))[0]


@pytest.mark.parametrize("seed", range(6))
def test_words_of_a_lexicon(files, seed):
    lm = bigram(files / "words.arpa")

    def score(tokens):
        words = "".join(tokens).replace("|", " ").split()
        if not set(words) <= {"A", "AB", "B"}:
            return None
        return WEIGHT * lm(words) + WORD * len(words)

    decoder = LMBeam(VOCABULARY, beam=200, lm=files / "words.arpa", lexicon=files / "lexicon.txt")
    log_probs = random_log_probs(seed)
    assert read(decoder, log_probs) == best_text(log_probs, score)


@pytest.mark.parametrize("seed", range(6))
def test_tokens_without_a_lexicon(files, seed):
    lm = bigram(files / "tokens.arpa")
    decoder = LMBeam(VOCABULARY, beam=200, lm=files / "tokens.arpa", lm_weight=1.5)
    log_probs = random_log_probs(seed)
    assert read(decoder, log_probs) == best_text(log_probs, lambda tokens: 1.5 * lm(tokens))


@pytest.mark.parametrize("seed", range(3))
def test_a_lexicon_alone_makes_all_words_as_likely(files, seed):
    def score(tokens):
        words = "".join(tokens).replace("|", " ").split()
        return -3.0 * len(words) if set(words) <= {"A", "AB", "B"} else None

    decoder = LMBeam(VOCABULARY, beam=200, lexicon=files / "lexicon.txt", word_score=-3.0)
    log_probs = random_log_probs(seed)
    assert read(decoder, log_probs) == best_text(log_probs, score)


def test_batches_are_read_row_by_row_without_padding(files):
    decoder = LMBeam(VOCABULARY, beam=20, lm=files / "words.arpa", lexicon=files / "lexicon.txt")
    rows = [random_log_probs(seed, frames=8) for seed in range(3)]
    lengths = [8, 5, 0]
    together = decoder(torch.from_numpy(np.stack(rows)), torch.tensor(lengths))
    assert together == [read(decoder, row[:length]) for row, length in zip(rows, lengths, strict=True)]
    assert together[2] == ""


def test_a_text_of_single_words_needs_no_boundary(tmp_path):
    vocabulary = Vocabulary.from_texts(["AB", "B"], "characters")
    assert "|" not in vocabulary.tokens
    (tmp_path / "lexicon.txt").write_text("AB A B |\n")
    decoder = LMBeam(vocabulary, beam=10, lexicon=tmp_path / "lexicon.txt", word_score=0.0)
    frames = np.log(np.full((4, 4), 0.02) + 0.9 * np.eye(4)[[2, 2, 3, 3]])
    assert read(decoder, frames) == "AB"


def test_the_end_of_a_text_writes_nothing(tmp_path):
    vocabulary = Vocabulary.from_texts(["A B"], "characters", end=True)  # <blank> <unk> <eos> A B |
    (tmp_path / "lexicon.txt").write_text("A A |\nB B |\n")
    decoder = LMBeam(vocabulary, beam=10, lexicon=tmp_path / "lexicon.txt")
    frames = np.log(np.full((4, 6), 0.01) + 0.94 * np.eye(6)[[3, 5, 4, 2]])
    assert read(decoder, frames) == "A B"


def test_words_that_cannot_be_spelt_are_left_out(tmp_path, caplog):
    path = tmp_path / "lexicon.txt"
    path.write_text("A A\nÉ É |\n\nA B |\nNOTHING\n")
    with caplog.at_level(logging.WARNING):
        assert read_lexicon(path, list(VOCABULARY.tokens)) == {"A": [[2, 4], [3, 4]]}
    assert "2 words have tokens that the model lacks" in caplog.text
    path.write_text("É É |\n")
    with pytest.raises(ValueError, match="no word in it can be spelt"):
        read_lexicon(path, list(VOCABULARY.tokens))


WORDS = [first + second for first in "ABCDEFGHI" for second in "ABCDEFGHI"]
LETTERS = Vocabulary.from_texts([f"{'ABCDEFGHI'} A"], "characters")


def written(path, how):
    """Write a model in another form of the ARPA format."""
    text = path.read_bytes()
    path.write_bytes(
        {"plain": text, "SRILM": b"\n" + text, "comment": b"# by hand\n\n" + text, "gzip": gzip.compress(text)}[how]
    )
    return path


def spelt(path, words):
    path.write_text("".join(f"{word} {' '.join(word.upper())} |\n" for word in words))
    return path


@pytest.mark.parametrize("how", ["plain", "SRILM", "comment", "gzip"])
@pytest.mark.parametrize(("change", "case"), [(str.lower, "lower"), (str.upper, "upper")])
def test_a_model_in_another_case_than_the_lexicon_is_refused(tmp_path, how, change, case):
    write_arpa(train_ngrams([[change(word)] for word in WORDS[:60]], 2), tmp_path / "lm")
    words = [word.lower() if case == "upper" else word for word in WORDS]
    with pytest.raises(
        ValueError, match=f"lm: knows 0 of the 81 words of the lexicon, and 60 if they were in {case} case"
    ):
        LMBeam(LETTERS, beam=2, lm=written(tmp_path / "lm", how), lexicon=spelt(tmp_path / "lexicon.txt", words))


@pytest.mark.parametrize("how", ["plain", "SRILM", "gzip"])
@pytest.mark.parametrize(("known", "said"), [(81, ""), (20, "61 of the 81 words of the lexicon are unknown to it")])
def test_a_lexicon_may_be_larger_than_the_model(tmp_path, caplog, how, known, said):
    write_arpa(train_ngrams([[word] for word in WORDS[:known]], 2), tmp_path / "lm")
    caplog.clear()
    LMBeam(LETTERS, beam=2, lm=written(tmp_path / "lm", how), lexicon=spelt(tmp_path / "lexicon.txt", WORDS))
    assert [record.getMessage().partition("lm: ")[2] for record in caplog.records] == [said] * bool(said)


def test_a_model_that_knows_nearly_nothing_is_refused(tmp_path):
    write_arpa(train_ngrams([[word] for word in WORDS[:8]], 2), tmp_path / "lm")
    with pytest.raises(
        ValueError, match="lm: knows 8 of the 81 words of the lexicon; with --lexicon it must be of words"
    ):
        LMBeam(LETTERS, beam=2, lm=tmp_path / "lm", lexicon=spelt(tmp_path / "lexicon.txt", WORDS))


def test_a_pronouncing_lexicon_is_refused(tmp_path):
    path = tmp_path / "lexicon.txt"
    path.write_text("BE B IY1\nAB AE1 B\nBEE B IY1\nB B\n")
    with pytest.raises(
        ValueError, match=r"3 of its 4 lines, such as 'BE B IY1', have tokens that .* \(phones, or another case\?\)"
    ):
        read_lexicon(path, list(VOCABULARY.tokens))


def test_a_lexicon_in_another_encoding_is_named(tmp_path):
    (tmp_path / "lexicon.txt").write_bytes("É É |\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"lexicon\.txt: is not UTF-8 \(.*\); convert the lexicon with iconv"):
        read_lexicon(tmp_path / "lexicon.txt", list(VOCABULARY.tokens))


@pytest.mark.parametrize("order", [1, 7])
def test_orders_that_kenlm_does_not_take(files, order):
    write_arpa(train_ngrams([text.split() for text in TEXTS], order), files / "lm.arpa")
    with pytest.raises(
        ValueError, match=r"lm\.arpa: not a language model that KenLM reads: .*; give .* of order 2 to 6"
    ) as error:
        LMBeam(VOCABULARY, beam=2, lm=files / "lm.arpa", lexicon=files / "lexicon.txt")
    assert "\n" not in str(error.value)


def test_complaints_are_one_line(files):
    lexicon = files / "lexicon.txt"
    with pytest.raises(ValueError, match=r"words\.arpa: knows 0 of the 4 tokens of the model; with --lexicon"):
        LMBeam(Vocabulary.from_texts(["X Y Z"], "characters"), beam=2, lm=files / "words.arpa")
    with pytest.raises(ValueError, match=r"a lexicon spells words by characters, and the tokens are words"):
        LMBeam(Vocabulary.from_texts(["A"], "words"), beam=2, lexicon=lexicon)
    with pytest.raises(ValueError, match="neither a language model nor a lexicon"):
        LMBeam(VOCABULARY, beam=2)
    with pytest.raises(ValueError, match="beam 0 keeps no hypothesis"):
        LMBeam(VOCABULARY, beam=0, lexicon=lexicon)
    (files / "broken.arpa").write_text("not a model\n")
    with pytest.raises(ValueError, match=r"broken\.arpa: not a language model that KenLM reads"):
        LMBeam(VOCABULARY, beam=2, lm=files / "broken.arpa", lexicon=lexicon)
