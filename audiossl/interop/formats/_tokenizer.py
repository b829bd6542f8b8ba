"""Tokens of a recogniser in a folder of transformers: vocab.json, and what its tokenizer says of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from audiossl.interop.ctc_tokens import ctc_head
from audiossl.interop.model import shaped
from audiossl.interop.source_file import entry, read_json, shown, write_json

if TYPE_CHECKING:
    from pathlib import Path

    from audiossl.interop.keys import Weights
    from audiossl.interop.model import CTCHead
    from audiossl.nn.vocabulary import TokenKind

VOCAB, SETTINGS, SPECIAL = "vocab.json", "tokenizer_config.json", "special_tokens_map.json"
KINDS: tuple[TokenKind, ...] = ("characters", "words", "phones")
KIND = "audiossl_tokens"
"""Key of ours in config.json: what the tokens are, where no tokenizer tells."""


def read_tokens(folder: Path, config: dict[str, Any], heads: Weights) -> CTCHead:
    """Read the output layer of a `...ForCTC` with its tokens; ValueError where they are not those of its rows."""
    where = f"{folder}/{VOCAB}"
    rows = read_json(folder / VOCAB)
    if not rows or not all(type(row) is int for row in rows.values()):
        raise ValueError(f"{where}: gives no row for each token; an output layer without its tokens cannot be imported")
    settings = read_json(folder / SETTINGS)
    weight, bias = shaped(heads, "lm_head.weight", 2, str(folder)), shaped(heads, "lm_head.bias", 1, str(folder))
    rows = _added_tokens(folder, settings, range(len(rows), len(weight))) | rows
    lacking = sorted(set(range(len(weight))) - set(rows.values()))
    if lacking:
        raise ValueError(
            f"{where}: no token for row {lacking[0]} of the output layer ({len(lacking)} such rows of {len(weight)}); "
            "copy the other files of its tokenizer too, or add a token for each, such as <row>"
        )
    tokens = sorted(rows, key=lambda token: int(rows[token]))
    pad = config.get("pad_token_id", 0)
    blank = tokens[pad] if type(pad) is int and 0 <= pad < len(tokens) else _special(folder, "pad_token", "<pad>")
    unknown, boundary = _special(folder, "unk_token", "<unk>"), _special(folder, "word_delimiter_token", "|")
    kind = _kind(folder, config, settings)
    if kind != "phones" and entry(settings, "do_lower_case", False, f"{folder}/{SETTINGS}"):
        tokens = _lowered(tokens, {blank, unknown, boundary}, f"{folder}/{SETTINGS}")
    return ctc_head(tokens, weight, bias, kind=kind, blank=blank, unknown=unknown, boundary=boundary, where=where)


def write_tokens(tokens: list[str], kind: str, folder: Path) -> list[str]:
    """Write the vocabulary and, for characters, the tokenizer that joins them; returns a note where there is none."""
    write_json(folder / VOCAB, {token: row for row, token in enumerate(tokens)})
    if kind != "characters":
        return [f"no tokenizer: transformers' CTC tokenizer joins characters, and these are {kind}"]
    special = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": None, "eos_token": None}
    settings = {
        "tokenizer_class": "Wav2Vec2CTCTokenizer",
        **special,
        "word_delimiter_token": "|",
        "do_lower_case": False,
    }
    write_json(folder / SETTINGS, settings)
    write_json(folder / SPECIAL, {name: token for name, token in special.items() if token})
    return []


def _kind(folder: Path, config: dict[str, Any], settings: dict[str, Any]) -> TokenKind | None:
    """What the tokens are: transformers' tokenizer of phones writes spaces between them, its others join them. None where nothing tells."""
    ours = config.get(KIND)
    if ours is not None and ours not in KINDS:
        raise ValueError(f"{folder}/config.json: {KIND} = {shown(ours)}; known: {', '.join(KINDS)}")
    named = settings.get("tokenizer_class") or (None if ours else config.get("tokenizer_class"))
    if named:
        return "phones" if "Phoneme" in str(named) else "characters"
    kind: TokenKind | None = ours
    return kind


def _special(folder: Path, name: str, usual: str) -> str:
    """Return a special token as the first file that names it has it; "" where that says that there is none."""
    for file in (SETTINGS, SPECIAL):
        table = read_json(folder / file)
        if name in table:
            told = table[name]
            token = told.get("content") if isinstance(told, dict) else told
            return "" if token is None else entry({name: token}, name, "", f"{folder}/{file}")
    return usual


def _lowered(tokens: list[str], special: set[str], where: str) -> list[str]:
    """Tokens as a tokenizer that lowers its text writes them; ValueError where two become one."""
    found: dict[str, str] = {}
    for token in tokens:
        lower = token if token in special else token.lower()
        if lower in found:
            raise ValueError(
                f"{where}: do_lower_case makes one token of {found[lower]!r} and {token!r}; set it to false, and both stay as they are"
            )
        found[lower] = token
    return list(found)


def _added_tokens(folder: Path, settings: dict[str, Any], wanted: range) -> dict[str, int]:
    """Rows, of those `wanted`, whose tokens are not in vocab.json but were added by a tokenizer: `<s>` and `</s>`, as a rule.

    Tokens may be added without rows, too; those are not wanted.
    """
    where = f"{folder}/{SETTINGS}"
    decoder: dict[str, Any] = entry(settings, "added_tokens_decoder", {}, where)
    listed = {row: token for row, token in decoder.items() if row.isdecimal() and isinstance(token, dict)}
    added = {entry(token, "content", "", where): int(row) for row, token in listed.items()}
    added |= read_json(folder / "added_tokens.json")
    return {token: row for token, row in added.items() if type(row) is int and row in wanted}
