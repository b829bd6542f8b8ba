"""Noise, reverberation, speed, gain, pitch and formants on waveforms, in the loader's workers.

The functions are pure and exact; `Augmenter` draws what they are given. Noises and impulse responses are data directories
like any other; of a noise only the piece that is added is decoded, however long the recording.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from audiossl.data.audio import AudioError
from audiossl.data.formants import RESONANCES, move_formants
from audiossl.data.manifest import Manifest
from audiossl.data.rooms import impulse_response, random_room

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from audiossl.data.directory import Source

    Waveform: TypeAlias = NDArray[np.float32]

_LOG = logging.getLogger(__name__)

_TRIES = 10  # recordings that are drawn, one after the other, before a directory of noises counts as one without
_ROOM_STREAM = 1979  # keeps the rooms' random numbers apart from all others
_ROWS = 4  # blocks of a convolution and its response come in fours: scipy transforms so many at once where processors have wide registers
_STEP = 1 << 13  # samples of a block at the least; long transforms leave the cache, short ones are mostly tail
_PITCH_WINDOW = 0.064  # s: long enough to part the harmonics of the deepest voices
_STEPS = ("speed", "reverb", "noise", "gain", "gaussian", "pitch", "formants")

OWN = Path("<data>")
"""Among noise_dirs: the data that is augmented, whichever that is."""


@dataclass(frozen=True)
class AugmentConfig:
    """What is done to an utterance, each step with its own probability, in this `order`; of the steps in `one_of` at most one.

    noise_dirs: data directories, of which one is drawn for each noisy utterance, all with the same probability; "<data>" is the one that is augmented
    itself, so that its utterances are noise to one another. noise_snr: dB, uniform; one range for all directories or one for each. noise_counts:
    how many recordings are added, likewise (babble takes several speakers). noise_level: "each" of them has a draw of noise_snr of its own, as in published
    loaders; or the "sum" has one, and may hold a recording twice. reverb_dir: data directory of impulse responses; without one, `num_rooms` rooms are simulated
    whose RT60 is uniform in `rt60`, s. speed_factors: one is drawn; 1.1 is a tenth faster and higher. gain_db: uniform. gaussian_std: of white noise, uniform,
    as a multiple of the waveform's own deviation, as the class that ccc-wav2vec 2.0 calls has it. pitch_semitones: uniform; our variant.
    formants_factor: what each of four resonances is moved by, log-uniform (`move_formants`); our variant.
    """

    noise_probability: float = 0.0
    noise_dirs: tuple[Path, ...] = ()
    noise_snr: tuple[tuple[float, float], ...] = ((0.0, 15.0),)
    noise_counts: tuple[tuple[int, int], ...] = ((1, 1),)
    noise_level: Literal["each", "sum"] = "each"
    reverb_probability: float = 0.0
    reverb_dir: Path | None = None
    rt60: tuple[float, float] = (0.1, 0.5)
    num_rooms: int = 500
    speed_probability: float = 0.0
    speed_factors: tuple[float, ...] = (0.9, 1.0, 1.1)
    gain_probability: float = 0.0
    gain_db: tuple[float, float] = (-10.0, 6.0)
    gaussian_probability: float = 0.0
    gaussian_std: tuple[float, float] = (0.001, 0.7)
    pitch_probability: float = 0.0
    pitch_semitones: tuple[float, float] = (-3.0, 3.0)
    formants_probability: float = 0.0
    formants_factor: tuple[float, float] = (0.8, 1.25)
    order: tuple[str, ...] = _STEPS
    one_of: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for step in _STEPS:
            if not 0 <= self.probability(step) <= 1:
                raise ValueError(f"{step}_probability is {self.probability(step)}; give a number from 0 to 1")
            if self.probability(step) > 0 and step not in self.order:
                raise ValueError(f"order {self.order} lacks {step!r}, whose probability is not 0; add it")
        if len(set(self.order)) < len(self.order) or not set(self.order) <= set(_STEPS):
            raise ValueError(f"order is {self.order}; give each of {', '.join(_STEPS)} once at the most")
        total = sum(map(self.probability, set(self.one_of) & set(_STEPS)))
        if not set(self.one_of) <= set(_STEPS) or total > 1 + 1e-9:
            raise ValueError(
                f"one_of is {self.one_of}; give steps of {', '.join(_STEPS)} whose probabilities add up to 1 at the most, not to {total:g}"
            )
        if self.noise_probability > 0 and not self.noise_dirs:
            raise ValueError(
                f"noise_probability is not 0, but noise_dirs is empty; name a data directory of noises, or '{OWN}', the data themselves"
            )
        if self.noise_level not in {"each", "sum"}:
            raise ValueError(f"noise_level: {self.noise_level!r} is neither 'each' nor 'sum'")
        for name, ranges in (("noise_snr", self.noise_snr), ("noise_counts", self.noise_counts)):
            if self.noise_dirs and len(ranges) not in {1, len(self.noise_dirs)}:
                raise ValueError(
                    f"{name} has {len(ranges)} ranges for {len(self.noise_dirs)} noise_dirs; give 1 or as many"
                )
        others = (self.rt60, self.gain_db, self.gaussian_std, self.pitch_semitones, self.formants_factor)
        for low, high in (*self.noise_snr, *self.noise_counts, *others):
            if not low <= high:
                raise ValueError(f"range ({low}, {high}) is empty; write the smaller number first")
        if min(low for low, _ in self.noise_counts) < 1 or self.rt60[0] <= 0 or self.num_rooms < 1:
            raise ValueError("noise_counts, rt60 and num_rooms must be above 0; correct the one that is not")
        if not self.speed_factors or min(self.speed_factors) <= 0:
            raise ValueError(f"speed_factors is {self.speed_factors}; give one or more numbers above 0")
        if self.formants_factor[0] <= 0:
            raise ValueError(f"formants_factor is {self.formants_factor}; give factors above 0")
        if self.gaussian_std[0] < 0:
            raise ValueError(f"gaussian_std is {self.gaussian_std}; give multiples from 0 on")

    def probability(self, step: str) -> float:
        """Return the probability of `step`, a name in `order`."""
        return float(getattr(self, f"{step}_probability"))

    @property
    def keeps_time(self) -> bool:
        """Whether frame labels made on the plain recording still fit the augmented one."""
        return self.speed_probability == 0 or set(self.speed_factors) == {1.0}

    @property
    def longest_stretch(self) -> float:
        """Largest duration after augmentation, as a multiple of the one before."""
        return 1.0 if self.keeps_time else max(1.0, 1 / min(self.speed_factors))

    @property
    def fastest(self) -> float:
        """Largest duration before augmentation, as a multiple of the one after, and a thousandth more, for rounding can cost a sample."""
        return 1.0 if self.keeps_time else 1.001 * max(1.0, *self.speed_factors)


class Noises:
    """Data directories of noises, of which pieces are drawn; ValueError where one cannot be opened. Small to send to workers.

    own: what `OWN` among them stands for.
    """

    def __init__(self, dirs: Sequence[Path], own: Source | None = None) -> None:
        self._dirs = [own if own is not None and path == OWN else _opened(path) for path in dirs]
        self._seconds = [noises.durations for noises in self._dirs]  # here, and not in every worker
        self._unusable: set[str] = set()

    def draw(
        self,
        samples: int,
        rng: np.random.Generator,
        sample_rate: int,
        counts: Sequence[tuple[int, int]] = ((1, 1),),
        *,
        repeats: bool = False,
    ) -> tuple[int, list[Waveform]]:
        """Return the number of the directory that was drawn, and pieces of some of its recordings: (samples,) float32 each, none silent.

        counts: how many, uniform; one range for all directories or one for each. repeats: a recording may be drawn twice, else only where there are fewer
        than wanted. ValueError where none of several recordings can be used.
        """
        kind = int(rng.integers(len(self._dirs)))
        low, high = counts[kind % len(counts)]
        total, count = len(self._seconds[kind]), int(rng.integers(low, high + 1))
        again = repeats or count > total
        chosen = rng.integers(total, size=count) if again else rng.choice(total, count, replace=False)

        def read(index: int) -> Waveform:
            audio = partial(self._dirs[kind].audio, index, sample_rate=sample_rate)
            return _excerpt(audio, float(self._seconds[kind][index]), samples, sample_rate, rng)

        return kind, [_usable(self._dirs[kind], read, index, rng, self._unusable) for index in chosen.tolist()]


class Augmenter:
    """Draws and applies the steps of a configuration; ValueError where a directory cannot be opened. own: the data that is augmented."""

    def __init__(self, config: AugmentConfig, own: Source | None = None) -> None:
        self.config = config
        self._noises = Noises(config.noise_dirs if config.noise_probability > 0 else (), own)
        self._responses = _opened(config.reverb_dir) if config.reverb_probability > 0 and config.reverb_dir else None
        self._unusable: set[str] = set()

    def __call__(self, waveform: Waveform, rng: np.random.Generator, sample_rate: int) -> Waveform:
        """Augment (sample,) floats at `sample_rate` Hz: (sample,) float32, as long as before unless the speed changed.

        What is drawn is a function of the generator only.
        """
        waveform = np.asarray(waveform, dtype=np.float32)
        for name in self._drawn(rng):
            waveform = getattr(self, f"_{name}")(waveform, rng, sample_rate)
        return waveform

    def _drawn(self, rng: np.random.Generator) -> Iterator[str]:
        """Yield the steps to take, each drawn when its turn comes; those of `one_of` share a draw."""
        lot = rng.random() if self.config.one_of else 0.0
        for name in self.config.order:
            probability = self.config.probability(name)
            if name not in self.config.one_of:
                taken = rng.random() < probability
            else:
                taken, lot = 0 <= lot < probability, lot - probability
            if taken:
                yield name

    def _speed(self, waveform: Waveform, rng: np.random.Generator, sample_rate: int) -> Waveform:
        del sample_rate  # a factor is a factor at any rate
        return change_speed(waveform, float(rng.choice(self.config.speed_factors)))

    def _gain(self, waveform: Waveform, rng: np.random.Generator, sample_rate: int) -> Waveform:
        del sample_rate
        return change_gain(waveform, rng.uniform(*self.config.gain_db))

    def _gaussian(self, waveform: Waveform, rng: np.random.Generator, sample_rate: int) -> Waveform:
        del sample_rate
        return add_gaussian(waveform, rng.uniform(*self.config.gaussian_std), rng)

    def _pitch(self, waveform: Waveform, rng: np.random.Generator, sample_rate: int) -> Waveform:
        return change_pitch(waveform, rng.uniform(*self.config.pitch_semitones), sample_rate)

    def _formants(self, waveform: Waveform, rng: np.random.Generator, sample_rate: int) -> Waveform:
        low, high = np.log(self.config.formants_factor)
        factors = np.exp(rng.uniform(low, high, len(RESONANCES)))
        return move_formants(waveform, factors.tolist(), sample_rate)

    def _reverb(self, waveform: Waveform, rng: np.random.Generator, sample_rate: int) -> Waveform:
        if self._responses is not None:
            read, index = (
                partial(self._responses.audio, sample_rate=sample_rate),
                int(rng.integers(len(self._responses))),
            )
            response = _usable(self._responses, read, index, rng, self._unusable)
        else:
            response = _simulated(int(rng.integers(self.config.num_rooms)), self.config.rt60, sample_rate)
        return reverberate(waveform, response)

    def _noise(self, waveform: Waveform, rng: np.random.Generator, sample_rate: int) -> Waveform:
        snr, summed = self.config.noise_snr, self.config.noise_level == "sum"
        kind, noises = self._noises.draw(len(waveform), rng, sample_rate, self.config.noise_counts, repeats=summed)
        if summed:
            noises = [np.sum(noises, axis=0)]
        return _mixed(waveform, ((noise, rng.uniform(*snr[kind % len(snr)])) for noise in noises))


def add_noise(speech: Waveform, noise: Waveform, snr_db: float) -> Waveform:
    """Add noise scaled so that 10 log10(power of speech / power of noise) is `snr_db`; both (sample,), powers over all of it.

    Exactly so: sslsv adds 1e-4 to both powers, by which quiet noises stay quieter.
    """
    return _mixed(speech, [(noise, snr_db)])


def _mixed(speech: Waveform, noises: Iterable[tuple[Waveform, float]]) -> Waveform:
    """Add each noise at its own ratio to the speech alone, as `add_noise` does."""
    mixed, speech_energy = speech.copy(), _energy(speech)
    for noise, snr_db in noises:
        if speech.shape != noise.shape:
            raise ValueError(f"speech has {speech.shape} samples, noise {noise.shape}; cut the noise to the speech")
        noise_energy = _energy(noise)
        if speech_energy == 0 or noise_energy == 0:
            silent = "speech" if speech_energy == 0 else "noise"
            raise ValueError(f"{silent} is silent, so no scale gives {snr_db:g} dB; leave the recording out")
        mixed += np.float32(np.sqrt(speech_energy / noise_energy) * 10 ** (-snr_db / 20)) * noise
    return mixed


def reverberate(speech: Waveform, impulse_response: Waveform) -> Waveform:
    """Convolve with an impulse response; (sample,), as long, as energetic and as early as the speech.

    The direct path, taken to be the largest peak, is moved to time 0, so that frame labels stay right.
    """
    direct = int(np.argmax(np.abs(impulse_response)))
    wet = _convolve(speech, impulse_response)[direct : direct + len(speech)]
    energy = _energy(wet)
    if energy == 0:
        raise ValueError("reverberated speech is silent; leave the recording or the impulse response out")
    wet *= np.float32(np.sqrt(_energy(speech) / energy))
    return wet


def change_speed(waveform: Waveform, factor: float) -> Waveform:
    """Play `factor` times as fast, pitch and all, by resampling: (sample,) -> about (sample / factor,).

    T. Ko et al., "Audio augmentation for speech recognition", Interspeech 2015, section 2.
    """
    import soxr

    if factor == 1:
        return waveform
    return np.asarray(soxr.resample(waveform, factor, 1.0, quality="HQ"), dtype=np.float32)


def change_gain(waveform: Waveform, gain_db: float) -> Waveform:
    """Multiply by a gain in dB; nothing is clipped."""
    return waveform * np.float32(10 ** (gain_db / 20))


def add_gaussian(waveform: Waveform, relative_std: float, rng: np.random.Generator) -> Waveform:
    """Add white noise whose deviation is `relative_std` times the waveform's; silence stays silent."""
    std = np.float32(relative_std * np.std(waveform, dtype=np.float64))
    return waveform + std * rng.standard_normal(len(waveform), dtype=np.float32)


def change_pitch(waveform: Waveform, semitones: float, sample_rate: int) -> Waveform:
    """Make a voice higher, or lower, and leave it as long and as fast: (sample,), the same number of samples.

    A phase vocoder and resampling, by librosa: some 3 ms of a processor for each second of audio, several times what the other steps take.
    Onsets blur within its window of 64 ms; frames stay where they were.
    """
    from librosa.effects import pitch_shift

    if semitones == 0:
        return waveform
    window = 1 << round(np.log2(_PITCH_WINDOW * sample_rate))
    padded = np.pad(waveform, (0, max(0, window - len(waveform))))
    shifted = pitch_shift(padded, sr=sample_rate, n_steps=semitones, n_fft=window, res_type="soxr_hq")
    return np.asarray(shifted[: len(waveform)], dtype=np.float32)


def _opened(path: Path) -> Manifest:
    if path == OWN:
        raise ValueError(f"{path}: here no data is augmented that it could stand for; name a data directory of noises")
    manifest = Manifest.open(path)
    if len(manifest) == 0:
        raise ValueError(f"{path}: holds no recordings to augment with; prepare it again")
    return manifest


def _usable(
    source: Source, read: Callable[[int], Waveform], index: int, rng: np.random.Generator, unusable: set[str]
) -> Waveform:
    """Return what `read` makes of recording `index` or, where that cannot be used, of others that are drawn instead.

    unusable: names of those that the log was told of; each is read again when it is drawn, so that draws do not depend on what came before.
    """
    for _ in range(_TRIES):
        try:
            return read(index)
        except AudioError as error:
            name = source.ids[index]
            if name not in unusable:
                _LOG.warning("%s: %s is not augmented with: %s", source.path, name, error)
            unusable.add(name)
            index = int(rng.integers(len(source.ids)))
    raise ValueError(
        f"{source.path}: none of {_TRIES} recordings that were drawn to augment with can be used; run `audiossl data fix {source.path}`"
    )


def _excerpt(
    read: Callable[..., Waveform], seconds: float, length: int, sample_rate: int, rng: np.random.Generator
) -> Waveform:
    """Read `length` samples from a random place of a noise of `seconds`, going round one that is shorter. read: `Source.audio`'s."""
    spare = seconds - length / sample_rate
    if spare <= 0:
        noise = read()
        return np.resize(np.roll(noise, -int(rng.integers(len(noise)))), length)
    piece = read(start=rng.uniform(0.0, spare), seconds=length / sample_rate, allow_silent=True)
    if not piece.any():  # a pause has no power to scale: take the loudest place instead
        noise = read()
        start = max(0, min(int(np.argmax(np.abs(noise))), len(noise) - length))
        piece = noise[start : start + length]
    return piece if len(piece) == length else np.resize(piece, length)  # rounding can cost a sample


@lru_cache(maxsize=1024)
def _simulated(number: int, rt60: tuple[float, float], sample_rate: int) -> Waveform:
    """Room `number`: a function of its number, so that all workers and restarts share the rooms, each made only once."""
    return impulse_response(random_room(np.random.default_rng([_ROOM_STREAM, number]), rt60=rt60), sample_rate)


def _energy(waveform: Waveform) -> float:
    # Not a dot product: that depends on the number of threads, and batches must not. numpy sums by pairs: good to 1e-6.
    return float(np.square(waveform).sum())


def _convolve(signal: Waveform, response: Waveform) -> Waveform:
    """Full convolution, (sample + tap - 1,) float32, in blocks whose tails overlap and add."""
    from scipy import fft  # type: ignore[import-untyped]

    if len(signal) < len(response):
        signal, response = response, signal
    full = len(signal) + len(response) - 1
    rounds = max(1, round(len(signal) / (_ROWS * max(_STEP, 3 * len(response)))))
    num_blocks = _ROWS * rounds - 1  # the response is the last row: by itself it would take as long as a whole group
    step = -(-len(signal) // num_blocks)
    size = fft.next_fast_len(step + len(response) - 1, real=True)
    rows = np.zeros((num_blocks + 1, size), dtype=np.float32)
    whole = len(signal) // step
    rows[:whole, :step] = signal[: whole * step].reshape(whole, step)
    if whole < num_blocks:
        rows[whole, : len(signal) - whole * step] = signal[whole * step :]
    rows[-1, : len(response)] = response
    spectra = fft.rfft(rows, size, overwrite_x=True)
    spectra[:-1] *= spectra[-1]
    blocks = fft.irfft(spectra, size, overwrite_x=True)[:-1]  # the last row for nothing: without it, no four are left
    reach = -(-size // step)  # steps that a block extends over
    result = np.zeros((num_blocks + reach - 1, step), dtype=np.float32)
    for shift in range(reach):
        part = blocks[:, shift * step : (shift + 1) * step]
        result[shift : shift + num_blocks, : part.shape[1]] += part
    return result.reshape(-1)[:full]
