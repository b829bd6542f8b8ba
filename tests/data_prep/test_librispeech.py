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
    made = {path.parent.name: Manifest.open(path.parent) for path in (tmp_path / "out").rglob("wav.scp")}
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


def test_superb_finds_its_splits(corpus, tmp_path):
    librispeech.prepare(corpus, tmp_path / "partial")
    (tmp_path / "partial").rename(tmp_path / "out")  # as `audiossl prep` does
    for split, part in (("train", "train-clean-100"), ("dev", "dev-clean"), ("test", "test-clean")):
        linked = Manifest.open(tmp_path / "out" / "superb_pr" / split)
        assert list(linked.ids) == list(Manifest.open(tmp_path / "out" / part).ids)


def test_phones_are_looked_up(corpus, tmp_path):
    first, second = tmp_path / "a.txt", tmp_path / "b.txt"
    first.write_text(
        "HE HH IY1\nHOPED HH OW1 P T\nTHERE DH EH1 R\nWOULD W UH1 D\nBE B IY1\nBE B IY0\n", encoding="utf-8"
    )
    second.write_text("STEW S T UW1\nIT'S IH1 T S\nLATE L EY1 T\nHE HH AH0\n", encoding="utf-8")
    config = librispeech.Config(lexicon=(str(first), str(second)))
    librispeech.prepare(corpus, tmp_path / "out", config)
    made = Manifest.open(tmp_path / "out" / "superb_pr" / "dev")
    phones = dict(zip(made.column("text"), made.column("utt2phones"), strict=True))
    assert phones["IT'S LATE"] == "IH1 T S L EY1 T"
    assert phones["HE HOPED THERE WOULD BE STEW"] == "HH IY1 HH OW1 P T DH EH1 R W UH1 D B IY1 S T UW1"
    with pytest.raises(
        ValueError, match=r"^10-1000-0000: 'STEW' is not in the lexicon .*a\.txt; add its pronunciation"
    ):
        librispeech.prepare(corpus, tmp_path / "less", librispeech.Config(lexicon=(str(first),)))


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


def test_other_numbers_than_published_are_told(corpus, tmp_path, caplog):
    librispeech.prepare(corpus, tmp_path / "out")
    (line,) = caplog.messages
    told = "train-clean-100 4 of 28,539, train-clean-360 4 of 104,014, train-other-500 4 of 148,688, dev-clean 4 of 2,703, test-clean 4 of 2,620"
    assert line.partition(" as published: ")[2].partition("; ")[0] == told
