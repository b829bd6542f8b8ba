"""Word pieces: a vocabulary that byte-pair encoding learns from the training text (Sennrich et al., 2016), by sentencepiece."""

from __future__ import annotations

import hashlib
import io
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from audiossl.data.json_files import read_json_table, write_json
from audiossl.files import whole_file
from audiossl.nn.vocabulary import BLANK, BOUNDARY, CURE, END, UNKNOWN, Vocabulary

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from numpy.typing import NDArray

    from audiossl.data.manifest import Manifest

MODEL = "bpe.model"
_SPACE = "▁"  # how sentencepiece writes the beginning of a word
MARKS = frozenset((BOUNDARY, END, _SPACE))
"""Tokens of texts in any language, which tell nothing of what a vocabulary is of."""


class BPE:
    """Same interface as `Vocabulary`: `<blank>` is 0, `<unk>` is 1, then the pieces in the order of the model.

    model: a serialised sentencepiece model whose piece 0 is `<unk>` and which has no other control pieces. Texts are not normalised, but for
    their white space. What the model cannot spell becomes `<unk>`.
    """

    kind = "bpe"
    blank_index = 0
    unknown_index = 1

    def __init__(self, model: bytes) -> None:
        self.model = model
        processor = self._processor
        pieces = tuple(processor.id_to_piece(index) for index in range(processor.get_piece_size()))
        if processor.unk_id() != 0 or any(processor.is_control(index) for index in range(len(pieces))):
            raise ValueError("the sentencepiece model has control pieces; train one with `audiossl finetune`")
        self.tokens = (BLANK, UNKNOWN, *pieces[1:])

    def __len__(self) -> int:
        return len(self.tokens)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BPE) and self.model == other.model

    def __hash__(self) -> int:
        return hash(self.model)

    def __reduce__(self) -> tuple[Any, ...]:
        return BPE, (self.model,)

    @cached_property
    def _processor(self) -> Any:
        return _sentencepiece().SentencePieceProcessor(model_proto=self.model)

    @classmethod
    def from_texts(cls, texts: Iterable[str], size: int) -> BPE:
        """Learn `size` pieces, `<unk>` and single characters among them; every character of the texts gets one.

        ValueError where the texts hold fewer pieces or more characters than that.
        """
        model, lines = io.BytesIO(), filter(None, map(_tidy, texts))
        first = next(lines, None)
        if first is None:
            raise ValueError("the texts hold no tokens, so there is nothing to recognise; give transcribed utterances")
        try:
            _sentencepiece().SentencePieceTrainer.train(
                sentence_iterator=chain([first], lines),
                model_writer=model,
                model_type="bpe",
                vocab_size=size,
                character_coverage=1.0,
                normalization_rule_name="identity",
                unk_id=0,
                unk_piece=UNKNOWN,
                bos_id=-1,
                eos_id=-1,
                pad_id=-1,
                max_sentence_length=1 << 20,  # longer ones would be left out without a word
                num_threads=1,
                minloglevel=2,
            )
        except (RuntimeError, OSError) as error:
            fault = " ".join(str(error).split()).rpartition("] ")[2]
            raise ValueError(
                f"task.bpe_size: {size} pieces cannot be learnt from these texts; choose another number: {fault}"
            ) from error
        return cls(model.getvalue())

    @classmethod
    def from_manifest(cls, manifest: Manifest, column: str, size: int) -> BPE:
        """Learn the pieces of a column of a data directory; ValueError names the directory and the column."""
        texts = manifest.column(column)
        try:
            return cls.from_texts((texts[index] for index in range(len(manifest))), size)
        except ValueError as error:
            raise ValueError(f"{manifest.path}/{column}: {error}") from error

    @classmethod
    def load(cls, path: Path) -> BPE:
        """Read what `save` wrote; ValueError where the model beside it is not the one that the vocabulary names."""
        content = read_json_table(path, CURE)
        try:
            beside, expected = path.with_name(content["model"]), content["sha256"]
            model = beside.read_bytes()
        except FileNotFoundError as error:
            raise ValueError(f"{error.filename}: no such file; {CURE}") from None
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path}: not a vocabulary of word pieces: {error}; copy it again from the experiment"
            ) from error
        if hashlib.sha256(model).hexdigest() != expected:
            raise ValueError(f"{beside}: is not the model that {path.name} names; copy both again from the experiment")
        return cls(model)

    def save(self, path: Path) -> None:
        """Write the model, and a JSON file that says its hash, atomically."""
        content = {
            "kind": self.kind,
            "model": MODEL,
            "sha256": hashlib.sha256(self.model).hexdigest(),
            "tokens": list(self.tokens),
        }
        with whole_file(path.with_name(MODEL)) as partial:
            partial.write_bytes(self.model)
        write_json(path, content)

    def encode(self, text: str) -> NDArray[np.int64]:
        """Token indices of a text: (label,)."""
        pieces = self._processor.encode(_tidy(text), out_type=int)
        return np.array(pieces, dtype=np.int64) + 1

    def decode(self, indices: Iterable[int]) -> str:
        """Text of token indices; blanks write nothing."""
        tokens = [self.tokens[index] for index in indices if index != self.blank_index]
        return " ".join("".join(tokens).replace(_SPACE, " ").split())


def load_vocabulary(path: Path) -> Vocabulary | BPE:
    """Read the vocabulary of an experiment, whichever it is."""
    kind = read_json_table(path, CURE).get("kind")
    return BPE.load(path) if kind == BPE.kind else Vocabulary.load(path)


def _tidy(text: str) -> str:
    if _SPACE in text:
        raise ValueError(f"{text!r} holds {_SPACE!r}, which stands for the space; replace it in the data directory")
    return " ".join(text.split())


def _sentencepiece() -> Any:
    try:
        import sentencepiece
    except ImportError as error:
        raise ValueError("word pieces need sentencepiece; install it with `pip install 'audiossl[asr]'`") from error
    return sentencepiece
