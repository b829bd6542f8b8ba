"""Two-covariance PLDA: a speaker is a point, an utterance the point plus noise, both Gaussian with full covariances.

Trained by EM to maximum likelihood (Bruemmer and de Villiers, "The speaker partitioning problem", 2010, for the model and its scores;
Ioffe, 2006, for the basis in which both covariances are diagonal). In that basis an iteration costs two products of (speaker, dim) with
(dim, dim) whatever the numbers of utterances, and a score is a dot product.

Unlike WeSpeaker's and Kaldi's: the mean of the speakers is estimated by EM too, where theirs stays the mean of the speakers' means; and embeddings
are scaled in the diagonal basis only where that is asked for. Like WeSpeaker's, the score of a model of several utterances is that of their mean,
as if it were one; Kaldi's can take their number into account.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from audiossl.files import whole_file
from audiossl.verification._vectors import (
    Vectors,
    add_by_group,
    checked_points,
    crop_mean,
    pair_scores,
    trial_rows,
    vectors_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from audiossl.verification.embeddings import Embeddings
    from audiossl.verification.trials import Trials

_TENSORS = ("center", "mean", "transform", "between", "length_norm")


@dataclass(frozen=True)
class PLDA:
    """A trained model, in the basis where the covariance within speakers is the identity.

    center: (dim,), subtracted from every embedding. length_norm: whether each is then scaled to the length sqrt(dim), which makes
    heavy-tailed embeddings Gaussian enough (Garcia-Romero and Espy-Wilson, 2011). mean: (dim,) of the speakers. transform: (dim, dim), A with
    A W A^T = I and A B A^T = diag(between). between: (dim,) variances of the speakers there, descending. All float64.
    rescale: whether points are scaled to the length sqrt(dim) again there, as in WeSpeaker and by Kaldi's --simple-length-normalization; the
    model is trained without and does not save it.
    """

    center: np.ndarray
    length_norm: bool
    mean: np.ndarray
    transform: np.ndarray
    between: np.ndarray
    rescale: bool = False

    def points(self, embeddings: np.ndarray) -> np.ndarray:
        """(row, [crop,] dim) -> (row, dim) float64 in the diagonal basis; crops are averaged first."""
        placed: np.ndarray = (self.prepared(crop_mean(embeddings)) - self.mean) @ self.transform.T
        return _scaled(placed) if self.rescale else placed

    def prepared(self, embeddings: np.ndarray) -> np.ndarray:
        """(row, dim) -> (row, dim) float64: centred and, if the model says so, of length sqrt(dim); a row of zeros becomes nan."""
        centred: np.ndarray = embeddings - self.center
        return _scaled(centred) if self.length_norm else centred

    def unit(self, points: np.ndarray) -> np.ndarray:
        """The mean of a speaker's points stays as it is: the model knows no length that it should have."""
        return points

    def vectors(self, points: np.ndarray) -> Vectors:
        """Write the log-likelihood ratio as a dot product.

        In each dimension, of speaker variance v, log N(x, y; 0, [[1+v, v], [v, 1+v]]) - log N(x; 0, 1+v) - log N(y; 0, 1+v) is
        v / (1+2v) x y - v^2 / (2 (1+v) (1+2v)) (x^2 + y^2) + log(1+v) - log(1+2v) / 2.
        """
        v = self.between
        square = -0.5 * v**2 / ((1 + v) * (1 + 2 * v))
        constant = float(np.sum(np.log1p(v) - 0.5 * np.log1p(2 * v)))
        return Vectors(points * np.sqrt(v / (1 + 2 * v)), points**2 @ square + constant / 2)


def checked_plda(model: PLDA, embeddings: Embeddings) -> PLDA:
    """Return the model; ValueError where it is for embeddings of another size."""
    if embeddings.dim != len(model.mean):
        raise ValueError(
            f"{embeddings.path}: embeddings of {embeddings.dim} numbers, the PLDA model is for {len(model.mean)}; "
            "train it on embeddings of the same encoder"
        )
    return model


def plda_scores(trials: Trials, embeddings: Embeddings, model: PLDA) -> np.ndarray:
    """(trial,) float32 natural-log likelihood ratios of same against different speakers, for the rows of the trials only."""
    vectors = vectors_of(embeddings, trial_rows(trials, embeddings), checked_plda(model, embeddings))
    return pair_scores(vectors, trials.enrol, trials.test)


def train_plda(
    embeddings: Embeddings,
    *,
    iterations: int = 10,
    length_norm: bool = True,
    log: Callable[[int, float], None] | None = None,
) -> PLDA:
    """Train on all embeddings, whose speakers `utt2spk` says, starting from the moments within and between speakers.

    Two passes over the embeddings, then EM on sums per speaker. log: called with the iteration and the mean log-likelihood per
    utterance before it, which never falls. ValueError where there are too few utterances for a covariance within speakers.
    """
    dim = embeddings.dim
    speaker, names = embeddings.speakers()
    counts = np.bincount(speaker, minlength=len(names)).astype(np.float64)
    if len(names) < 2 or len(embeddings) - len(names) < dim:
        raise ValueError(
            f"{embeddings.path}: {len(embeddings)} utterances of {len(names)} speakers are too few for {dim} dimensions; "
            f"give at least {dim} utterances more than speakers"
        )
    identity = np.eye(dim)
    model = PLDA(embeddings.mean(), length_norm, np.zeros(dim), identity, np.ones(dim))
    sums, squares = _statistics(embeddings, speaker, len(names), model)
    means = sums / counts[:, None]
    mean = means.mean(axis=0)
    within = (squares - sums.T @ means) / (len(embeddings) - len(names))
    state = _State(mean, np.cov(means.T, bias=True), within)
    for iteration in range(iterations + 1):
        model = _diagonal(model, state, embeddings.path)
        if iteration < iterations or log is not None:
            state, likelihood = _em(model, counts, sums, squares)
            if log is not None:
                log(iteration, likelihood)
    return model


def save_plda(path: Path, model: PLDA) -> None:
    """Write a model as safetensors, atomically."""
    from safetensors.numpy import save_file

    tensors = {name: np.ascontiguousarray(getattr(model, name), dtype=np.float64) for name in _TENSORS}
    with whole_file(path) as partial:
        save_file(tensors, str(partial))


def load_plda(path: Path) -> PLDA:
    """Read a model; ValueError where it is missing or damaged."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        tensors = load_file(str(path))
        center, mean, transform, between, length_norm = (tensors[name] for name in _TENSORS)
    except (OSError, SafetensorError, KeyError) as error:
        raise ValueError(f"{path}: no PLDA model can be read ({error}); train it again") from None
    shapes = center.shape, mean.shape, between.shape, transform.shape
    if shapes != ((len(mean),),) * 3 + ((len(mean), len(mean)),):
        raise ValueError(f"{path}: tensors of shapes {shapes} are no PLDA model; train it again")
    return PLDA(center, bool(length_norm), mean, transform, between)


class _State(NamedTuple):
    """mean (dim,) of the speakers; covariances between and within them, (dim, dim) each."""

    mean: np.ndarray
    between: np.ndarray
    within: np.ndarray


def _statistics(
    embeddings: Embeddings, speaker: np.ndarray, num_speakers: int, model: PLDA
) -> tuple[np.ndarray, np.ndarray]:
    """Sums of the prepared embeddings of each speaker, (speaker, dim), and of their outer products, (dim, dim)."""
    sums, squares = np.zeros((num_speakers, embeddings.dim)), np.zeros((embeddings.dim, embeddings.dim))
    rows = np.arange(len(embeddings))
    for where, block in embeddings.blocks():
        whole = checked_points(embeddings, rows[where], model.prepared(crop_mean(block)))
        add_by_group(sums, speaker[where], whole)
        squares += whole.T @ whole
    return sums, squares


def _diagonal(model: PLDA, state: _State, path: Path) -> PLDA:
    """Put the model into the basis in which both covariances of `state` are diagonal."""
    try:
        lower = np.linalg.cholesky(state.within)
    except np.linalg.LinAlgError:
        raise ValueError(
            f"{path}: the embeddings do not vary within speakers in every dimension; give more utterances per speaker, "
            "or embeddings of fewer dimensions"
        ) from None
    whiten = np.linalg.inv(lower)
    values, basis = np.linalg.eigh(whiten @ state.between @ whiten.T)
    return replace(
        model,
        mean=state.mean,
        transform=basis.T[::-1] @ whiten,
        between=np.maximum(values[::-1], 0.0),  # rounding may leave -1e-17 where speakers do not differ
    )


def _em(model: PLDA, counts: np.ndarray, sums: np.ndarray, squares: np.ndarray) -> tuple[_State, float]:
    """One iteration: the posterior of every speaker, and the parameters that fit these best.

    In the diagonal basis, given n utterances that sum to f, the posterior of the speaker has in each dimension variance p = v / (1 + n v)
    and mean p f. Returns the new parameters in the original basis, and the mean log-likelihood per utterance of the old ones.
    """
    A, v = model.transform, model.between
    total = counts.sum()
    f = (sums - counts[:, None] * model.mean) @ A.T  # (speaker, dim)
    # Outer products about the mean: sum x x^T - m s^T - s m^T + N m m^T
    shifted = np.outer(model.mean, sums.sum(axis=0) - total * model.mean / 2)
    scatter = A @ (squares - shifted - shifted.T) @ A.T
    variance = v / (1 + counts[:, None] * v)  # (speaker, dim)
    posterior = variance * f
    likelihood = (
        0.5
        * (
            np.sum(variance * f**2)
            - np.trace(scatter)
            - np.sum(np.log1p(counts[:, None] * v))
            - total * len(v) * np.log(2 * np.pi)
        )
        + total * np.linalg.slogdet(A)[1]
    )
    mean = posterior.mean(axis=0)
    centred = posterior - mean
    between = (centred.T @ centred + np.diag(variance.sum(axis=0))) / len(counts)
    cross = f.T @ posterior
    weighted = (counts[:, None] * posterior).T @ posterior + np.diag((counts[:, None] * variance).sum(axis=0))
    within = (scatter - cross - cross.T + weighted) / total
    back = np.linalg.inv(A)
    return _State(
        model.mean + back @ mean,
        _symmetric(back @ between @ back.T),
        _symmetric(back @ within @ back.T),
    ), float(likelihood / total)


def _scaled(rows: np.ndarray) -> np.ndarray:
    """(row, dim) -> the same, of length sqrt(dim)."""
    with np.errstate(invalid="ignore", divide="ignore"):
        scaled: np.ndarray = rows * (np.sqrt(rows.shape[1]) / np.linalg.norm(rows, axis=1, keepdims=True))
    return scaled


def _symmetric(matrix: np.ndarray) -> np.ndarray:
    even: np.ndarray = (matrix + matrix.T) / 2
    return even
