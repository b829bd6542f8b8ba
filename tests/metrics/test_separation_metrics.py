"""SI-SDR against its formula; PESQ and STOI, where their packages are there, against known properties."""

from __future__ import annotations

import importlib.util
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from audiossl.metrics.pesq import pesq
from audiossl.metrics.si_sdr import si_sdr
from audiossl.metrics.stoi import stoi

needs_pesq = pytest.mark.skipif(importlib.util.find_spec("pesq") is None, reason="PESQ needs the extra `enh`")
needs_stoi = pytest.mark.skipif(importlib.util.find_spec("pystoi") is None, reason="STOI needs the extra `enh`")


def speech(seed=0, seconds=2):
    """Noise in bursts, as syllables are."""
    rng = np.random.default_rng(seed)
    level = np.repeat(rng.uniform(0.0, 0.3, 10 * seconds), 1600)
    return (rng.standard_normal(16_000 * seconds) * level).astype(np.float32)


def by_hand(estimate, reference):
    scale = sum(e * r for e, r in zip(estimate, reference, strict=True)) / sum(r * r for r in reference)
    signal = sum((scale * r) ** 2 for r in reference)
    noise = sum((scale * r - e) ** 2 for e, r in zip(estimate, reference, strict=True))
    return 10 * np.log10(signal / noise)


def test_it_is_the_ratio_of_its_definition():
    rng = np.random.default_rng(0)
    for _ in range(5):
        estimate, reference = rng.standard_normal((2, 50)) + 0.3
        assert si_sdr(estimate, reference) == pytest.approx(by_hand(estimate.tolist(), reference.tolist()))
        assert si_sdr(-3.0 * estimate, reference) == pytest.approx(si_sdr(estimate, reference))


def test_known_ratio():
    reference = np.array([1.0, -1.0, 1.0, -1.0])
    noise = np.array([1.0, 1.0, -1.0, -1.0])  # orthogonal, of the same power
    assert si_sdr(reference + 0.1 * noise, reference) == pytest.approx(20.0)


def test_ends_of_the_scale():
    reference = speech()
    assert si_sdr(2 * reference, reference) == pytest.approx(100.0)
    assert si_sdr(np.zeros_like(reference), reference) == -100.0
    assert si_sdr(np.array([0.0, 1.0]), np.array([1.0, 0.0])) == -100.0
    with pytest.raises(ValueError, match="reference of 4 samples is silent"):
        si_sdr(np.ones(4), np.zeros(4))
    with pytest.raises(ValueError, match="shape"):
        si_sdr(np.ones(4), np.ones(3))


@needs_pesq
def test_pesq_falls_with_noise_and_has_ends():
    reference, noise = speech(), np.random.default_rng(1).standard_normal(32_000).astype(np.float32)
    values = [pesq(reference + level * noise, reference, 16_000) for level in (0.0, 0.003, 0.1)]
    assert values[0] == pytest.approx(4.644, abs=1e-3)
    assert 4.6 > values[1] > values[2] > 1.0
    assert pesq(np.zeros_like(reference), reference, 16_000) == 1.0


@needs_pesq
def test_pesq_names_what_it_cannot_use():
    reference = speech()
    with pytest.raises(ValueError, match="at 16000 Hz, not 8000"):
        pesq(reference, reference, 8000)
    with pytest.raises(ValueError, match="cannot judge 2000 samples .Buffer needs to be at least 1/4"):
        pesq(reference[:2000], reference[:2000], 16_000)
    with pytest.raises(ValueError, match="cannot use a reference of 2000 samples"):
        pesq(np.zeros(2000), reference[:2000], 16_000)
    with pytest.raises(ValueError, match="a reference of 32000 samples is silent"):
        pesq(reference, np.zeros_like(reference), 16_000)


def test_an_estimate_without_speech_has_the_lowest_score(monkeypatch):
    class PesqError(RuntimeError):
        pass

    class NoUtterancesError(PesqError):
        pass

    def measured(_, reference, estimate, mode):
        assert mode == "wb"
        if not (np.any(np.abs(reference) > 0.1) and np.any(np.abs(estimate) > 0.1)):
            raise NoUtterancesError(b"No utterances detected")
        return 3.0

    package = SimpleNamespace(PesqError=PesqError, NoUtterancesError=NoUtterancesError, pesq=measured)
    monkeypatch.setitem(sys.modules, "pesq", package)
    reference = speech()
    assert pesq(reference, reference, 16_000) == 3.0
    assert pesq(1e-4 * reference, reference, 16_000) == 1.0
    with pytest.raises(ValueError, match="cannot use a reference of 32000 samples .No utterances detected"):
        pesq(reference, 1e-4 * reference, 16_000)


@needs_stoi
def test_stoi_is_in_percent_and_falls_with_noise():
    reference, noise = speech(), np.random.default_rng(1).standard_normal(32_000)
    values = [stoi(reference + level * noise, reference, 16_000) for level in (0.0, 0.1, 1.0)]
    assert values[0] == pytest.approx(100.0)
    assert values[0] > values[1] > values[2]
    assert stoi(np.zeros_like(reference), reference, 16_000) < 1.0


@needs_stoi
def test_stoi_names_a_reference_that_is_too_short():
    with pytest.raises(ValueError, match="less than 0.4 s of speech"):
        stoi(speech()[:3000], speech()[:3000], 16_000)


@needs_stoi
@pytest.mark.parametrize("samples", [1, 400, 410])
def test_stoi_names_a_reference_without_a_frame(samples):
    with pytest.raises(ValueError, match=f"a reference of {samples} samples has less than 0.4 s of speech"):
        stoi(speech()[-samples:], speech()[-samples:], 16_000)


@pytest.mark.parametrize(
    "metric",
    [
        si_sdr,
        pytest.param(lambda *pair: pesq(*pair, 16_000), marks=needs_pesq),
        pytest.param(lambda *pair: stoi(*pair, 16_000), marks=needs_stoi),
    ],
    ids=["si_sdr", "pesq", "stoi"],
)
def test_what_cannot_be_measured_is_no_number(metric):
    good, silent, broken = speech(), np.zeros(32_000, np.float32), speech()
    broken[7] = np.nan
    for estimate, reference, message in (
        (silent, silent, "a reference of 32000 samples is silent; leave it out"),
        (broken, good, "sample 7 of the estimate is nan"),
        (good, broken, "sample 7 of the reference is nan"),
        (good[1:], good, r"an estimate of shape \(31999,\) for a reference of shape \(32000,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            metric(estimate, reference)


@pytest.mark.parametrize(("metric", "package"), [(pesq, "pesq"), (stoi, "pystoi")])
def test_a_missing_package_is_named(monkeypatch, metric, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=rf"needs the package {package}; pip install 'audiossl\[enh\]'"):
        metric(speech(), speech(), 16_000)
