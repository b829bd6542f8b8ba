"""Train an n-gram language model for decoding, and write the lexicon of its words."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import tyro

from audiossl.cli._printed import answer, say
from audiossl.cli.main import MisuseError
from audiossl.files import require_new, require_same, whole_set

_LONGEST = 6  # n-grams of KenLM as flashlight-text holds it
_GZIP = b"\x1f\x8b"


def main(
    texts: Annotated[tuple[Path, ...], tyro.conf.Positional],
    *,
    out: Path,
    order: int = 4,
    tokens: str | None = None,
    lexicon: Path | None = None,
    overwrite: bool = False,
    json: bool = False,
) -> int:
    """Train an n-gram language model with modified Kneser-Ney smoothing and write it in the ARPA format.

    A text is a file with a sentence per line, gzipped or not, or a data directory, whose `text` is taken; with --tokens, what the experiment was
    trained on. All n-grams are kept, in memory.

    Example: audiossl lm data/train more_text.txt --order 4 --out lm.arpa --lexicon lexicon.txt

    Args:
        texts: files and data directories.
        out: the model to write.
        order: of the longest n-grams; `audiossl transcribe` reads 2 to 6.
        tokens: experiment of `audiossl finetune`: the model is one of its tokens instead of words, for decoding without a lexicon.
        lexicon: write the words there too, each with its characters and the boundary `|`.
        overwrite: replace `out` and `lexicon` if they are there and hold something else.
        json: print the numbers of n-grams as JSON.
    """
    from audiossl.data.ngram import train_ngrams, write_arpa

    if not texts:
        raise MisuseError("audiossl lm: no text is given; add files or data directories")
    if tokens is not None and lexicon is not None:
        raise MisuseError("audiossl lm: --lexicon goes with a model of words; leave out --tokens")
    if order == 1 or order > _LONGEST:
        say(
            f"--order {order}: `audiossl transcribe` will not read this model, since KenLM takes orders 2 to {_LONGEST}"
        )
    places = [out] if lexicon is None else [out, lexicon]
    for place in places:
        require_new(place, overwrite=True)  # the same model may be made again, which only its contents tell
    model = train_ngrams(_words(texts) if tokens is None else _tokenised(texts, tokens), order)
    with whole_set(places, []) as (partials, _):
        write_arpa(model, partials[0])
        for partial in partials[1:]:
            _write_lexicon(partial, sorted(model.words[3:]))
        for place, partial in zip([] if overwrite else places, partials, strict=False):
            require_same(place, partial)
    counts = {str(n): len(level.word) for n, level in enumerate(model.levels, start=1)}
    facts = {"lm": str(out), "ngrams": counts, "lexicon": str(lexicon) if lexicon else None}
    answer(facts, f"{out}: " + ", ".join(f"{count:,} {n}-grams" for n, count in counts.items()), json=json)
    return 0


def _words(texts: tuple[Path, ...]) -> Iterator[list[str]]:
    from audiossl.data.kaldi import TEXT

    return (line.split() for line in _lines(texts, TEXT))


def _lines(texts: tuple[Path, ...], column: str) -> Iterator[str]:
    """Yield the sentences of all texts. column: file of data directories that holds them."""
    from audiossl.data.kaldi import read_table

    for path in texts:
        if path.is_dir():
            yield from (value for _, _, value in read_table(path / column))
            continue
        if not path.is_file():
            raise ValueError(
                f"{path}: no such file or directory; give text with a sentence per line, or data directories"
            )
        try:
            with path.open("rb") as file:
                packed = file.read(len(_GZIP)) == _GZIP
            with gzip.open(path, "rt", encoding="utf-8") if packed else path.open(encoding="utf-8") as text:
                yield from text
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: not UTF-8 ({error.reason}); convert it with iconv") from None
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise ValueError(f"{path}: cannot be unpacked ({error}); copy it again") from None


def _tokenised(texts: tuple[Path, ...], experiment: str) -> Iterator[list[str]]:
    """Yield the sentences as the tokens that a recogniser writes; ValueError where it writes none of them."""
    from audiossl.interop.encoder import named_config, open_source
    from audiossl.nn.bpe import MARKS, load_vocabulary
    from audiossl.nn.vocabulary import END, UNKNOWN
    from audiossl.tasks._ctc_head import VOCABULARY

    checkpoint, tables = open_source(experiment)
    if "task" not in tables:
        raise ValueError(
            f"--tokens {experiment}: is a pretrained encoder, which writes nothing; give an experiment of `audiossl finetune`"
        )
    vocabulary = load_vocabulary(checkpoint.parent.parent / VOCABULARY)
    _, task = named_config("tasks", tables["task"], "task")
    met: set[str] = set()
    for line in _lines(texts, task.column):
        spelt = (vocabulary.tokens[index] for index in vocabulary.encode(line))
        tokens = [token for token in spelt if token != END]
        met.update(tokens)
        yield tokens
    if UNKNOWN in met and met <= {UNKNOWN, *MARKS}:
        known = next(token for token in reversed(vocabulary.tokens) if token not in met)
        raise ValueError(
            f"--tokens {experiment}: the texts hold none of the tokens of its vocabulary, such as {known!r}; give texts like those that it was trained on"
        )


def _write_lexicon(path: Path, words: list[str]) -> None:
    from audiossl.nn.vocabulary import BOUNDARY

    path.write_text("".join(f"{word}\t{' '.join(word)} {BOUNDARY}\n" for word in words), encoding="utf-8")
