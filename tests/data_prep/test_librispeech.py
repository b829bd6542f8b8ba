from __future__ import annotations

import pytest

from audiossl import registry
from audiossl.data.manifest import Manifest

librispeech = registry.get("data_prep", "librispeech")


@pytest.fixture
def corpus(tmp_path):
    librispeech.fake(tmp_path)
    return tmp_path / "LibriSpeech"


def test_parts_and_the_union_of_training_parts(corpus, tmp_path):
    librispeech.prepare(corpus.parent, tmp_path / "out")  # the folder above is taken, too
    made = {path.name: Manifest.open(path) for path in (tmp_path / "out").iterdir()}
    training = ["train-clean-100", "train-clean-360", "train-other-500"]
    assert set(made) == {*training, "dev-clean", "test-clean", "train-960"}
    assert all(len(made[part]) == 4 for part in training)
    assert sorted(made["train-960"].ids) == sorted(name for part in training for name in made[part].ids)
    assert not set(made["dev-clean"].column("utt2spk")) & set(made["train-960"].column("utt2spk"))


def test_an_utterance(corpus, tmp_path):
    librispeech.prepare(corpus, tmp_path / "out", librispeech.Config(parts=("dev-clean",)))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["dev-clean"]
    made = Manifest.open(tmp_path / "out/dev-clean")
    index = list(made.ids).index("310-1003-0001")
    assert made.column("text")[index] == "IT'S LATE"
    assert made.column("utt2spk")[index] == "310"
    assert made.column("utt2gender")[index] == "m"
    assert len(made.audio(index, sample_rate=16000)) == 40000


def test_faults_are_named(corpus, tmp_path):
    with pytest.raises(ValueError, match="'dev-dirty' is no part"):
        librispeech.Config(parts=("dev-dirty",))
    with pytest.raises(ValueError, match="dev-other: not found"):
        librispeech.prepare(corpus, tmp_path / "out", librispeech.Config(parts=("dev-other",)))
    chapter = corpus / "dev-clean/310/1003"
    (chapter / "310-1003-0000.flac").rename(chapter / "310-1003-0002.flac")
    with pytest.raises(ValueError, match=r"310-1003\.trans\.txt:1: 310-1003-0000\.flac is not beside it"):
        librispeech.prepare(corpus, tmp_path / "out1")
    lines = (chapter / "310-1003.trans.txt").read_text(encoding="utf-8").splitlines()
    (chapter / "310-1003.trans.txt").write_text(lines[1] + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"has no line for 310-1003-0002\.flac"):
        librispeech.prepare(corpus, tmp_path / "out2")
    (chapter / "310-1003.trans.txt").unlink()
    with pytest.raises(ValueError, match=r"310-1003\.trans\.txt: not found"):
        librispeech.prepare(corpus, tmp_path / "out3")


def test_speakers_must_be_listed(corpus, tmp_path):
    listed = corpus / "SPEAKERS.TXT"
    text = listed.read_text(encoding="utf-8")
    listed.write_text(text.replace("\n39   |", "\n40   |"), encoding="utf-8")
    with pytest.raises(ValueError, match="speaker 39 is not in SPEAKERS"):
        librispeech.prepare(corpus, tmp_path / "out1")
    listed.write_text(text.replace("| F |", "| x |"), encoding="utf-8")
    with pytest.raises(ValueError, match=r"SPEAKERS\.TXT:2: not `speaker"):
        librispeech.prepare(corpus, tmp_path / "out2")
    listed.unlink()
    with pytest.raises(ValueError, match=r"SPEAKERS\.TXT: not found"):
        librispeech.prepare(corpus, tmp_path / "out3")
