"""Beam search over the label sequences of CTC, without a language model (Graves et al., 2006, section 3.2; Hannun et al., 2014)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from audiossl.nn.bpe import BPE
    from audiossl.nn.vocabulary import Vocabulary

_NEVER = -torch.inf
_BASE = 6364136223846793005  # an odd multiplier: hashes of prefixes are polynomials in it, modulo 2 ** 64


class Hypothesis(NamedTuple):
    """tokens: without blanks. log_prob: of all alignments that were not pruned."""

    tokens: list[int]
    log_prob: float


class PrefixBeam:
    """From log probabilities of CTC to the most likely texts."""

    def __init__(self, vocabulary: Vocabulary | BPE, *, beam: int) -> None:
        self.vocabulary = vocabulary
        self.beam = beam

    def __call__(self, log_probs: Tensor, lengths: Tensor) -> list[str]:
        """log_probs: (batch, frame, token), normalised; lengths: (batch,) valid frames."""
        found = prefix_beam_search(log_probs, lengths, beam=self.beam, blank=self.vocabulary.blank_index)
        return [self.vocabulary.decode(best[0].tokens) for best in found]


@torch.no_grad()
def prefix_beam_search(log_probs: Tensor, lengths: Tensor, *, beam: int, blank: int = 0) -> list[list[Hypothesis]]:
    """Return up to `beam` label sequences per utterance, best first; every prefix adds up all of its alignments.

    log_probs: (batch, frame, token), normalised over the tokens; lengths: (batch,) valid frames. Exact where `beam` holds all prefixes. All
    utterances and prefixes move at once; only the frames are a loop.
    """
    if beam < 1:
        raise ValueError(f"beam {beam} keeps no hypothesis; give at least 1")
    rows, frames, _ = log_probs.shape
    beams = _Beams.start(rows, beam, log_probs.device)
    parents, appended = [], []
    for t in range(frames):
        alive = (t < lengths).unsqueeze(1)
        beams, parent, token = beams.step(log_probs[:, t].float(), alive, blank)
        parents.append(parent)
        appended.append(token)
    scores, order = torch.logaddexp(beams.in_blank, beams.in_token).sort(dim=1, descending=True, stable=True)
    tokens = _trace(parents, appended, order)
    return [
        [
            Hypothesis([token for token in row if token >= 0], score)
            for row, score in zip(own, own_scores, strict=True)
            if score > _NEVER
        ]
        for own, own_scores in zip(tokens, scores.tolist(), strict=True)
    ]


class _Beams(NamedTuple):
    """The prefixes of a batch, (batch, beam) each.

    in_blank, in_token: log probability of the alignments that end in a blank, or in the last token. last: that token, -1 of the empty
    prefix. own, parent: hash of the prefix, and of the prefix without its last token.
    """

    in_blank: Tensor
    in_token: Tensor
    last: Tensor
    own: Tensor
    parent: Tensor

    @classmethod
    def start(cls, rows: int, beam: int, device: torch.device) -> _Beams:
        """Return the empty prefix; the other places are free."""
        never = torch.full((rows, beam), _NEVER, device=device)
        zeros = torch.zeros(rows, beam, dtype=torch.int64, device=device)
        in_blank = never.clone()
        in_blank[:, 0] = 0.0
        return cls(in_blank, never, zeros - 1, zeros + 1, zeros)

    def step(self, frame: Tensor, alive: Tensor, blank: int) -> tuple[_Beams, Tensor, Tensor]:
        """Read a frame, (batch, token); `alive`: (batch, 1), False where an utterance has ended and keeps its beams.

        Returns the new beams, which beam each came from, and the token that it appended, -1 where it is the same prefix.
        """
        rows, beam = self.last.shape
        total = torch.logaddexp(self.in_blank, self.in_token)
        last = self.last.clamp(min=0)
        # the same prefix: a blank, or its last token once more
        in_blank = total + frame[:, blank : blank + 1]
        in_token = self.in_token + frame.gather(1, last)
        # one more token; after itself only across a blank
        longer = total.unsqueeze(2) + frame.unsqueeze(1)
        after_itself = (self.in_blank + frame.gather(1, last)).unsqueeze(2)
        repeated = torch.nn.functional.one_hot(last, frame.shape[1]).bool() & (self.last >= 0).unsqueeze(2)
        longer = torch.where(repeated, after_itself, longer)
        longer[:, :, blank] = _NEVER
        # an extension that is in the beam already: [b, i, j] where i with the last token of j is j
        same = (self.own.unsqueeze(2) == self.parent.unsqueeze(1)) & (total > _NEVER).unsqueeze(1)
        same &= (self.last >= 0).unsqueeze(1)
        reached = longer.gather(2, last.unsqueeze(1).expand(rows, beam, beam))
        into = reached.masked_fill(~same, _NEVER).logsumexp(dim=1)
        in_token = torch.logaddexp(in_token, into)
        taken = torch.zeros_like(longer, dtype=torch.int64).scatter_add_(
            2, last.unsqueeze(1).expand(rows, beam, beam), same.long()
        )
        longer = longer.masked_fill(taken > 0, _NEVER)
        return self._best(in_blank, in_token, longer, alive)

    def _best(self, in_blank: Tensor, in_token: Tensor, longer: Tensor, alive: Tensor) -> tuple[_Beams, Tensor, Tensor]:
        """Keep the best of the old prefixes and of those `longer`, (batch, beam, token), by one token."""
        rows, beam = self.last.shape
        tokens = longer.shape[2]
        candidates = torch.cat([torch.logaddexp(in_blank, in_token), longer.flatten(1)], dim=1)
        score, chosen = candidates.topk(beam, dim=1)
        grown = chosen >= beam
        source = torch.where(grown, (chosen - beam) // tokens, chosen)
        token = torch.where(grown, (chosen - beam) % tokens, -1)
        here = torch.arange(beam, device=chosen.device).expand(rows, beam)
        source, token = torch.where(alive, source, here), torch.where(alive, token, -1)
        grown = grown & alive
        own, parent, last = (part.gather(1, source) for part in (self.own, self.parent, self.last))
        new = _Beams(
            torch.where(grown, _NEVER, torch.where(alive, in_blank, self.in_blank).gather(1, source)),
            torch.where(grown, score, torch.where(alive, in_token, self.in_token).gather(1, source)),
            torch.where(grown, token, last),
            torch.where(grown, own * _BASE + token + 1, own),
            torch.where(grown, own, parent),
        )
        return new, source, token


def _trace(parents: list[Tensor], appended: list[Tensor], place: Tensor) -> list[list[list[int]]]:
    """Follow the beams in `place`, (batch, beam), back to the first frame: the token that each frame appended, -1 where none."""
    found = []
    for parent, token in zip(reversed(parents), reversed(appended), strict=True):
        found.append(token.gather(1, place))
        place = parent.gather(1, place)
    if not found:
        return [[[] for _ in row] for row in place]
    tokens: list[list[list[int]]] = torch.stack(found[::-1], dim=2).cpu().tolist()
    return tokens
