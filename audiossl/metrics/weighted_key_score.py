"""Weighted score of musical keys."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

_KEY = re.compile(r"([A-Ga-g])([#b]?)[\s_:-]*(maj|min)(?:or)?$", re.IGNORECASE)
_TONES = {"c": 0, "d": 2, "e": 4, "f": 5, "g": 7, "a": 9, "b": 11}
_SHIFTS = {"": 0, "#": 1, "b": -1}


def weighted_key_score(predictions: Sequence[str], references: Sequence[str]) -> float:
    """Mean over pieces of what a named key is worth, in percent, as MIREX weighs it.

    1 for the key, 0.5 for one a fifth above of the same mode, 0.3 for the relative one, 0.2 for the parallel one. Keys are written `C#_minor`,
    `Db:maj`. ValueError names one that is none, and when the two differ in length.
    """
    if len(predictions) != len(references) or not len(references):
        raise ValueError(f"key score: {len(predictions)} predictions for {len(references)} references; give one each")
    parsed = {name: parse_key(name) for name in {*predictions, *references}}
    pairs = [(*parsed[ours], *parsed[theirs]) for ours, theirs in zip(predictions, references, strict=True)]
    tone, minor, wanted, wanted_minor = np.array(pairs).T
    above, same_mode = (tone - wanted) % 12, minor == wanted_minor
    relative = above == np.where(wanted_minor == 1, 3, 9)
    worth = np.select(
        [same_mode & (above == 0), same_mode & (above == 7), ~same_mode & relative, ~same_mode & (above == 0)],
        [1.0, 0.5, 0.3, 0.2],
    )
    return 100.0 * float(worth.mean())


def parse_key(name: str) -> tuple[int, int]:
    """Read a key: its tone from 0 (C) to 11, and 1 where it is minor; ValueError for what is none."""
    found = _KEY.match(name.strip())
    if found is None:
        raise ValueError(f"{name!r} is no key; write it like C#_minor or Db_major")
    letter, shift, mode = found.groups()
    return (_TONES[letter.lower()] + _SHIFTS[shift.lower()]) % 12, int(mode.lower() == "min")
