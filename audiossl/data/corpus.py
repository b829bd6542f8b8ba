"""What the corpora in `data_prep/` share: looking for a published layout, ids without white space, recordings for imitations."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from audiossl.data.audio import write_audio

if TYPE_CHECKING:
    from pathlib import Path

_NOT_IN_IDS = re.compile(r"[\s\x00-\x20\x7f]+")


def published(corpus: Path | None, *members: str) -> Path:
    """Return the absolute path of a corpus after checking that it holds the files and folders `members`."""
    wanted = ", ".join(members) or "the recordings"
    if corpus is None:
        raise ValueError(f"this corpus must be there already; give --corpus DIR, the folder that holds {wanted}")
    if not corpus.is_dir():
        raise ValueError(f"{corpus}: no such folder; --corpus must be the folder that holds {wanted}")
    for member in members:
        if not (corpus / member).exists():
            raise ValueError(f"{corpus / member}: not found; --corpus must be the folder that holds {wanted}")
    return corpus.absolute()


def identifier(text: str) -> str:
    """Turn a name or a relative path into an id: `/` becomes `-`, white space `_`."""
    return _NOT_IN_IDS.sub("_", text.strip()).replace("/", "-")


def write_imitation(path: Path, rng: np.random.Generator, *, duration: float, sample_rate: int) -> None:
    """Write a recording for a corpus' `fake`: pieces of 40 ms, hum or hiss of random pitch and level; folders made as needed.

    It changes as speech does, so that units of it differ.
    """
    time = np.arange(round(duration * sample_rate)) / sample_rate
    piece = (time / 0.04).astype(np.int64)
    pitch, level, hiss = (
        rng.uniform(low, high, piece[-1] + 1)[piece] for low, high in ((100, 3000), (0.05, 0.4), (0, 1))
    )
    hum = np.sin(2.0 * np.pi * pitch * time)
    noise = rng.normal(0.0, 0.4, len(time))
    waveform = np.clip(level * np.where(hiss < 0.3, noise, hum) + 0.01 * noise, -1.0, 1.0)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_audio(path, waveform, sample_rate)
