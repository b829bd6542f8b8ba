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


def test_words_are_counted_before_marks_join_them(corpus, tmp_path):
    listed = corpus / "covost_v2.en_de.tsv"
    listed.write_text(listed.read_text("utf-8").replace("Wo ist die Lampe?", " ".join(["Lampe"] * 22)), "utf-8")
    covost2.prepare(corpus, tmp_path / "out")  # `Where is the lamp ?` are five words
    assert "Where is the lamp?" in Manifest.open(tmp_path / "out" / "dev").column("text")


@pytest.mark.parametrize("language", ["zh-CN", "ja"])
@pytest.mark.parametrize("side", ["source", "target"])
def test_words_are_not_counted_where_a_language_has_no_spaces(corpus, tmp_path, language, side, caplog):
    if side == "source":
        (corpus / "en").rename(corpus / language)
    listed = corpus / "covost_v2.en_de.tsv"
    config = covost2.Config(**{side: language})
    listed.rename(corpus / f"covost_v2.{config.source}_{config.target}.tsv")
    covost2.prepare(corpus, tmp_path / "out", config)
    assert "Yes." in Manifest.open(tmp_path / "out" / "dev").column("text")
    assert not covost2.is_pair("a", "", spaced=False)
    assert caplog.text == ""


def test_how_many_are_left_out_is_said(corpus, tmp_path, caplog):
    (corpus / "en" / "clips" / "common_voice_en_dev0.mp3").unlink()
    covost2.prepare(corpus, tmp_path / "out")
    assert "covost_v2.en_de.tsv: pairs left out because a side is empty or much longer than the other: 4" in caplog.text
    assert "covost_v2.en_de.tsv: pairs left out because the clip is not there: 1" in caplog.text


def test_damaged_clips_are_named_and_left_out_up_to_a_share(corpus, tmp_path, caplog):
    for name, content in (("train0", b""), ("train1", b"no audio")):
        (corpus / "en" / "clips" / f"common_voice_en_{name}.mp3").write_bytes(content)
    with pytest.raises(ValueError, match="1 of 6 utterances cannot be used, more than max_bad_fraction 0.01 allows"):
        covost2.prepare(corpus, tmp_path / "strict")
    covost2.prepare(corpus, tmp_path / "out", covost2.Config(max_bad_fraction=0.4))
    assert [len(Manifest.open(tmp_path / "out" / part)) for part in ("train", "dev", "test")] == [4, 3, 3]
    assert "left out 0005000000000000-common_voice_en_train0: " in caplog.text
    assert "common_voice_en_train0.mp3: an empty file" in caplog.text
    assert "common_voice_en_train1.mp3: no readable audio" in caplog.text
    with pytest.raises(ValueError, match="prep.max_bad_fraction: 2"):
        covost2.Config(max_bad_fraction=2.0)


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
