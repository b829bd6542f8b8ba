"""Tokens of recognisers: other packages order and spell the blank, the unknown token and the word boundary in their own ways."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from audiossl.interop.model import NEVER, CTCHead
from audiossl.nn.vocabulary import BLANK, BOUNDARY, UNKNOWN, Vocabulary

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from audiossl.nn.vocabulary import TokenKind


def ctc_head(
    tokens: Sequence[str],
    weight: Tensor,
    bias: Tensor,
    *,
    kind: TokenKind | None,
    blank: str,
    unknown: str,
    boundary: str,
    where: str,
) -> CTCHead:
    """Reorder a head to our vocabulary: the blank, the unknown token, then the rest in their order.

    tokens: by row. kind: what they are; None, where nothing tells: characters where each is one letter and `|` is among them, else phones. An unknown
    token that they lack is added, and never written. ValueError where the tokens are not those of the rows.
    """
    if weight.ndim != 2 or weight.shape[:1] != bias.shape:
        raise ValueError(
            f"{where}: an output layer of shapes {list(weight.shape)} and {list(bias.shape)}; copy it again"
        )
    if len(tokens) != len(weight):
        raise ValueError(
            f"{where}: {len(tokens)} tokens, but {len(weight)} rows of its output layer; copy the vocabulary that belongs to it"
        )
    if blank not in tokens:
        raise ValueError(f"{where}: no blank {blank!r} among its tokens; name the right pad token in its configuration")
    first = [tokens.index(token) for token in (blank, unknown) if token in tokens]
    order = [*first, *(row for row in range(len(tokens)) if row not in first)]
    weight, bias = weight[order].float(), bias[order].float()
    rest = [BOUNDARY if tokens[row] == boundary else tokens[row] for row in order[len(first) :]]
    if unknown not in tokens:
        weight = torch.cat([weight[:1], torch.zeros_like(weight[:1]), weight[1:]])
        bias = torch.cat([bias[:1], bias.new_full((1,), NEVER), bias[1:]])
    return CTCHead(Vocabulary(kind or _guess(rest), (BLANK, UNKNOWN, *rest)), weight, bias)


def _guess(tokens: Sequence[str]) -> TokenKind:
    special = {token for token in tokens if token.startswith("<") and token.endswith(">")}
    spelt = all(len(token) == 1 for token in tokens if token not in special)
    return "characters" if spelt and BOUNDARY in tokens else "phones"


def written_rows(head: CTCHead, special: Sequence[str], *, blank: str) -> tuple[list[str], Tensor, Tensor, list[str]]:
    """Return (tokens, weight, bias, notes) as another package has them: its `special` ones in front, `<unk>` among them, then the rest.

    blank: which of these is our blank; a token of ours that is spelt so has no place there, and is left behind. Special ones that are none of ours
    are never written.
    """
    ours = list(head.vocabulary.tokens)
    place = {token: row for row, token in enumerate(ours)} | {blank: 0}
    rest = [token for token in ours[1:] if token not in special]
    tokens = [*special, *rest]
    weight = torch.stack([head.weight[place[t]] if t in place else torch.zeros_like(head.weight[0]) for t in tokens])
    bias = torch.stack([head.bias[place[t]] if t in place else head.bias.new_tensor(NEVER) for t in tokens])
    notes = [f"the row of the token {blank} is left behind: that is the blank there"] if blank in ours else []
    return tokens, weight, bias, notes
