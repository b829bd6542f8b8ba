"""What a recogniser can write: the tokens of a task and the text that they stand for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from audiossl.data.json_files import read_json_table, write_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from audiossl.data.manifest import Manifest

TokenKind: TypeAlias = Literal["characters", "words", "phones", "slots"]

CURE = "fine-tune first, or copy it from the experiment"
"""Of a vocabulary that cannot be read."""

BLANK, UNKNOWN, END, BOUNDARY, PAD = "<blank>", "<unk>", "<eos>", "|", "<pad>"
SLOT_TAGS = ("B-", "E-")
"""What the marks of a slot begin with: `B-artist the clash E-artist`."""


@dataclass(frozen=True)
class Vocabulary:
    """Tokens by index: `<blank>` is 0, `<unk>` is 1, `<eos>` 2 where there is one, the rest is sorted.

    characters: text is spelt, with `|` between words. words, phones: text is split at whitespace. slots: spelt too, but the marks of a
    slot are tokens, without `|` towards its value. What training did not hold becomes `<unk>`, which no training text contains and
    which is always an error when scored; `unknown_index` lets callers count it. `<eos>` ends every encoded text and writes nothing, nor does `<pad>`, which some
    published lists have and no text.
    """

    kind: TokenKind
    tokens: tuple[str, ...]
    _index: dict[str, int] = field(init=False, repr=False, compare=False, default_factory=dict)

    blank_index = 0
    unknown_index = 1

    def __post_init__(self) -> None:
        if self.tokens[:2] != (BLANK, UNKNOWN):
            raise ValueError(f"vocabulary begins with {self.tokens[:2]}; it must begin with {BLANK}, {UNKNOWN}")
        self._index.update({token: index for index, token in enumerate(self.tokens)})
        if len(self._index) != len(self.tokens):
            raise ValueError("vocabulary holds a token twice; build it again")

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def has_end(self) -> bool:
        """Whether encoded texts end in `<eos>`."""
        return END in self.tokens[2:3]

    @classmethod
    def from_texts(cls, texts: Iterable[str], kind: TokenKind, *, end: bool = False) -> Vocabulary:
        """Collect the tokens of some texts, in one pass that holds only the tokens. end: whether `<eos>` is one."""
        found: set[str] = set()
        for text in texts:
            found.update(_split(text, kind))
        if not found:
            raise ValueError("the texts hold no tokens, so there is nothing to recognise; give transcribed utterances")
        reserved = found & {BLANK, UNKNOWN, END, PAD}
        if reserved:
            raise ValueError(f"the texts hold the reserved token {min(reserved)!r}; replace it in the data directory")
        return cls(kind, (BLANK, UNKNOWN, *([END] if end else []), *sorted(found)))

    @classmethod
    def from_manifest(cls, manifest: Manifest, column: str, kind: TokenKind, *, end: bool = False) -> Vocabulary:
        """Collect the tokens of a column of a data directory; ValueError names the directory and the column."""
        texts = manifest.column(column)
        try:
            return cls.from_texts((texts[index] for index in range(len(manifest))), kind, end=end)
        except ValueError as error:
            place = f"{manifest.path}/{column}: "
            raise ValueError(place + str(error).removeprefix(place)) from error

    @classmethod
    def of(
        cls, tokens: Iterable[str], kind: TokenKind, manifest: Manifest, column: str, texts: Iterable[str]
    ) -> Vocabulary:
        """Return a published list of tokens, with `<eos>`; ValueError for a text with another token. manifest, column: where texts are from."""
        vocabulary = cls(kind, (BLANK, UNKNOWN, END, *tokens))
        for text in texts:
            strange = next((token for token in _split(text, kind) if token not in vocabulary._index), None)
            if strange is not None:
                raise ValueError(
                    f"{manifest.path}/{column}: {strange!r} is not in the published list of {kind}; correct the text, or set task.vocabulary to training"
                )
        return vocabulary

    @classmethod
    def load(cls, path: Path) -> Vocabulary:
        """Read what `save` wrote."""
        content = read_json_table(path, CURE)
        try:
            return cls(content["kind"], tuple(content["tokens"]))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: not a vocabulary: {error}; copy it again from the experiment") from error

    def save(self, path: Path) -> None:
        """Write it as JSON, atomically."""
        write_json(path, {"kind": self.kind, "tokens": list(self.tokens)})

    def encode(self, text: str) -> NDArray[np.int64]:
        """Token indices of a text: (label,)."""
        indices = [self._index.get(token, self.unknown_index) for token in _split(text, self.kind)]
        return np.array([*indices, *([self._index[END]] if self.has_end else [])], dtype=np.int64)

    def decode(self, indices: Iterable[int]) -> str:
        """Text of token indices; blanks and `<eos>` write nothing."""
        silent = {BLANK, PAD, END} if self.has_end else {BLANK, PAD}
        tokens = [token for token in (self.tokens[index] for index in indices) if token not in silent]
        if self.kind == "slots":
            tokens = [f" {token} " if token.startswith(SLOT_TAGS) else token for token in tokens]
        if self.kind in {"characters", "slots"}:
            return " ".join("".join(tokens).replace(BOUNDARY, " ").split())
        return " ".join(tokens)


def _split(text: str, kind: TokenKind) -> Iterator[str]:
    words = text.split()
    if kind in {"words", "phones"}:
        yield from words
        return
    joined = True  # no space is written at the beginning, nor behind the mark that opens a slot
    for word in words:
        if BOUNDARY in word:
            raise ValueError(
                f"{text!r} holds {BOUNDARY!r}, which stands for the space; replace it in the data directory"
            )
        tag = word[:2] if kind == "slots" and word.startswith(SLOT_TAGS) else ""
        if not joined and tag != "E-":
            yield BOUNDARY
        yield from [word] if tag else word
        joined = tag == "B-"
