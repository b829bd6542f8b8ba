from __future__ import annotations

import shutil
from collections import Counter

import pytest

from audiossl import registry
from audiossl.data.audio import read_audio
from audiossl.data.manifest import Manifest

iemocap = registry.get("data_prep", "iemocap")


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    root = tmp_path_factory.mktemp("iemocap") / "corpus"
    root.mkdir()
    iemocap.fake(root)
    return root


@pytest.fixture
def corpus(original, tmp_path):
    return shutil.copytree(original, tmp_path / "corpus")


def test_four_emotions_of_five_sessions(original, tmp_path):
    iemocap.prepare(original, tmp_path)
    made = Manifest.open(tmp_path / "all")
    assert Counter(made.column("utt2emotion")) == {"neu": 10, "hap": 10, "ang": 5, "sad": 5}
    assert Counter(made.column("utt2session")) == {f"Session{number}": 6 for number in range(1, 6)}
    assert set(made.column("utt2spk")) == {f"Ses0{number}{gender}" for number in range(1, 6) for gender in "FM"}
    index = list(made.ids).index("Ses03M-Ses03F_impro01_M001")
    assert made.column("utt2emotion")[index] == "hap"
    assert made.column("utt2dialogue")[index] == "Ses03F_impro01"
    path = original / "Session3/sentences/wav/Ses03F_impro01/Ses03F_impro01_M001.wav"
    assert (made.audio(index, sample_rate=16000) == read_audio(path)).all()


def test_the_folder_above_and_what_other_systems_leave_behind(corpus, tmp_path):
    above = tmp_path / "above"
    above.mkdir()
    corpus.rename(above / "IEMOCAP_full_release")
    evaluation = above / "IEMOCAP_full_release" / "Session1" / "dialog" / "EmoEvaluation"
    (evaluation / "._Ses01F_impro01.txt").write_bytes(b"\x00\x05\x16\x07 not text \xff")
    (evaluation / "Attribute").mkdir()
    iemocap.prepare(above, tmp_path / "out")
    assert len(Manifest.open(tmp_path / "out" / "all")) == 30


def test_faults_are_named_with_file_and_line(corpus, tmp_path):
    (corpus / "Session2/sentences/wav/Ses02F_impro01/Ses02F_impro01_M001.wav").unlink()
    with pytest.raises(ValueError, match=r"Ses02F_impro01\.txt:6: 'Ses02F_impro01_M001' has no recording"):
        iemocap.prepare(corpus, tmp_path / "a")
    rated = corpus / "Session1/dialog/EmoEvaluation/Ses01F_impro01.txt"
    rated.write_text(rated.read_text().replace("Ses01F_impro01_F000", "Ses01X_impro01_F000"))
    with pytest.raises(ValueError, match=r"Ses01F_impro01\.txt:3: 'Ses01X_impro01_F000' is no name of a turn"):
        iemocap.prepare(corpus, tmp_path / "b")
    rated.unlink()
    with pytest.raises(ValueError, match=r"EmoEvaluation: holds no Ses\*\.txt"):
        iemocap.prepare(corpus, tmp_path / "c")
    shutil.rmtree(corpus / "Session5")
    with pytest.raises(ValueError, match="Session5/dialog/EmoEvaluation: not found"):
        iemocap.prepare(corpus, tmp_path / "d")


def test_other_numbers_than_published_are_told(corpus, tmp_path, caplog):
    iemocap.prepare(corpus, tmp_path / "out")
    (line,) = caplog.messages
    told = "all 30 of 5,531"
    assert line.partition(" as published: ")[2].partition("; ")[0] == told
