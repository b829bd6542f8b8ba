from __future__ import annotations

import shutil

import pytest

from audiossl import registry
from audiossl.data.manifest import Manifest
from audiossl.data.validate import faults
from audiossl.verification.trials import read_trials

celebrities = registry.get("data_prep", "cn_celeb")


@pytest.fixture
def corpus(tmp_path):
    celebrities.fake(tmp_path / "corpus")
    return tmp_path / "corpus"


def test_parts_and_genres(corpus, tmp_path):
    celebrities.prepare(corpus, tmp_path / "out")
    made = {path.name: Manifest.open(path) for path in (tmp_path / "out").iterdir()}
    assert {name: len(manifest) for name, manifest in made.items()} == {"train": 4, "train2": 4, "test": 6}
    assert next(iter(made["train"].ids)) == "id00000-interview-01-001"
    assert list(made["train"].column("utt2genre")) == ["interview", "singing"] * 2
    speakers = [set(manifest.column("utt2spk")) for manifest in made.values()]
    assert len(set.union(*speakers)) == sum(map(len, speakers))


def test_trials_compare_enrolments_with_tests(corpus, tmp_path):
    celebrities.prepare(corpus, tmp_path / "out")
    trials = read_trials(tmp_path / "out" / "test" / "trials")
    assert (len(trials), trials.labels.sum()) == (8, 4)
    for i, j, label in zip(trials.enrol, trials.test, trials.labels, strict=True):
        assert trials.names[i].endswith("-enroll")
        assert label == (trials.names[i][:7] == trials.names[j][:7])
    assert list(faults(tmp_path / "out" / "test")) == []


def test_the_first_corpus_alone_in_its_older_form(corpus, tmp_path):
    shutil.rmtree(corpus / "CN-Celeb2_flac")
    (corpus / "CN-Celeb_flac").rename(corpus / "CN-Celeb")
    celebrities.prepare(corpus, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"train", "test"}


def test_speakers_that_are_not_listed_are_not_trained_on(corpus, tmp_path):
    (corpus / "CN-Celeb_flac/dev/dev.lst").write_text("id00001\n")
    celebrities.prepare(corpus, tmp_path / "out")
    assert set(Manifest.open(tmp_path / "out" / "train").column("utt2spk")) == {"id00001"}


def test_listed_speakers_without_a_folder_are_named_and_left_out(corpus, tmp_path, caplog):
    (corpus / "CN-Celeb_flac/dev/dev.lst").write_text("id00000\nid00007\nid00001\nid00009\n")
    celebrities.prepare(corpus, tmp_path / "out")
    assert set(Manifest.open(tmp_path / "out" / "train").column("utt2spk")) == {"id00000", "id00001"}
    (line,) = caplog.messages
    assert line.endswith("data: 2 of 4 speakers of dev.lst have no folder: id00007 id00009")


def test_recordings_that_an_enrolment_is_made_of(corpus, tmp_path):
    first = corpus / "CN-Celeb_flac"
    for speaker in ("id00800", "id00801"):
        shutil.copytree(first / "data" / "id00000", first / "data" / speaker)
    listed = "id00800-enroll id00800/singing-01-001.wav id00800/interview-01-001.wav\nid00801-enroll id00801/singing-01-001.wav\n"
    (first / "eval/lists/enroll.map").write_text(listed)
    celebrities.prepare(corpus, tmp_path / "out")
    test = tmp_path / "out" / "test"
    assert len(Manifest.open(test)) == 6 + 3
    models = "id00800-enroll id00800-singing-01-001 id00800-interview-01-001\nid00801-enroll id00801-singing-01-001\n"
    assert (test / "enroll.map").read_text() == models
    assert list(faults(test)) == []
    shutil.rmtree(first / "data" / "id00801")
    with pytest.raises(ValueError, match=r"enroll\.map: id00801/singing-01-001\.wav is not among the recordings"):
        celebrities.prepare(corpus, tmp_path / "again")


def test_faults_are_named(corpus, tmp_path):
    (corpus / "CN-Celeb_flac/eval/test/id00800-drama-01-002.flac").unlink()
    with pytest.raises(ValueError, match=r"trials\.lst:1: test/id00800-drama-01-002\.wav is not among the recordings"):
        celebrities.prepare(corpus, tmp_path / "a")
    (corpus / "CN-Celeb_flac/dev/dev.lst").write_text("id00007\n")
    with pytest.raises(ValueError, match="none of the 1 speakers of dev.lst has a folder; unpack it again"):
        celebrities.prepare(corpus, tmp_path / "b")
    (corpus / "CN-Celeb_flac/data/id00007").mkdir()
    with pytest.raises(ValueError, match="id00007: holds no .flac or .wav"):
        celebrities.prepare(corpus, tmp_path / "b")
    shutil.rmtree(corpus / "CN-Celeb_flac/eval/lists")
    with pytest.raises(ValueError, match=r"trials\.lst: not found"):
        celebrities.prepare(corpus, tmp_path / "c")
    with pytest.raises(ValueError, match="CN-Celeb_flac: not found"):
        celebrities.prepare(corpus / "CN-Celeb_flac", tmp_path / "d")
