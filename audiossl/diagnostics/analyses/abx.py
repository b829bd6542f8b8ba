"""ABX error on phones: how often a token is nearer to another phone than to its own, by DTW over frames; no training.

Schatz (2016), with the slices, distance and means of ZeroSpeech (Kahn et al., 2020): A and B of one speaker, X of the same (within) or of another
(across). Where the package fastabx (Poli et al., 2025; Python 3.12 and later) is installed, it scores the very same tokens, unless `engine = "own"`.
"""

from __future__ import annotations

import importlib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from audiossl.data.kaldi import PHONES_CTM, UTT2SPK
from audiossl.diagnostics.finding import Finding, SkippedError
from audiossl.diagnostics.layer_figures import draw_layers
from audiossl.diagnostics.pairwise_dtw import pairwise_dtw
from audiossl.diagnostics.phone_tokens import TokenFrames, Tokens, choose_tokens, speakers_of, token_frames
from audiossl.metrics.abx_error import abx_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from audiossl.diagnostics.subject import Subject

TITLE = "ABX on phones"
_ITEM_COLUMNS = "#file onset offset #phone prev-phone next-phone speaker"


@dataclass(frozen=True)
class Config:
    """Which tokens are compared.

    context: `within` compares tokens with the same neighbours only. group_size: tokens of each phone of each speaker (and context), 10 in
    ZeroSpeech. speakers: at most so many, those with the most tokens. exclude: phones that are none. engine: `own`, `fastabx`, or
    `auto`: fastabx where it can be imported, else own.
    """

    context: Literal["any", "within"] = "any"
    group_size: int = 10
    speakers: int = 10
    exclude: tuple[str, ...] = ("SIL", "sil", "sp", "spn", "SPN", "<eps>")
    engine: Literal["auto", "own", "fastabx"] = "auto"

    def __post_init__(self) -> None:
        if self.group_size < 2 or self.speakers < 1:
            raise ValueError(
                f"abx: {self.group_size} tokens, {self.speakers} speakers; give at least 2 tokens and 1 speaker"
            )


def run(subject: Subject, config: Config) -> Finding:
    """Score each layer, within and across speakers."""
    if not (subject.manifest.path / PHONES_CTM).is_file():
        raise SkippedError(f"{subject.manifest.path} has no {PHONES_CTM}; align it first")
    unknown = speakers_of(subject.manifest).count("")
    if unknown == len(subject.manifest):
        raise SkippedError(
            f"{subject.manifest.path}: no {UTT2SPK} says who speaks, and tokens are compared within and across speakers; add it"
        )
    engine = _engine(config)  # before the long pass: it may not be there
    tokens = choose_tokens(
        subject.manifest, exclude=config.exclude, speakers=config.speakers, group_size=config.group_size,
        by_context=config.context == "within", seed=subject.seed,
    )  # fmt: skip
    if len(tokens) < 3:
        raise SkippedError(
            f"{subject.manifest.path / PHONES_CTM}: has {len(tokens)} tokens of these utterances; give more"
        )
    finding, curves = Finding(), {}
    if unknown:
        finding.notes.append(f"{unknown} utterances without a speaker in {UTT2SPK} are left out")
    subject.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=subject.out, prefix=".abx") as folder:
        place = Path(folder) / "frames.npy"
        found = token_frames(tokens, subject.manifest, subject.source, place, config=subject.reading, log=subject.log)
        within = config.context == "within"
        facts = {"tokens": len(found.tokens), "abx.engine": engine}  # the one that auto is
        for name, across in (("within", False), ("across", True)):
            if not _comparable(found.tokens, within_context=within, across=across):
                finding.notes.append(f"{name} speakers: no two tokens of a phone can be compared with one of another")
                continue
            score = fastabx_score if engine == "fastabx" else abx_score
            errors = [
                100.0 * score(found, layer, within_context=within, across=across) for layer in range(subject.num_layers)
            ]
            curves[f"{name} speakers"] = errors
            finding.add_layers(f"ABX error {name} speakers", errors, "%", **facts)
    if not curves:
        raise SkippedError("; ".join(finding.notes))
    speakers = len(np.unique(found.tokens.speakers))
    finding.notes.append(
        f"{len(found.tokens)} tokens of {speakers} speakers, {config.context} context, engine {engine}"
    )
    chance = {"chance": 50.0}
    finding.picture(lambda figure: draw_layers(figure, curves, "error, %", levels=chance), "ABX error on phones")
    return finding


def abx_score(found: TokenFrames, layer: int, *, within_context: bool, across: bool) -> float:
    """ABX error of one layer, a share: mean over contexts for each pair of phones and speaker, then over speakers, then over pairs.

    Without contexts, all of a pair's cells count alike.
    """
    phones = np.unique(found.tokens.phones, return_inverse=True)[1]
    voices = np.unique(found.tokens.speakers, return_inverse=True)[1]
    rows = []  # pair of phones, speaker, error
    for own, others in _blocks(found.tokens, within_context=within_context, across=across):
        items = found.of(own, layer)
        for other in others:
            distances = pairwise_dtw(items if other is own else found.of(other, layer), items).numpy()
            first, second, errors = abx_error(distances, phones[own], phones[other], symmetric=other is own)
            pair = first * (phones.max() + 1) + second
            rows.append(np.stack([pair, np.full(len(pair), voices[own[0]]), errors]))
    pair, voice, values = np.concatenate(rows, axis=1)
    if within_context:
        (pair, _), both = np.unique(np.stack([pair, voice]), axis=1, return_inverse=True)
        values = _means(values, both)
    return float(_means(values, np.unique(pair, return_inverse=True)[1]).mean())


def fastabx_score(found: TokenFrames, layer: int, *, within_context: bool, across: bool) -> float:
    """The same by fastabx: all frames in one file, in which an item stands from its first to its last, at one frame a second."""
    import torch

    evaluate = _fastabx()
    columns = (found.tokens.phones, found.tokens.contexts, found.tokens.speakers)
    phones, contexts, voices = (np.unique(column, return_inverse=True)[1] for column in columns)
    ends = np.cumsum(found.lengths)
    with tempfile.TemporaryDirectory() as folder:
        torch.save(torch.cat(found.of(np.arange(len(ends)), layer)), Path(folder) / "frames.pt")
        # Names of its own for phones: theirs may hold what a table cannot. Both neighbours stand in one context.
        lines = [
            f"frames {end - length} {end} p{phone} c{context} c s{voice}"
            for end, length, phone, context, voice in zip(ends, found.lengths, phones, contexts, voices, strict=True)
        ]
        item = Path(folder) / "tokens.item"
        item.write_text("\n".join([_ITEM_COLUMNS, *lines]) + "\n", encoding="utf-8")
        error = evaluate(
            item,
            folder,
            max_size_group=None,
            max_x_across=None,
            speaker="across" if across else "within",
            context="within" if within_context else "any",
            frequency=1,
        )
    return float(error)


def _engine(config: Config) -> Literal["own", "fastabx"]:
    if config.engine == "own":
        return "own"
    try:
        _fastabx()
    except ValueError:
        if config.engine == "fastabx":
            raise
        return "own"
    return "fastabx"


def _fastabx() -> Callable[..., float]:
    try:
        evaluate: Callable[..., float] = importlib.import_module("fastabx").zerospeech_abx
    except ImportError as error:
        raise ValueError(
            f"abx.engine fastabx: {error}; pip install fastabx (Python 3.12 or later), or take own"
        ) from error
    return evaluate


def _blocks(tokens: Tokens, *, within_context: bool, across: bool) -> Iterator[tuple[np.ndarray, list[np.ndarray]]]:
    """Yield the tokens of a speaker in a context, and the sets that X comes from: the same, or those of every other speaker."""
    contexts = np.unique(tokens.contexts, return_inverse=True)[1] if within_context else np.zeros(len(tokens), np.int64)
    for context in range(contexts.max() + 1):
        inside = np.flatnonzero(contexts == context)
        sets = [inside[tokens.speakers[inside] == speaker] for speaker in np.unique(tokens.speakers[inside])]
        for own in sets:
            yield own, [other for other in sets if other is not own] if across else [own]


def _comparable(tokens: Tokens, *, within_context: bool, across: bool) -> bool:
    """Whether there is any triplet."""
    _, phones = np.unique(tokens.phones, return_inverse=True)
    return any(
        len(abx_error(np.zeros((len(other), len(own))), phones[own], phones[other], symmetric=not across)[0])
        for own, others in _blocks(tokens, within_context=within_context, across=across)
        for other in others
    )


def _means(values: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Mean of each group: (group,)."""
    means: np.ndarray = np.bincount(group, values) / np.bincount(group)
    return means
