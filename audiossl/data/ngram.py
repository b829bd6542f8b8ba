"""n-gram language models: interpolated, with modified Kneser-Ney smoothing, from text to the ARPA format.

Chen and Goodman, "An empirical study of smoothing techniques for language modeling", 1998, section 3; the estimates are those of
Heafield et al., "Scalable modified Kneser-Ney language model estimation", ACL 2013, section 3. All n-grams are kept, in memory.
"""

from __future__ import annotations

import logging
from array import array
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from audiossl.files import whole_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    Ints: TypeAlias = NDArray[np.int64]
    Floats: TypeAlias = NDArray[np.float64]

UNKNOWN, BEGIN, END = "<unk>", "<s>", "</s>"
_UNKNOWN, _BEGIN = 0, 1
_FALLBACK = (0.5, 1.0, 1.5)
_CHUNK = 1 << 16

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Level:
    """The n-grams of one order: for each its last word, and the places of the n-grams without their last and without their first word.

    history, suffix: in the level below; unused for single words. starts: whether it begins with `<s>`. count: how often it occurs.
    """

    word: Ints
    history: Ints
    suffix: Ints
    starts: NDArray[np.bool_]
    count: Ints


@dataclass(frozen=True)
class NGrams:
    """A language model. words: by index, `<unk>`, `<s>`, `</s>`, then those of the text.

    log_prob, log_backoff: decimal logarithms of each n-gram of each level; an n-gram that no other continues has backoff 0.
    """

    words: tuple[str, ...]
    levels: tuple[Level, ...]
    log_prob: tuple[Floats, ...]
    log_backoff: tuple[Floats, ...]


def train_ngrams(sentences: Iterable[Sequence[str]], order: int) -> NGrams:
    """Estimate a model of n-grams up to `order`. Empty sentences count for nothing; ValueError where there are no others.

    Where the text is too small for the discounts of an order, they are 0.5, 1 and 1.5, and the log says so.
    """
    if order < 1:
        raise ValueError(f"--order {order} is no length of n-grams; give at least 1")
    words, stream, position = _read(sentences)
    levels = _count(stream, position, len(words), order)
    prob: list[Floats] = []
    backoff: list[Floats] = []
    for n, level in enumerate(levels):
        adjusted = _adjusted(level, levels[n + 1] if n + 1 < order else None, single=n == 0)
        discount = _discount(adjusted, n + 1)
        # of each history: the sum of its counts, and the mass that the discounts leave over
        size = len(levels[n - 1].word) if n else 1
        total = np.bincount(level.history, weights=adjusted, minlength=size)
        left = np.bincount(level.history, weights=discount, minlength=size)
        rest = np.divide(left, total, out=np.ones(size), where=total > 0)
        below = prob[n - 1][level.suffix] if n else np.full(len(words), 1 / (len(words) - 1))
        prob.append((adjusted - discount) / np.maximum(total, 1)[level.history] + rest[level.history] * below)
        if n:
            backoff.append(rest)
    prob[0][_BEGIN] = 1e-99  # never predicted
    backoff.append(np.ones(len(levels[-1].word)))
    return NGrams(words, levels, tuple(np.log10(p) for p in prob), tuple(np.log10(b) for b in backoff))


def write_arpa(model: NGrams, path: Path) -> None:
    """Write it in the ARPA format, atomically."""
    with whole_file(path) as partial, partial.open("w", encoding="utf-8") as file:
        file.write("\\data\\\n")
        file.writelines(f"ngram {n}={len(level.word)}\n" for n, level in enumerate(model.levels, start=1))
        spelt: Ints = np.zeros((1, 0), dtype=np.int64)
        for n, level in enumerate(model.levels, start=1):
            spelt = np.concatenate([spelt[level.history], level.word[:, None]], axis=1)
            file.write(f"\n\\{n}-grams:\n")
            file.writelines(_lines(model, n, spelt))
        file.write("\n\\end\\\n")


def _read(sentences: Iterable[Sequence[str]]) -> tuple[tuple[str, ...], Ints, Ints]:
    """Return the words, and of each place in the text, `<s>` and `</s>` included, the word and how far it is from its `<s>`."""
    index = {UNKNOWN: 0, BEGIN: 1, END: 2}
    stream, lengths = array("q"), array("q")
    for sentence in sentences:
        if not sentence:
            continue
        if BEGIN in sentence or END in sentence:
            raise ValueError(
                f"the text holds {BEGIN} or {END}, which mark where a sentence begins and ends; remove them"
            )
        stream.extend(index.setdefault(word, len(index)) for word in chain((BEGIN,), sentence, (END,)))
        lengths.append(len(sentence) + 2)
    if not lengths:
        raise ValueError("the text holds no words; give some sentences, one per line")
    each = np.array(lengths, dtype=np.int64)
    first = np.repeat(np.cumsum(each) - each, each)
    return tuple(index), np.array(stream, dtype=np.int64), np.arange(len(stream)) - first


def _count(stream: Ints, position: Ints, num_words: int, order: int) -> tuple[Level, ...]:
    nothing = np.zeros(num_words, dtype=np.int64)
    every = np.arange(num_words)
    single = Level(every, nothing, nothing, every == _BEGIN, np.bincount(stream, minlength=num_words))
    levels, gram = [single], stream  # gram: of each place, the n-gram that ends there
    for n in range(1, order):
        place = np.flatnonzero(position >= n)
        keys, where, inverse, count = np.unique(
            gram[place - 1] * num_words + stream[place], return_index=True, return_inverse=True, return_counts=True
        )
        history, word = np.divmod(keys, num_words)
        levels.append(Level(word, history, gram[place][where], levels[-1].starts[history], count))
        gram = gram.copy()
        gram[place] = inverse
    return tuple(levels)


def _adjusted(level: Level, above: Level | None, *, single: bool) -> Floats:
    """Counts at the highest order and of what begins with `<s>`; else the number of different words seen in front of it."""
    count = level.count
    if above is not None:
        count = np.where(level.starts, count, np.bincount(above.suffix, minlength=len(count)))
    if single:
        count = np.where(level.starts, 0, count)
    return count.astype(np.float64)


def _discount(adjusted: Floats, n: int) -> Floats:
    """Return what is taken from each adjusted count: D(k) = k - (k + 1) Y t[k + 1] / t[k], Y = t[1] / (t[1] + 2 t[2])."""
    t = np.bincount(np.minimum(adjusted, 5).astype(np.int64), minlength=6)[:5].astype(np.float64)
    discounts = np.array(_FALLBACK)
    if t[1:4].all():
        k = np.arange(1, 4)
        fitted = k - (k + 1) * t[1] / (t[1] + 2 * t[2]) * t[2:5] / t[1:4]
        if (fitted >= 0).all():
            return np.concatenate([[0.0], fitted])[np.minimum(adjusted, 3).astype(np.int64)]
    _LOG.warning("too little text for the discounts of order %d: they are set to %s, %s and %s", n, *_FALLBACK)
    return np.concatenate([[0.0], discounts])[np.minimum(adjusted, 3).astype(np.int64)]


def _lines(model: NGrams, n: int, spelt: Ints) -> Iterator[str]:
    words, prob, backoff = model.words, model.log_prob[n - 1], model.log_backoff[n - 1]
    for start in range(0, len(spelt), _CHUNK):
        part = slice(start, start + _CHUNK)
        rows = zip(prob[part].tolist(), spelt[part].tolist(), backoff[part].tolist(), strict=True)
        for p, row, b in rows:
            tail = f"\t{b:.7g}" if n < len(model.levels) else ""
            yield f"{p:.7g}\t{' '.join(words[k] for k in row)}{tail}\n"
