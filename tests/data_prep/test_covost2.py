from __future__ import annotations

import pytest

from audiossl import registry
from audiossl.data.manifest import Manifest

covost2 = registry.get("data_prep", "covost2")


@pytest.fixture
def corpus(tmp_path):
    covost2.fake(tmp_path / "corpus")
    return tmp_path / "corpus"


def test_sentences_have_their_translations(corpus, tmp_path):
    covost2.prepare(corpus, tmp_path / "out")
    pairs = {
        ("Where is the lamp?", "Wo ist die Lampe?"),
        ('He said: "Good".', '"Gut", sagte er.'),
        ("Come in.", "Komm herein."),
    }
    for part, count in (("train", 6), ("dev", 3), ("test", 3)):
        manifest = Manifest.open(tmp_path / "out" / part)
        assert len(manifest) == count
        assert set(zip(manifest.column("text"), manifest.column("utt2translation"), strict=True)) == pairs
    assert manifest.ids[0] == "000400000000" + "0000-common_voice_en_test0"
    assert len(manifest.audio(0, sample_rate=16_000)) == 8000


@pytest.mark.parametrize(
    ("text", "translation", "kept"),
    [
        ("a", "b", True),
        ("a", "b c d e f", True),
        ("a", "b c d e f g", False),
        ("a b c d e f", "g", False),
        ("", "b", False),
        ("a", "", False),
    ],
)
def test_what_is_a_pair(text, translation, kept):
    assert covost2.is_pair(text, translation) == kept


def test_a_clip_that_is_not_there_is_left_out_and_none_at_all_is_named(corpus, tmp_path):
    (corpus / "en" / "clips" / "common_voice_en_dev0.mp3").unlink()
    covost2.prepare(corpus, tmp_path / "out")
    assert len(Manifest.open(tmp_path / "out" / "dev")) == 2
    for path in (corpus / "en" / "clips").glob("*_test*"):
        path.unlink()
    with pytest.raises(
        ValueError, match=r"none of the clips that covost_v2.en_de.tsv puts in test; give Common Voice 4"
    ):
        covost2.prepare(corpus, tmp_path / "other")


def test_what_is_missing_is_named(corpus, tmp_path):
    with pytest.raises(ValueError, match="covost_v2.en_tr.tsv: not found"):
        covost2.prepare(corpus, tmp_path / "out", covost2.Config(target="tr"))
    listed = corpus / "covost_v2.en_de.tsv"
    listed.write_text(listed.read_text().replace("translation", "words"))
    with pytest.raises(ValueError, match="covost_v2.en_de.tsv:1: no column 'translation'"):
        covost2.prepare(corpus, tmp_path / "out")
