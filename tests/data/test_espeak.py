from __future__ import annotations

import importlib.metadata
import os
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

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


@pytest.fixture
def not_installed(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))


def test_where_the_engine_is_not_installed_its_wheel_is_fetched_once(not_installed, tmp_path, capsys):
    package = Path(importlib.metadata.distribution("espeakng-loader").locate_file("espeakng_loader"))
    with zipfile.ZipFile(tmp_path / "espeakng_loader-0.2.4-py3-none-any.whl", "w") as wheel:
        for path in package.rglob("*"):
            wheel.write(path, path.relative_to(package.parent))
        about = "espeakng_loader-0.2.4.dist-info"
        wheel.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: espeakng-loader\nVersion: 0.2.4\n")
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{about}/RECORD", "")
    for _ in range(2):
        with Synthesiser() as synthesiser:
            assert len(synthesiser.speak(SECOND).samples) > 0
    said = capsys.readouterr().err
    assert said.count("pip fetches espeakng-loader==0.2.4 (GPL-3) into") == 1
    assert [path.name for path in (tmp_path / "cache" / "audiossl").iterdir()] == ["espeakng-loader==0.2.4"]


def test_where_it_cannot_be_fetched_one_line_names_the_cure(not_installed, tmp_path):
    with pytest.raises(
        ValueError, match=r"pip cannot fetch espeakng-loader.*pip install .*'audiossl\[synth\]'"
    ) as caught:
        Synthesiser()
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "cache").rglob("*.partial"))
