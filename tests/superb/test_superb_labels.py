"""What identifies the data of a score: its utterances and the labels that the task reads, not where they lie nor what others read."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import pytest
from frame_runs import make_corpus

from audiossl import registry
from audiossl.superb.labels import Labels
from audiossl.superb.run import load_job
from audiossl.tasks.query_by_example import LISTED, RELEVANT


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture
def data(corpus, tmp_path):
    shutil.copytree(corpus, tmp_path / "data")
    return tmp_path / "data"


def labels(task, **settings):
    cls = registry.get("tasks", task)
    return Labels(cls, cls.Config(**settings), SimpleNamespace())


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize("part", ["train", "dev", "test"])
def test_a_corrected_label_makes_other_data(data, part):
    asr, pr = labels("speech_recognition"), labels("phone_recognition")
    before = asr.digest(data), pr.digest(data)
    edit(data / part / "text", f"{part}1 no", f"{part}1 so")
    (data / part / "utt2mood").write_text("nobody reads this\n")
    assert (asr.digest(data) != before[0], pr.digest(data) != before[1]) == (True, False)


def test_digests_of_parts_say_which_changed(data):
    asr = labels("speech_recognition")
    before = asr.part_digests(data, ("train", "dev"))
    edit(data / "dev" / "text", "dev1 no", "dev1 so")
    after = asr.part_digests(data, ("train", "dev"))
    assert [part for part in before if before[part] != after[part]] == ["dev"]


def test_an_utterance_without_a_label_and_one_more(data):
    asr = labels("speech_recognition")
    before = asr.digest(data)
    edit(data / "train" / "text", "train1 no\n", "")
    assert asr.digest(data) != before


def test_trials_of_verification(data):
    asv = labels("speaker_verification", column="text")
    with pytest.raises(ValueError, match=r"dev/trials: no such file, and this task is scored by it; write it"):
        asv.check(data)
    for part in ("dev", "test"):
        (data / part / "trials").write_text(f"{part}0 {part}1 target\n")
    asv.check(data)
    before = asv.digest(data)
    (data / "test" / "trials").write_text("test0 test1 nontarget\n")
    assert asv.digest(data) != before


def test_what_queries_are_searched_for(data):
    for part, name in (("train", "documents"), ("dev", "queries_dev"), ("test", "queries_eval")):
        (data / part).rename(data / name)
        (data / name / RELEVANT).write_text("a b\n")
    (data / "queries_dev" / RELEVANT).unlink()
    qbe = labels("query_by_example")
    with pytest.raises(ValueError, match="queries_dev/relevant: no such file"):
        qbe.check(data)
    (data / "queries_dev" / RELEVANT).write_text("a b\n")
    qbe.check(data)
    found = {qbe.digest(data)}
    (data / "queries_eval" / RELEVANT).write_text("a c\n")
    found.add(qbe.digest(data))
    (data / "documents" / LISTED).write_text("b\nc\n")
    found.add(qbe.digest(data))
    assert len(found) == 3


def test_the_words_of_a_lexicon(data, tmp_path, monkeypatch):
    (tmp_path / "words.txt").write_text("yes Y EH1 S\n")
    monkeypatch.chdir(tmp_path)
    pr = labels("phone_recognition", column="text", lexicon=("words.txt",))
    before = pr.digest(data)
    pr.check(data)
    (tmp_path / "words.txt").write_text("yes Y EH0 S\n")
    assert pr.digest(data) != before
    (tmp_path / "words.txt").unlink()
    with pytest.raises(ValueError, match=r"words\.txt: no such file"):
        pr.check(data)


def test_recordings_that_are_labels_may_lie_elsewhere_but_be_no_others(data):
    se = labels("enhancement")
    (column,) = se.names("train")
    found = []
    for place in ("/here/clean", "/there/clean", "/here/noisy"):
        (data / "train" / column).write_text("".join(f"train{k} {place}/{k}.wav\n" for k in range(10)))
        found.append(se.part_digests(data, ("train",))["train"])
    assert found[0] == found[1] != found[2]


def test_directories_and_columns_by_runner():
    er, callers, ks = (load_job(name).labels for name in ("er", "callers", "ks"))
    assert er.parts == callers.parts == ("all",)
    assert er.names("all") == ("utt2emotion", "utt2session")
    assert callers.names("all") == ("utt2caller",)
    assert ks.parts == ("train", "dev", "test")


def test_every_recipe_says_what_it_reads():
    for name in ("pr", "asr", "sd", "sf", "ic", "ss", "st", "vc", "marble_gtzan_genre"):
        asked = load_job(name).labels
        assert all(asked.names(part) for part in asked.parts)
