"""Mix utterances of a batch into one another, or noise into them: which rows, with what, where, how long and how loud; drawn in the loader's workers."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from audiossl.data.augment import Noises


class Pieces(NamedTuple):
    """Stretches of utterances that are added to other ones of the batch; each field is (piece,).

    target, source: rows. target_start, source_start, length: samples. gain: factor of the source.
    """

    target: NDArray[np.int64]
    target_start: NDArray[np.int64]
    source: NDArray[np.int64]
    source_start: NDArray[np.int64]
    length: NDArray[np.int64]
    gain: NDArray[np.float64]


class NoisePieces(NamedTuple):
    """Noise that is added to some utterances of the batch. target: (piece,), rows; start: (piece,), samples; noise: one (sample,) float32 for each."""

    target: NDArray[np.int64]
    start: NDArray[np.int64]
    noise: list[NDArray[np.float32]]


class NoiseMix(NamedTuple):
    """What `draw_noises` does. probability: of an overlap; snr_db: range; sample_rate: Hz."""

    noises: Noises
    probability: float
    snr_db: tuple[float, float]
    sample_rate: int


def draw_overlaps(
    waveform: NDArray[np.float32],
    lengths: NDArray[np.int64],
    *,
    probability: float,
    ratio_db: tuple[float, float],
    rng: np.random.Generator,
    max_share: float = 0.5,
) -> Pieces:
    """Utterance mixing (UniSpeech-SAT, Chen et al., 2022, section 3.3): a stretch of one other utterance over some of the utterances.

    waveform: (batch, sample), zero at padding; lengths: (batch,) valid samples. Each row is mixed with `probability`; its partner is uniform over the
    other rows (the published code may draw the row itself), the length uniform on {0 .. max_share of the row}, as far as the partner
    reaches, and both places uniform and independent. gain = sqrt(P_target / (P_source 10^(r / 10))) with r uniform in `ratio_db` and P the mean square of
    whole utterances: r is how much louder the main speaker is, dB.
    """
    target = _chosen(len(lengths), probability, rng)
    source = _others(target, len(lengths), rng)
    longest = np.minimum((max_share * lengths[target]).astype(np.int64), lengths[source])
    length = rng.integers(0, longest, endpoint=True)
    power = np.einsum("bs,bs->b", waveform, waveform, dtype=np.float64) / lengths
    ratio = 10 ** (rng.uniform(*ratio_db, len(target)) / 10)
    gain = np.zeros(len(target))
    heard = power[source] > 0  # a silent partner adds nothing at any gain
    gain[heard] = np.sqrt(power[target[heard]] / (power[source[heard]] * ratio[heard]))
    return _placed(target, source, length, gain, lengths, rng)


def draw_noises(
    pieces: Pieces,
    waveform: NDArray[np.float32],
    lengths: NDArray[np.int64],
    config: NoiseMix,
    rng: np.random.Generator,
) -> tuple[Pieces, NoisePieces]:
    """Replace some overlaps, each with `config.probability`, by noise: what is left of them, and what takes the place of the others.

    pieces: of `draw_overlaps`; waveform, lengths: of the batch, see there. Noise keeps the place and length of the overlap. Its gain makes the
    power of the whole utterance r dB more than the noise's, r uniform in config.snr_db; the published code takes the power of the whole noise recording, here it
    is that of the piece, so that no long recording is decoded for a second of it.
    """
    noisy = rng.random(len(pieces.target)) < config.probability
    kept, gone = _some(pieces, ~noisy), _some(pieces, noisy & (pieces.length > 0))
    noises = []
    for target, length in zip(gone.target.tolist(), gone.length.tolist(), strict=True):
        _, (noise,) = config.noises.draw(length, rng, config.sample_rate)
        power = float(np.square(waveform[target, : lengths[target]], dtype=np.float64).mean())
        ratio = power / np.square(noise, dtype=np.float64).mean() / 10 ** (rng.uniform(*config.snr_db) / 10)
        noises.append(np.float32(np.sqrt(ratio)) * noise)
    return kept, NoisePieces(gone.target, gone.target_start, noises)


def draw_clips(
    lengths: NDArray[np.int64],
    *,
    probability: float,
    count: tuple[int, int],
    samples: tuple[int, int],
    rng: np.random.Generator,
) -> Pieces:
    """In-batch mixture of music (MERT, Li et al., 2024, section 3.3): short clips of other utterances, as loud as they are.

    lengths: (batch,) valid samples. Each row is mixed with `probability`; it gets a number of clips uniform in `count`, each of a length uniform in
    `samples`, ends included, cut to what the two utterances hold. A clip's source is that of a sample drawn from the concatenation of the other utterances, as
    published, but the clip stays inside it, where the published one may run over into the next.
    """
    chosen = _chosen(len(lengths), probability, rng)
    target = np.repeat(chosen, rng.integers(*count, len(chosen), endpoint=True))
    ends = np.cumsum(lengths)
    place = rng.integers(0, ends[-1] - lengths[target])  # among the samples of all other rows
    place += np.where(place >= ends[target] - lengths[target], lengths[target], 0)
    source = np.searchsorted(ends, place, side="right")
    length = rng.integers(*samples, len(target), endpoint=True)
    length = np.minimum(length, np.minimum(lengths[target], lengths[source]))
    return _placed(target, source, length, np.ones(len(target)), lengths, rng)


def add_pieces(
    waveform: NDArray[np.float32],
    lengths: NDArray[np.int64],
    pieces: Pieces,
    *,
    normalise: bool = False,
    noises: NoisePieces | None = None,
) -> NDArray[np.float32]:
    """Add pieces, and noises, and return a new batch. Sources are the unmixed utterances, whatever is added to them.

    waveform: (batch, sample). normalise: give the rows that changed zero mean and unit variance over their valid samples again.
    """
    mixed = waveform.copy()
    for target, at, source, begin, length, gain in zip(*(field.tolist() for field in pieces), strict=True):
        # One slice for each mixed row: far cheaper than gathering all pieces through an array of indices.
        mixed[target, at : at + length] += np.float32(gain) * waveform[source, begin : begin + length]
    changed = pieces.target
    if noises is not None:
        changed = np.concatenate([changed, noises.target])
        for target, at, noise in zip(noises.target.tolist(), noises.start.tolist(), noises.noise, strict=True):
            mixed[target, at : at + len(noise)] += noise
    for row in np.unique(changed).tolist() if normalise else ():
        valid = mixed[row, : lengths[row]]
        valid[:] = (valid - valid.mean()) / np.sqrt(valid.var() + 1e-5)
    return mixed


def _some(pieces: Pieces, which: NDArray[np.bool_]) -> Pieces:
    """Those pieces that are marked. which: (piece,)."""
    return Pieces._make(field[which] for field in pieces)


def _chosen(rows: int, probability: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """Rows that are mixed; none where there is no other row."""
    chosen = np.flatnonzero(rng.random(rows) < probability)
    return chosen if rows > 1 else chosen[:0]


def _others(target: NDArray[np.int64], rows: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """For each of some rows another one, uniform."""
    other = rng.integers(0, max(1, rows - 1), len(target))
    return other + (other >= target)


def _placed(
    target: NDArray[np.int64],
    source: NDArray[np.int64],
    length: NDArray[np.int64],
    gain: NDArray[np.float64],
    lengths: NDArray[np.int64],
    rng: np.random.Generator,
) -> Pieces:
    """Put pieces of known lengths at places that are uniform over both utterances."""
    target_start = rng.integers(0, lengths[target] - length, endpoint=True)
    source_start = rng.integers(0, lengths[source] - length, endpoint=True)
    return Pieces(target, target_start, source, source_start, length, gain)
