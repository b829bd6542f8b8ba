"""Beam search with an n-gram language model: flashlight-text's decoders and its reader of KenLM files (extra `lm`)."""

from __future__ import annotations

import logging
from collections import defaultdict
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from audiossl.data.ngram import UNKNOWN
from audiossl.nn.known_tokens import in_another_case
from audiossl.nn.lexicon import lexicon_lines
from audiossl.nn.vocabulary import BOUNDARY, END

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from audiossl.nn.bpe import BPE
    from audiossl.nn.vocabulary import Vocabulary

_NEVER = -1e30
_LEAST_KNOWN = 0.1  # share of words or tokens that a model must know to be taken for one of them
_BEAM_THRESHOLD = 25.0  # hypotheses that are this much worse than the best are dropped, as in the published decoding

_LOG = logging.getLogger(__name__)


class LMBeam:
    """From log probabilities of CTC to texts: the best of log P(tokens | audio) + lm_weight log10 P_LM + word_score words.

    The score of an alignment is taken for that of its tokens, as published (Collobert et al., 2016; Baevski et al., 2020, section 4.4), and
    logarithms of the language model are decimal, as flashlight-text has them.

    lm: an ARPA file or KenLM's binary; of words where there is a lexicon, else of tokens; None: words of the lexicon, all as likely. lexicon:
    a file of `word token token ...` lines; a word may come with several spellings. word_score: added for each word; with a lexicon only.
    ValueError where a file does not fit the vocabulary, OSError where it cannot be read.
    """

    def __init__(
        self,
        vocabulary: Vocabulary | BPE,
        *,
        beam: int,
        lm: Path | None = None,
        lexicon: Path | None = None,
        lm_weight: float = 2.0,
        word_score: float = -1.0,
    ) -> None:
        if beam < 1:
            raise ValueError(f"beam {beam} keeps no hypothesis; give at least 1")
        if lexicon is not None and vocabulary.kind != "characters":
            raise ValueError(
                f"{lexicon}: a lexicon spells words by characters, and the tokens are {vocabulary.kind}; decode without it"
            )
        if lexicon is None and lm is None:
            raise ValueError("neither a language model nor a lexicon is given; `prefix_beam_search` needs none")
        self.vocabulary = vocabulary
        tokens = list(vocabulary.tokens)
        # Words end in the boundary; a text of single words does without it, and then it has a column of its own.
        self._tokens = tokens if BOUNDARY in tokens or lexicon is None else [*tokens, BOUNDARY]
        options = {"beam_size": beam, "beam_size_token": len(self._tokens), "beam_threshold": _BEAM_THRESHOLD}
        options |= {"lm_weight": lm_weight, "sil_score": 0.0, "log_add": False}
        self._words: Any = None
        if lexicon is None:
            assert lm is not None
            self._decoder = _without_lexicon(self._tokens, lm, options)
        else:
            spellings = read_lexicon(lexicon, self._tokens)
            options |= {"word_score": word_score, "unk_score": -np.inf}
            self._decoder, self._words = _with_lexicon(self._tokens, spellings, lm, options)

    def __call__(self, log_probs: Tensor, lengths: Tensor) -> list[str]:
        """log_probs: (batch, frame, token), normalised; lengths: (batch,) valid frames."""
        rows = log_probs.detach().float().cpu().numpy()
        return [self._read(row[:length]) for row, length in zip(rows, lengths.tolist(), strict=True)]

    def __deepcopy__(self, memo: dict[int, Any]) -> LMBeam:
        """Itself: what it holds is large, not to be copied, and only read."""
        return self

    def _read(self, frames: NDArray[np.float32]) -> str:
        """frames: (frame, token) of one utterance."""
        emissions = self._emissions(frames)
        results = self._decoder.decode(emissions.ctypes.data, *emissions.shape)
        if not results:
            return ""
        if self._words is not None:
            return " ".join(self._words.get_entry(word) for word in results[0].words if word >= 0)
        return self.vocabulary.decode(token for token, _ in groupby(results[0].tokens) if token >= 0)

    def _emissions(self, frames: NDArray[np.float32]) -> NDArray[np.float32]:
        """Frames as the decoder wants them. With a lexicon one more, which ends the last word: in our texts no boundary follows it."""
        known, blank = frames.shape[1], self.vocabulary.blank_index
        extra = int(self._words is not None)
        emissions = np.full((len(frames) + extra, len(self._tokens)), _NEVER, dtype=np.float32)
        emissions[: len(frames), :known] = frames
        if extra:
            emissions[-1, self._tokens.index(BOUNDARY)] = 0.0
        if END in self._tokens:  # writes nothing, like a blank
            end = self._tokens.index(END)
            emissions[:, blank] = np.logaddexp(emissions[:, blank], emissions[:, end])
            emissions[:, end] = _NEVER
        return emissions


def read_lexicon(path: Path, tokens: list[str]) -> dict[str, list[list[int]]]:
    """Spellings of words, as token indices with the boundary at their end, whether the file has it or not.

    Words with a token that the vocabulary lacks are left out, and the log says how many; ValueError where they are more than half.
    """
    index = {token: position for position, token in enumerate(tokens)}
    spellings: dict[str, list[list[int]]] = defaultdict(list)
    left_out = []
    lines = [line.split() for line in lexicon_lines(path) if line.strip()]
    for word, *rest in lines:
        spelt = rest if rest[-1:] == [BOUNDARY] else [*rest, BOUNDARY]
        if len(spelt) > 1 and all(token in index for token in spelt):
            spellings[word].append([index[token] for token in spelt])
        else:
            left_out.append(" ".join([word, *rest]))
    if not spellings:
        raise ValueError(
            f"{path}: no word in it can be spelt with the tokens of the model; `audiossl lm --lexicon` writes one"
        )
    if 2 * len(left_out) > len(lines):
        raise ValueError(
            f"{path}: {len(left_out)} of its {len(lines)} lines, such as {left_out[0]!r}, have tokens that the model lacks (phones, or another case?); "
            "`audiossl lm --lexicon` writes one that fits"
        )
    if left_out:
        _LOG.warning("%s: %d words have tokens that the model lacks; they cannot be recognised", path, len(left_out))
    return dict(spellings)


def _with_lexicon(
    tokens: list[str], spellings: dict[str, list[list[int]]], lm: Path | None, options: dict[str, Any]
) -> tuple[Any, Any]:
    """Return flashlight's decoder over words, and its table of them."""
    text = _flashlight()
    words = text.Dictionary([*spellings, *([] if UNKNOWN in spellings else [UNKNOWN])])
    model = _model(lm, list(spellings), words, "words of the lexicon")
    trie, start = text.Trie(len(tokens), tokens.index(BOUNDARY)), model.start(False)
    for word, variants in spellings.items():
        label = words.get_index(word)
        score = model.score(start, label)[1]
        for spelt in variants:
            trie.insert(spelt, label, score)
    trie.smear(text.SmearingMode.MAX)
    settings = text.LexiconDecoderOptions(criterion_type=text.CriterionType.CTC, **options)
    unknown = words.get_index(UNKNOWN)
    return text.LexiconDecoder(settings, trie, model, tokens.index(BOUNDARY), 0, unknown, [], False), words


def _without_lexicon(tokens: list[str], lm: Path, options: dict[str, Any]) -> Any:
    """Return flashlight's decoder over tokens."""
    text = _flashlight()
    model = _model(lm, [token for token in tokens[2:] if token != END], text.Dictionary(tokens), "tokens of the model")
    settings = text.LexiconFreeDecoderOptions(criterion_type=text.CriterionType.CTC, **options)
    # The silence token only opens and closes the result; the blank does that without a trace.
    return text.LexiconFreeDecoder(settings, model, 0, 0, [])


def _model(lm: Path | None, units: list[str], dictionary: Any, what: str) -> Any:
    """Read a language model and check that it is about these units: ValueError where it knows few of them, a warning where not all."""
    text = _flashlight()
    if lm is None:
        return text.ZeroLM()
    model = _kenlm(lm, dictionary)
    known = _count_known(model, units, dictionary)
    if known < _LEAST_KNOWN * len(units):
        raise ValueError(
            f"{lm}: knows {known} of the {len(units)} {what}{in_another_case(partial(_count_changed, lm, units), known)}; "
            "with --lexicon it must be of words, else of tokens (`audiossl lm --tokens`)"
        )
    if known < len(units):
        _LOG.warning("%s: %d of the %d %s are unknown to it", lm, len(units) - known, len(units), what)
    return model


def _kenlm(lm: Path, dictionary: Any) -> Any:
    try:
        return _flashlight().KenLM(str(lm), dictionary)
    except RuntimeError as error:
        fault = " ".join(str(error).split())
        raise ValueError(
            f"{lm}: not a language model that KenLM reads: {fault}; give an ARPA file or KenLM's binary of order 2 to 6, "
            "such as `audiossl lm --order 4` makes"
        ) from error


def _count_changed(lm: Path, units: list[str], change: Callable[[str], str]) -> int:
    """How many of `units` the model would know if each were changed."""
    changed = [change(unit) for unit in units]
    dictionary = _flashlight().Dictionary(list(dict.fromkeys([*changed, UNKNOWN])))
    return _count_known(_kenlm(lm, dictionary), changed, dictionary)


def _count_known(model: Any, units: list[str], dictionary: Any) -> int:
    """How many of `units` do not score as `<unk>` where a sentence begins: in no format can a model be asked for its words."""
    start = model.start(False)
    unknown, *scores = (model.score(start, dictionary.get_index(unit))[1] for unit in (UNKNOWN, *units))
    return sum(score != unknown for score in scores)


def _flashlight() -> Any:
    """Return everything that is used of flashlight-text, under one name."""
    try:
        from flashlight.lib.text import decoder, dictionary
        from flashlight.lib.text.decoder import kenlm
    except ImportError as error:
        raise ValueError(
            "decoding with a language model needs flashlight-text; install it with `pip install 'audiossl[lm]'`"
        ) from error
    from types import SimpleNamespace

    return SimpleNamespace(**vars(decoder), KenLM=kenlm.KenLM, Dictionary=dictionary.Dictionary)
