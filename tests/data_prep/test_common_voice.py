from __future__ import annotations

import pytest

from audiossl import registry
from audiossl.data.manifest import Manifest

common_voice = registry.get("data_prep", "common_voice")


@pytest.fixture
def corpus(tmp_path):
    common_voice.fake(tmp_path / "corpus")
    return tmp_path / "corpus"


def texts(corpus, out, **settings):
    common_voice.prepare(corpus, out, common_voice.Config(**settings))
    return [sorted(Manifest.open(out / part).column("text")) for part in ("train", "dev", "test")]


def test_spanish_of_mexico(corpus, tmp_path):
    assert texts(corpus, tmp_path / "es") == [["BIEN DIJO", "DÓNDE ESTÁ EL NIÑO"]] * 3
    manifest = Manifest.open(tmp_path / "es" / "train")
    assert list(manifest.ids) == ["0005" * 4 + "-common_voice_es_train0", "0105" * 4 + "-common_voice_es_train1"]
    samples = len(manifest.audio(0, sample_rate=16_000))
    assert 8000 < samples < 8000 + 16 * 60  # what coders add before and after
    assert samples == round(16_000 * manifest.durations[0])


def test_other_accents_and_languages(corpus, tmp_path):
    assert texts(corpus, tmp_path / "andino", accent="andino") == [["VALE"]] * 3
    assert len(texts(corpus, tmp_path / "everybody", accent="")[0]) == 3
    assert texts(corpus, tmp_path / "zh", language="zh-CN") == [["你好世界", "我很好"]] * 3


@pytest.mark.parametrize(
    ("language", "sentence", "text"),
    [
        ("es", "¡Qué  «bueno»—sí!", "QUÉ BUENO SÍ"),
        ("es", "d’Artagnan", "D'ARTAGNAN"),
        ("es", "d\u02bcArtagnan", "D'ARTAGNAN"),
        ("es", "ゴミ箱", ""),
        ("zh-CN", "他们 人々", "他们人々"),
        ("zh-CN", "ㄧ个 人……", "一个人"),
        ("ar", "مَرحبا، يا عالم؟", "مَرحبا يا عالم"),
        ("ar", "مرحبا OK", ""),
        ("es", "…", ""),
        ("fr", "l’été | ﬁn", "L'ÉTÉ FIN"),
        ("es", "d´ía m\u0303a", "D ÍA MA"),
        ("fr", "d´été", "D ÉTÉ"),
        ("gn", "og\u0303a", "OG\u0303A"),
        ("hi", "क्षेत्र।", "क्षेत्र"),
        ("zh-CN", "他说’好", ""),
        ("ar", "مرحبا ' عالم", ""),
    ],
)
def test_texts(language, sentence, text):
    assert common_voice.normalised(sentence, language) == text


def test_accents_of_later_releases(corpus, tmp_path):
    for path in (corpus / "es").glob("*.tsv"):
        text = path.read_text().replace("\taccent\t", "\taccents\t")
        path.write_text(text.replace("mexicano", "México", 1).replace("mexicano", "México|Norte, costa", 1))
    assert texts(corpus, tmp_path / "es") == [["BIEN DIJO", "DÓNDE ESTÁ EL NIÑO"]] * 3
    assert texts(corpus, tmp_path / "norte", accent="Norte") == [["BIEN DIJO"]] * 3
    with pytest.raises(
        ValueError, match='train.tsv: no sentence of a speaker whose accent is rioplatense; .* --prep.accent ""'
    ):
        texts(corpus, tmp_path / "none", accent="rioplatense")


def test_what_is_missing_is_named(corpus, tmp_path):
    (corpus / "es" / "clips" / "common_voice_es_train1.mp3").unlink()
    with pytest.raises(ValueError, match="train.tsv:3: common_voice_es_train1.mp3 is not in clips"):
        common_voice.prepare(corpus, tmp_path / "out")
    listed = corpus / "zh-CN" / "dev.tsv"
    listed.write_text(listed.read_text().replace("sentence", "words"))
    with pytest.raises(ValueError, match="dev.tsv:1: no column 'sentence'"):
        common_voice.prepare(corpus, tmp_path / "zh", common_voice.Config(language="zh-CN"))
    with pytest.raises(ValueError, match="fr/clips: not found"):
        common_voice.prepare(corpus, tmp_path / "fr", common_voice.Config(language="fr"))


def test_damaged_clips_are_named_and_left_out_up_to_a_share(corpus, tmp_path, caplog):
    (corpus / "es" / "clips" / "common_voice_es_dev1.mp3").write_bytes(b"")
    with pytest.raises(ValueError, match="1 of 2 utterances cannot be used, more than max_bad_fraction 0.01 allows"):
        texts(corpus, tmp_path / "strict")
    left = [["BIEN DIJO", "DÓNDE ESTÁ EL NIÑO"], ["DÓNDE ESTÁ EL NIÑO"], ["BIEN DIJO", "DÓNDE ESTÁ EL NIÑO"]]
    assert texts(corpus, tmp_path / "out", max_bad_fraction=0.5) == left
    assert "common_voice_es_dev1.mp3: an empty file; restore the recording or leave it out" in caplog.text
    with pytest.raises(ValueError, match="prep.max_bad_fraction: -1"):
        common_voice.Config(max_bad_fraction=-1.0)
