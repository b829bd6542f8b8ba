"""Prefix beam search against the sum over all alignments, written out."""

import itertools

import numpy as np
import pytest
import torch

from audiossl.nn.beam_search import PrefixBeam, prefix_beam_search
from audiossl.nn.vocabulary import Vocabulary

LENGTHS = [5, 3, 0]


def marginals(log_probs):
    """Log probability of every label sequence: the sum over its alignments. log_probs: (frame, token)."""
    found = {}
    for path in itertools.product(range(log_probs.shape[1]), repeat=len(log_probs)):
        labels = tuple(token for token, _ in itertools.groupby(path) if token != 0)
        alignment = sum(log_probs[t, token] for t, token in enumerate(path))
        found[labels] = np.logaddexp(found.get(labels, -np.inf), alignment)
    return found


def random_log_probs(seed, tokens=3, frames=5):
    rng = np.random.default_rng(seed)
    return np.log(rng.dirichlet(np.full(tokens, 0.5), (len(LENGTHS), frames)))


def search(log_probs, beam, lengths=LENGTHS):
    return prefix_beam_search(torch.from_numpy(log_probs), torch.tensor(lengths), beam=beam)


@pytest.mark.parametrize("seed", range(10))
def test_with_room_for_all_prefixes_it_is_exact(seed):
    log_probs = random_log_probs(seed)
    for row, length, hypotheses in zip(log_probs, LENGTHS, search(log_probs, 100), strict=True):
        expected = marginals(row[:length])
        assert {tuple(h.tokens) for h in hypotheses} == expected.keys()
        scores = [h.log_prob for h in hypotheses]
        assert scores == sorted(scores, reverse=True)
        for hypothesis in hypotheses:
            assert hypothesis.log_prob == pytest.approx(expected[tuple(hypothesis.tokens)], abs=1e-4)


def naive_beam(log_probs, beam):
    """The same pruned search with a dict of prefixes: {labels: (ends in blank, ends in its last label)}."""
    beams = {(): (0.0, -np.inf)}
    for frame in log_probs:
        new = {}
        for labels, (blank, token) in beams.items():
            total = np.logaddexp(blank, token)
            additions = [(labels, 0, total + frame[0])]
            if labels:
                additions.append((labels, 1, token + frame[labels[-1]]))
            for label in range(1, len(frame)):
                before = blank if labels[-1:] == (label,) else total
                additions.append(((*labels, label), 1, before + frame[label]))
            for key, place, score in additions:
                pair = list(new.get(key, (-np.inf, -np.inf)))
                pair[place] = np.logaddexp(pair[place], score)
                new[key] = tuple(pair)
        kept = sorted(new, key=lambda key: -np.logaddexp(*new[key]))[:beam]
        beams = {key: new[key] for key in kept}
    return {key: np.logaddexp(*pair) for key, pair in beams.items() if np.logaddexp(*pair) > -np.inf}


@pytest.mark.parametrize("beam", [1, 2, 3, 7])
@pytest.mark.parametrize("seed", range(5))
def test_pruning_is_that_of_a_naive_search(seed, beam):
    log_probs = random_log_probs(seed, tokens=5, frames=12)
    lengths = [12, 7, 1]
    for row, length, hypotheses in zip(log_probs, lengths, search(log_probs, beam, lengths), strict=True):
        expected = naive_beam(row[:length], beam)
        assert {tuple(h.tokens): pytest.approx(h.log_prob, abs=1e-3) for h in hypotheses} == expected


def test_the_most_likely_text_is_not_the_most_likely_alignment():
    # the best alignment is two blanks, 0.36; "a" adds up 0.64
    log_probs = np.log(np.array([[[0.6, 0.0 + 1e-12, 0.4], [0.6, 1e-12, 0.4]]]))
    vocabulary = Vocabulary.from_texts(["a"], "characters")
    read = PrefixBeam(vocabulary, beam=3)
    assert read(torch.from_numpy(log_probs), torch.tensor([2])) == ["a"]
    assert search(log_probs, 3, [2])[0][0].log_prob == pytest.approx(np.log(0.64), abs=1e-5)


def test_nothing_depends_on_padding():
    log_probs = random_log_probs(0)
    longer = np.concatenate([log_probs, random_log_probs(1)], axis=1)
    assert search(longer, 4) == search(log_probs, 4)


def test_a_beam_keeps_at_least_one():
    with pytest.raises(ValueError, match="beam 0 keeps no hypothesis"):
        search(random_log_probs(0), 0)
