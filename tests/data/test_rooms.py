from __future__ import annotations

import itertools
import time

import numpy as np
import pytest

from audiossl.data import rooms
from audiossl.data.rooms import (
    Room,
    fast_size,
    image_histogram,
    impulse_response,
    random_room,
    reflection_factor,
    reverberation_time,
)

SMALL = Room(size=(3.1, 2.7, 2.4), source=(1.0, 0.8, 1.2), microphone=(2.2, 1.9, 1.7), rt60=0.08)


def slow_images(room):
    """Every image in three plain loops: (delay in seconds, gain), from reflecting the source wall by wall."""
    beta = reflection_factor(room.size, room.rt60)
    reach = 343.0 * room.rt60
    images = []
    for n in itertools.product(range(-8, 9), repeat=3):
        for q in itertools.product((0, 1), repeat=3):
            distance2, gain = 0.0, 1.0
            for axis in range(3):
                image = (1 - 2 * q[axis]) * room.source[axis] + 2 * n[axis] * room.size[axis]
                distance2 += (image - room.microphone[axis]) ** 2
                gain *= beta ** abs(n[axis] - q[axis]) * beta ** abs(n[axis])
            distance = distance2**0.5
            if distance < reach:
                images.append((distance / 343.0, gain / (4 * np.pi * distance)))
    return images


def test_histogram_equals_a_triple_loop():
    rate = 128_000
    expected = np.zeros(int(np.ceil(SMALL.rt60 * rate)) + 1)
    for delay, gain in slow_images(SMALL):
        expected[int(delay * rate + 0.5)] += gain
    np.testing.assert_allclose(image_histogram(SMALL, rate), expected, atol=1e-12)


def band_limited(images, times, rate):
    sinc = sum(gain * np.sinc(rate * (times - delay)) for delay, gain in images)
    # The paper's high-pass as a recursion, sample by sample.
    w = 2 * np.pi * 100 / rate
    r = np.exp(-w)
    filtered, y1, y2 = np.zeros_like(sinc), 0.0, 0.0
    for i, x in enumerate(sinc):
        y0 = 2 * r * np.cos(w) * y1 - r * r * y2 + x
        filtered[i] = y0 - (1 + r) * y1 + r * y2
        y1, y2 = y0, y1
    return filtered


def test_response_equals_band_limited_images():
    rate = 16_000
    times = np.arange(-200, int(SMALL.rt60 * rate)) / rate  # sincs begin before their images arrive
    images = slow_images(SMALL)
    rounded = [(np.floor(delay * rate * 8 + 0.5) / (rate * 8), gain) for delay, gain in images]
    response = impulse_response(SMALL, rate)
    assert response.dtype == np.float32
    for oracle, tolerance in ((rounded, 0.005), (images, 0.1)):  # a sixteenth of a sample off at the most
        expected = band_limited(oracle, times, rate)[200:]
        assert np.linalg.norm(response - expected) < tolerance * np.linalg.norm(expected)


def test_direct_path_is_the_peak_at_its_distance():
    room = Room((6, 5, 3), (1, 1, 1.5), (1, 1 + 343 * 100 / 16000, 1.5), rt60=0.3)
    response = impulse_response(room, 16_000)
    assert np.argmax(np.abs(response)) == 100
    assert response[100] == pytest.approx(1 / (4 * np.pi * 2.14375), rel=0.1)
    assert len(response) == 4800


@pytest.mark.parametrize("rt60", [0.2, 0.4, 0.7])
@pytest.mark.parametrize("size", [(4.0, 3.5, 3.0), (8.0, 6.0, 3.5)])
def test_measured_rt60_is_near_the_wanted_one(size, rt60):
    room = Room(size, (1.1, 1.3, 1.2), (2.9, 2.3, 1.8), rt60)
    assert reverberation_time(impulse_response(room, 16_000), 16_000) == pytest.approx(rt60, rel=0.25)


def test_rt60_of_an_exact_exponential():
    times = np.arange(16_000) / 16_000
    noise = np.random.default_rng(0).choice([-1.0, 1.0], times.size)
    assert reverberation_time(noise * 10 ** (-3 * times / 0.35), 16_000) == pytest.approx(0.35, rel=0.01)
    with pytest.raises(ValueError, match="25 dB"):
        reverberation_time(np.ones(100), 16_000)


def test_fast_sizes_are_the_smallest_products():
    products = sorted(odd << power for odd in (1, 3, 5, 9, 15) for power in range(12))
    for length in range(1, 1500):
        assert fast_size(length) == next(size for size in products if size >= length)


def test_reflection_factor_gives_back_eyring():
    beta = reflection_factor((5.0, 4.0, 3.0), 0.4)
    assert 0.161 * 60 / (-94 * np.log(beta**2)) == pytest.approx(0.4, rel=1e-3)


def test_random_rooms_depend_on_the_generator_and_stay_in_range():
    drawn = [random_room(np.random.default_rng(seed), rt60=(0.2, 0.3)) for seed in range(50)]
    assert random_room(np.random.default_rng(3), rt60=(0.2, 0.3)) == drawn[3]
    assert len({room.size for room in drawn}) == 50
    for room in drawn:
        assert 0.2 <= room.rt60 <= 0.3
        for place in (room.source, room.microphone):
            assert all(0.3 <= x <= length - 0.3 for x, length in zip(place, room.size, strict=True))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"size": (0.0, 1, 1)}, "positive"),
        ({"rt60": 0.0}, "positive"),
        ({"source": (9, 1, 1)}, "source at .* is not inside"),
        ({"microphone": (1, 1, -1)}, "microphone at .* is not inside"),
        ({"microphone": (1.0, 0.8, 1.2)}, "both at"),
    ],
)
def test_impossible_rooms_are_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        Room(**(vars(SMALL) | changed))


def test_a_room_takes_30_ms():
    room = Room((6.0, 5.0, 3.0), (1.1, 1.3, 1.2), (2.9, 2.3, 1.8), rt60=0.4)
    times = []
    for _ in range(5):
        start = time.process_time()
        rooms.impulse_response(room, 16_000)
        times.append(time.process_time() - start)
    assert min(times) < 0.03
