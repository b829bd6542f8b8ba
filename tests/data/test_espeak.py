from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest

from audiossl.data.espeak import Request, Synthesiser

pytest.importorskip("espeakng_loader", reason="synthesis needs the extra `synth`")

FIRST = Request("the old ship left the harbour, because it was late.", "en+f2", pitch=40, rate=160)
SECOND = Request("seven.", "en+m3")


def test_the_same_samples_in_any_order_and_process():
    with Synthesiser() as synthesiser:
        forwards = [synthesiser.speak(request) for request in (FIRST, SECOND, FIRST)]
    with Synthesiser() as synthesiser:
        backwards = [synthesiser.speak(request) for request in (SECOND, FIRST)]
    for ours, theirs in zip(forwards, [backwards[1], backwards[0], backwards[1]], strict=True):
        np.testing.assert_array_equal(ours.samples, theirs.samples)
        assert ours.phones == theirs.phones


def test_phones_of_a_word():
    with Synthesiser() as synthesiser:
        speech = synthesiser.speak(SECOND)
    assert "".join(phone for _, phone in speech.phones) == "sɛvən"
    starts = [start for start, _ in speech.phones]
    assert starts == sorted(starts)
    assert starts[-1] <= len(speech.samples)
    assert 0.3 < len(speech.samples) / speech.sample_rate < 0.7


def test_settings_are_heard():
    with Synthesiser() as synthesiser:
        plain, slow, high, other = (
            synthesiser.speak(request).samples
            for request in (FIRST, replace(FIRST, rate=100), replace(FIRST, pitch=90), replace(FIRST, voice="en+m3"))
        )
    assert len(slow) > 1.3 * len(plain)
    for changed in (high, other):
        assert changed.shape != plain.shape or (changed != plain).any()


def test_what_cannot_be_said_is_an_error_and_the_next_sentence_is_not():
    with Synthesiser() as synthesiser:
        with pytest.raises(ValueError, match="no voice variant 'nobody'"):
            synthesiser.speak(replace(FIRST, voice="en+nobody"))
        with pytest.raises(ValueError, match="no voice 'xx'"):
            synthesiser.speak(replace(FIRST, voice="xx"))
        assert len(synthesiser.speak(SECOND).samples) > 0


def test_without_the_engine(monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(ValueError, match=r"pip install 'audiossl\[synth\]'"):
        Synthesiser()
