"""BLEU."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def bleu(predictions: Sequence[str], references: Sequence[str], *, tokenizer: str = "13a") -> float:
    """BLEU of a corpus from 0 to 100, with case (Papineni et al., 2002, section 2.3; Post, 2018), by the package `sacrebleu`.

    Texts are as they are written, with punctuation at the words. tokenizer: of sacrebleu; `zh` for Chinese, `char`. ValueError without the package, for
    a tokenizer that it does not know or that lacks a package of its own, and where the two are not as many, or none.
    """
    try:
        from sacrebleu import BLEU
    except ImportError:
        raise ValueError("BLEU needs the package sacrebleu; pip install 'audiossl[st]'") from None
    if len(predictions) != len(references) or not references:
        raise ValueError(f"{len(predictions)} predictions for {len(references)} references; give one for each")
    if tokenizer not in BLEU.TOKENIZERS:
        raise ValueError(f"BLEU: unknown tokenizer {tokenizer!r}; known: {', '.join(sorted(BLEU.TOKENIZERS))}")
    try:
        measure = BLEU(tokenize=tokenizer)
    except (RuntimeError, ImportError) as error:  # of a tokenizer whose own package is not there
        said = " ".join(str(error).split())
        raise ValueError(
            f"BLEU: tokenizer {tokenizer!r} cannot be used here ({said}); install what it needs, or take another"
        ) from None
    return float(measure.corpus_score(list(predictions), [list(references)]).score)
