"""Lots: which utterances of each class show their label, by seed and id alone, so that a smaller fraction is part of a larger one."""

from __future__ import annotations

import hashlib

import numpy as np


def lot(utterance: str, seed: int) -> int:
    """A number that looks random and never changes: 64 bits."""
    return int.from_bytes(hashlib.blake2b(f"{seed} {utterance}".encode(), digest_size=8).digest(), "big")


def limits(lots: np.ndarray, classes: np.ndarray, fraction: float) -> np.ndarray:
    """Return the largest lot of a label that is shown, (class,) uint64: those of `fraction` of each class, at least one.

    lots: (utterance,) uint64. classes: (utterance,) numbers from 0, each of which occurs.
    """
    counts = np.bincount(classes)
    shown = np.maximum(1, np.rint(fraction * counts)).astype(np.int64)
    last = np.cumsum(counts) - counts + shown - 1  # of each class' shown utterances, once all are sorted
    found: np.ndarray = lots[np.lexsort((lots, classes))][last]
    return found
