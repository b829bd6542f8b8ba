"""A codebook on disk: `codebook.safetensors` holds the centroids, `codebook.json` what they are centroids of."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from audiossl.config import build, to_table
from audiossl.data.json_files import read_json_table, write_json
from audiossl.files import whole_set
from audiossl.units.features import FeatureKind  # noqa: TC001 - `build` reads the annotations

if TYPE_CHECKING:
    from pathlib import Path

    from audiossl.units.features import Features

CENTROIDS = "codebook.safetensors"
CARD = "codebook.json"


@dataclass(frozen=True)
class CodebookCard:
    """What is known of a codebook.

    feature, encoder, layer, encoder_hash, rate (Hz), sample_rate (Hz), dim, full_scale: see `units.features.Features`. size: codes.
    seed, iterations, inertia (mean squared distance of a frame), frames (that it was fitted on), utterances (that they
    came from), unused: codes that took no frame of these. codebooks: of `size` codes each, every one for what those before it leave
    over (`units.residual`); inertia is that after the last.
    """

    feature: FeatureKind
    encoder: str
    layer: int
    encoder_hash: str
    rate: float
    sample_rate: int
    dim: int
    size: int
    seed: int
    iterations: int
    inertia: float
    frames: int
    utterances: int
    unused: int
    codebooks: int = 1
    full_scale: float | None = None


@dataclass(frozen=True)
class Codebook:
    """Centroids, (code, dim) float32, and their card; the codes of several codebooks follow one another."""

    centroids: np.ndarray
    card: CodebookCard

    @property
    def stages(self) -> np.ndarray:
        """Centroids of each codebook: (codebook, code, dim) float32."""
        return self.centroids.reshape(self.card.codebooks, self.card.size, self.card.dim)

    @property
    def hash(self) -> str:
        """The sha256 of the centroids and of the features that they live among: what makes labels comparable."""
        card = self.card
        shape = self.centroids.shape if card.codebooks == 1 else self.stages.shape
        scale = "" if card.full_scale is None else f" {card.full_scale:g}"  # as before, where the card does not say
        among = f"{card.feature} {card.layer} {card.rate} {card.encoder_hash} {shape}{scale}\n"
        return hashlib.sha256(among.encode() + self.centroids.astype("<f4").tobytes()).hexdigest()

    def check_features(self, features: Features) -> None:
        """ValueError where `features` are not those that the codebook was fitted on."""
        for name in ("rate", "dim", "encoder_hash", "full_scale"):
            mine, theirs = getattr(self.card, name), getattr(features, name)
            former = name == "encoder_hash" and mine == features.weights_hash
            if mine != theirs and not former:
                raise ValueError(
                    f"{self.card.encoder or self.card.feature}: its {name} is {theirs}, but the codebook was fitted with "
                    f"{mine}; fit a new codebook or give the old encoder back"
                )


def exists(folder: Path) -> bool:
    """Tell whether `folder` holds a finished codebook."""
    return (folder / CARD).is_file()


def save(codebook: Codebook, folder: Path) -> None:
    """Write a codebook: a folder with a card is whole, and what was there stays until all is written. No folder is left where none was."""
    from safetensors.numpy import save_file

    new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with whole_set([folder / CENTROIDS], [folder / CARD]) as ([centroids], [card]):
            save_file({"centroids": codebook.centroids}, str(centroids))
            write_json(card, {**to_table(codebook.card), "hash": codebook.hash})
    except BaseException:
        if new:
            folder.rmdir()
        raise


def load(folder: Path) -> Codebook:
    """Read a codebook; ValueError where it is missing, damaged or its two files do not belong together."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    path = folder / CARD
    table = read_json_table(path, "give a folder written by `audiossl units fit`")
    stated = table.pop("hash", None)
    card = build(CodebookCard, table, str(path))
    try:
        centroids = load_file(str(folder / CENTROIDS))["centroids"]
    except (OSError, SafetensorError, KeyError) as error:
        raise ValueError(f"{folder / CENTROIDS}: cannot be read: {error}; fit the codebook again") from error
    rows = card.codebooks * card.size
    if centroids.shape != (rows, card.dim) or not np.isfinite(centroids).all():
        raise ValueError(
            f"{folder / CENTROIDS}: centroids {centroids.shape}, {rows} x {card.dim} finite numbers are stated; "
            "fit the codebook again"
        )
    codebook = Codebook(centroids, card)
    if codebook.hash != stated:
        raise ValueError(
            f"{path}: its hash is not that of {CENTROIDS}; the files were mixed up, fit the codebook again"
        )
    return codebook
