from __future__ import annotations

import pytest

from audiossl import registry
from audiossl.data.manifest import Manifest

vcc2020 = registry.get("data_prep", "vcc2020")


@pytest.fixture
def corpus(tmp_path):
    vcc2020.fake(tmp_path / "corpus")
    return tmp_path / "corpus"


def test_parts_are_of_their_speakers_and_point_at_the_target(corpus, tmp_path):
    vcc2020.prepare(corpus, tmp_path / "out")
    found = {part: Manifest.open(tmp_path / "out" / part) for part in ("train", "dev", "test", "reference")}
    assert {part: len(manifest) for part, manifest in found.items()} == {
        "train": 2,
        "dev": 10,
        "test": 8,
        "reference": 2,
    }
    assert list(found["train"].ids) == ["TEF1-E10060", "TEF1-E20001"]
    assert list(found["dev"].ids) == [f"TEF1-E100{number}" for number in range(61, 71)]
    assert set(found["test"].column("utt2spk")) == {"SEF1", "SEF2", "SEM1", "SEM2"}
    for name, manifest in found.items():
        for utterance, target in zip(manifest.ids, manifest.column("utt2target"), strict=True):
            assert target == str(corpus / "TEF1" / f"{utterance.partition('-')[2]}.wav"), name
    assert set(found["test"].column("text")) == {"This is sentence 01.", "This is sentence 02."}
    assert not (tmp_path / "out" / "dev" / "text").exists()  # of which the prompts lack some
    assert len(found["test"].audio(0, sample_rate=24_000)) == 12_000


def test_what_is_missing_is_named(corpus, tmp_path):
    (corpus / "SEM1" / "E30002.wav").unlink()
    with pytest.raises(ValueError, match="SEM1/E30002.wav: not there, but .*TEF1/E30002.wav is"):
        vcc2020.prepare(corpus, tmp_path / "out")
    with pytest.raises(ValueError, match="TEM1: not found"):
        vcc2020.prepare(corpus, tmp_path / "out", vcc2020.Config(target="TEM1"))
    with pytest.raises(ValueError, match="12 sentences to learn from, 12 of them for dev, and 2 of the evaluation"):
        vcc2020.prepare(corpus, tmp_path / "out", vcc2020.Config(dev=12))
    for path in (corpus / "TEF1").glob("E3*"):
        path.unlink()
    with pytest.raises(ValueError, match="and 0 of the evaluation .* add the ground truth"):
        vcc2020.prepare(corpus, tmp_path / "out")
