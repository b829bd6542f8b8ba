"""Cosine scoring, of whole utterances and of crops."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from audiossl.verification._vectors import Vectors, crop_mean, pair_scores, trial_rows, vectors_of

if TYPE_CHECKING:
    from audiossl.verification.embeddings import Embeddings
    from audiossl.verification.trials import Trials

CropMean: TypeAlias = Literal["unit", "raw"]


@dataclass(frozen=True)
class Cosine:
    """Cosine of two embeddings; of crops, the mean over all pairs of crops.

    That mean is the dot product of the means of the normalised crops: (1/C^2) sum_ij a_i . b_j = mean(a) . mean(b), where the means
    are not normalised again. mean: (dim,), subtracted from every embedding first, or None. crops: what is averaged, `unit`, or `raw`,
    the embeddings as they are: then it is the cosine of the two mean embeddings (Lepage and Dehak, 2022).
    """

    mean: np.ndarray | None = None
    crops: CropMean = "unit"

    def points(self, embeddings: np.ndarray) -> np.ndarray:
        """(row, [crop,] dim) -> (row, dim) float64: divided by the length and averaged over crops, `raw` ones the other way round."""
        embeddings = embeddings.astype(np.float64)
        if self.mean is not None:
            embeddings -= self.mean
        if self.crops == "raw":
            embeddings = crop_mean(embeddings)
        return crop_mean(self.unit(embeddings))

    def unit(self, points: np.ndarray) -> np.ndarray:
        """Divide by the length; a row of zeros becomes nan."""
        lengths = np.sqrt(np.einsum("...d,...d->...", points, points))
        with np.errstate(invalid="ignore", divide="ignore"):
            scaled: np.ndarray = points * (1.0 / lengths)[..., None]
        return scaled

    def vectors(self, points: np.ndarray) -> Vectors:
        """Points are compared as they are."""
        return Vectors(points)


def cosine_scores(trials: Trials, embeddings: Embeddings, *, mean: np.ndarray | None = None) -> np.ndarray:
    """(trial,) float32 cosines; each utterance is normalised once, then rows are gathered by blocks of trials.

    mean: (dim,), subtracted from every embedding first (such as the training data's, `Embeddings.mean`), or None. ValueError
    names an utterance that has no embedding, or one that is zero.
    """
    vectors = vectors_of(embeddings, trial_rows(trials, embeddings), Cosine(mean))
    return pair_scores(vectors, trials.enrol, trials.test)
