"""Impulse responses of simulated rooms by the image method.

J. B. Allen and D. A. Berkley, "Image method for efficiently simulating small-room acoustics", JASA 65(4), 1979. The room is a
box; each wall reflects by the same factor, which follows from the wanted reverberation time. The paper rounds each image's
delay to a whole sample; here delays are rounded on a grid eight times finer and then band-limited, which keeps the phase.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

Point: TypeAlias = "tuple[float, float, float]"

SPEED_OF_SOUND = 343.0
"""Metres per second, in air at 20 degrees Celsius."""
_OVERSAMPLING = 8
_HIGH_PASS_HZ = 100.0
_MARGIN = 0.1  # seconds of silence at the end at the least, in which filters ring out instead of wrapping round


@dataclass(frozen=True)
class Room:
    """A box with a source and a microphone in it.

    size: width, depth, height, m. source, microphone: positions from one corner, m. rt60: time to decay by 60 dB, s.
    """

    size: Point
    source: Point
    microphone: Point
    rt60: float

    def __post_init__(self) -> None:
        if not (min(self.size) > 0 and self.rt60 > 0):
            raise ValueError(f"room of {self.size} m with RT60 {self.rt60} s; give positive numbers")
        for name, place in (("source", self.source), ("microphone", self.microphone)):
            if not all(0 < x < length for x, length in zip(place, self.size, strict=True)):
                raise ValueError(f"{name} at {place} is not inside a room of {self.size} m; move it")
        if self.source == self.microphone:
            raise ValueError(f"source and microphone are both at {self.source}; move one")


def random_room(
    rng: np.random.Generator,
    *,
    floor: tuple[float, float] = (3.0, 10.0),
    height: tuple[float, float] = (2.5, 4.0),
    rt60: tuple[float, float] = (0.1, 0.5),
    wall_distance: float = 0.3,
) -> Room:
    """Draw a room: width and depth from `floor`, `height` and `rt60` uniform, both places at least `wall_distance` from walls."""
    size = np.array([rng.uniform(*floor), rng.uniform(*floor), rng.uniform(*height)])
    source, microphone = rng.uniform(wall_distance, size - wall_distance, size=(2, 3))
    return Room(_point(size), _point(source), _point(microphone), float(rng.uniform(*rt60)))


def impulse_response(room: Room, sample_rate: int) -> NDArray[np.float32]:
    """Return the response from source to microphone, `rt60` seconds from emission: (sample,) at `sample_rate` Hz.

    The direct path lies at distance / 343 m/s and is 1 / (4 pi distance) high. All images are positive, which piles up energy
    near 0 Hz that no room has; as in the paper's appendix a high-pass at 100 Hz takes it away.
    """
    fine_rate = sample_rate * _OVERSAMPLING
    fine = image_histogram(room, fine_rate)
    num_samples = fast_size(-(-fine.size // _OVERSAMPLING) + int(_MARGIN * sample_rate))
    spectrum = np.fft.rfft(fine, num_samples * _OVERSAMPLING)[: num_samples // 2 + 1]
    response = np.fft.irfft(spectrum * _high_pass(spectrum.size, num_samples, sample_rate), num_samples)
    return response[: max(int(room.rt60 * sample_rate), 1)].astype(np.float32)


def image_histogram(room: Room, rate: int) -> NDArray[np.float64]:
    """Sum the images of the source into cells of 1 / `rate` s by their delay (eq. 8 and 9 of the paper), up to `rt60`."""
    reach = SPEED_OF_SOUND * max(room.rt60, 1.01 * _distance(room) / SPEED_OF_SOUND)
    reflection = reflection_factor(room.size, room.rt60)
    axes = [_axis(*of_axis, reach, reflection) for of_axis in zip(room.size, room.source, room.microphone, strict=True)]
    (x2, x_gain), (y2, y_gain), (z2, z_gain) = axes
    # Two axes first: most corners of the cube are out of reach, and leave before the third axis multiplies them.
    xy2 = np.add.outer(x2, y2).ravel()
    near = np.flatnonzero(xy2 < reach**2)
    xy2, xy_gain = xy2[near], np.multiply.outer(x_gain, y_gain).ravel()[near]
    total = np.zeros(int(np.ceil(reach / SPEED_OF_SOUND * rate)) + 1)
    by_distance = np.argsort(xy2)
    xy2, xy_gain = xy2[by_distance], xy_gain[by_distance]
    for height2, gain in zip(z2, z_gain, strict=True):  # tens of layers
        within = np.searchsorted(xy2, reach**2 - height2)
        distance = np.sqrt(xy2[:within] + height2)
        cell = (distance * (rate / SPEED_OF_SOUND) + 0.5).astype(np.intp)
        total += np.bincount(cell, xy_gain[:within] * (gain / (4 * np.pi)) / distance, total.size)
    return total


def fast_size(length: int) -> int:
    """Smallest 2^a x 1, 3, 5, 9 or 15 that is at least `length`: sizes of fast Fourier transforms."""
    return min(odd << max(0, -(-length // odd) - 1).bit_length() for odd in (1, 3, 5, 9, 15))


def reflection_factor(size: Point, rt60: float) -> float:
    """Return the pressure reflected by each wall for a reverberation time, by Eyring's formula.

    RT60 = 24 ln 10 / c * V / (-S ln(1 - a)), absorption a = 1 - factor^2 (C. F. Eyring, JASA 1, 1930). Any time is within
    reach, while Sabine's formula asks short ones for walls that absorb more than everything.
    """
    width, depth, height = size
    surface = 2 * (width * depth + width * height + depth * height)
    decay = 24 * np.log(10) / SPEED_OF_SOUND * width * depth * height / (surface * rt60)
    return float(np.exp(-decay / 2))


def reverberation_time(response: ArrayLike, sample_rate: int) -> float:
    """Measure RT60 of an impulse response, s: the slope from -5 to -25 dB of Schroeder's backward integral (JASA 37, 1965)."""
    energy = np.cumsum(np.square(np.asarray(response, dtype=np.float64))[::-1])[::-1]
    level = 10 * np.log10(energy[energy > 0] / energy[0])
    first, last = np.searchsorted(-level, [5.0, 25.0])
    if last >= level.size or last - first < 2:
        raise ValueError(f"impulse response decays by {-level[-1]:.0f} dB only; 25 dB are needed to measure RT60")
    slope = np.polyfit(np.arange(first, last) / sample_rate, level[first:last], 1)[0]
    return float(-60 / slope)


def _axis(
    length: float, source: float, microphone: float, reach: float, reflection: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Squared distance and gain of the images along one axis: images at (1 - 2 q) source + 2 n length, q in {0, 1}."""
    turns = int(np.ceil(reach / (2 * length))) + 1
    n = np.arange(-turns, turns + 1)
    place = np.concatenate([source + 2 * n * length, -source + 2 * n * length]) - microphone
    bounces = np.concatenate([2 * np.abs(n), np.abs(n - 1) + np.abs(n)])
    near = np.abs(place) < reach
    return np.square(place[near]), reflection ** bounces[near].astype(np.float64)


def _high_pass(num_bins: int, num_samples: int, sample_rate: int) -> NDArray[np.complex128]:
    """Frequency response of the two-pole high-pass in the appendix of the paper."""
    cutoff = 2 * np.pi * _HIGH_PASS_HZ / sample_rate
    radius = np.exp(-cutoff)
    z = np.exp(-2j * np.pi * np.arange(num_bins) / num_samples)  # one sample's delay
    response: NDArray[np.complex128] = (1 - (1 + radius) * z + radius * z**2) / (
        1 - 2 * radius * np.cos(cutoff) * z + radius**2 * z**2
    )
    return response


def _distance(room: Room) -> float:
    return float(np.linalg.norm(np.subtract(room.source, room.microphone)))


def _point(values: NDArray[np.float64]) -> Point:
    x, y, z = (float(value) for value in values)
    return x, y, z
