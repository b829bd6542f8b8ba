"""What identifies the data of a score: its utterances and the labels that the task reads, not where they lie nor what others read."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from frame_runs import add_noise, copied, make_corpus

from audiossl import registry
from audiossl.data.audio import read_audio, write_audio
from audiossl.data.excerpts import file_excerpt
from audiossl.data.manifest import Manifest
from audiossl.data.shards import write_shards
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


def test_other_audio_is_other_data_and_a_copy_is_not(corpus, tmp_path):
    asr = labels("speech_recognition")
    same, noisy = (copied(corpus, tmp_path / name) for name in ("same", "noisy"))
    add_noise((noisy / "audio").glob("dev*.wav"))
    before, after = (asr.part_digests(place, asr.parts) for place in (same, noisy))
    assert before == asr.part_digests(corpus, asr.parts)
    assert [part for part in before if before[part] != after[part]] == ["dev"]


def test_other_audio_in_shards(corpus, tmp_path):
    noisy = copied(corpus, tmp_path / "noisy")
    add_noise((noisy / "audio").glob("dev*.wav"))
    found = []
    for name, source in (("one", corpus), ("same", corpus), ("other", noisy)):
        write_shards(Manifest.open(source / "dev"), tmp_path / name / "dev")
        found.append(labels("speech_recognition").part_digests(tmp_path / name, ("dev",))["dev"])
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize("entry", ["cat {} |", "/gone/{}.wav"])
def test_programs_and_missing_recordings_have_a_digest(data, entry):
    asr = labels("speech_recognition")
    table = data / "dev" / "wav.scp"
    table.write_text("".join(f"dev{number} {entry.format(number)}\n" for number in range(4)))
    before = asr.digest(data)
    table.write_text(table.read_text().replace("cat", "tac"))
    assert (asr.digest(data) != before) is entry.startswith("cat")


def test_other_pieces_of_recordings(data):
    asr = labels("speech_recognition")
    found = []
    for start in (0.0, 0.25):
        (data / "dev" / "segments").write_text(
            "".join(f"dev{number} dev{number} {start} {start + 0.5}\n" for number in range(4))
        )
        found.append(asr.digest(data))
    assert found[0] != found[1]


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
        (data / part / "trials").write_text(f"{part}0 {part}1 target\n{part}0 {part}2 nontarget\n")
    asv.check(data)
    before = asv.digest(data)
    (data / "test" / "trials").write_text("test0 test1 nontarget\ntest0 test2 target\n")
    assert asv.digest(data) != before


def test_what_writes_phones_is_told_where_there_are_none(data):
    (data / "dev" / "utt2phones").unlink()
    with pytest.raises(ValueError, match=r"dev/utt2phones: no such file; `audiossl prep librispeech --prep\.lexicon"):
        labels("phone_recognition").check(data)


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
    others = "no N OW1\non AA1 N\nso S OW1\n"
    (tmp_path / "words.txt").write_text(f"yes Y EH1 S\n{others}")
    monkeypatch.chdir(tmp_path)
    pr = labels("phone_recognition", column="text", lexicon=("words.txt",))
    before = pr.digest(data)
    pr.check(data)
    (tmp_path / "words.txt").write_text(f"yes Y EH0 S\n{others}")
    assert pr.digest(data) != before
    (tmp_path / "words.txt").unlink()
    with pytest.raises(ValueError, match=r"words\.txt: no such file"):
        pr.check(data)


def test_a_word_of_test_alone_changes_nothing_that_heads_learn_from(data, tmp_path):
    lexicon = tmp_path / "words.txt"
    lexicon.write_text("yes Y EH1 S\nno N OW1\non AA1 N\nso S OW1\n")
    edit(data / "test" / "text", "test1 no", "test1 nope")
    pr = labels("phone_recognition", column="text", lexicon=(str(lexicon),))
    with pytest.raises(ValueError, match=r"^'nope' is not in the lexicon .*words\.txt; add its pronunciation"):
        pr.check(data)
    before = pr.part_digests(data, pr.parts)
    lexicon.write_text(f"{lexicon.read_text()}nope N OW1 P\nother AH1\n")
    pr.check(data)
    after = pr.part_digests(data, pr.parts)
    assert [part for part in before if before[part] != after[part]] == ["test"]


@pytest.mark.parametrize(
    ("task", "settings", "name", "lines", "said"),
    [
        ("speech_recognition", {}, "text", "test0 yes no\ntest2 so yes\n", "text: no line for utterance 'test1'; add it"),
        (
            "speaker_verification", {}, "trials", "test0 test1 target\ntest0 test9 nontarget\n",
            "trials:2: 'test9' is no utterance of this directory; correct the line",
        ),
        ("speaker_verification", {}, "trials", "test0 test1\n", "trials:1: not `enrol test target|nontarget`"),
        (
            "speaker_verification", {}, "trials", "test0 test1 nontarget\n",
            "test/trials: has no target trial, and an error rate needs both kinds; add some",
        ),
        ("slot_filling", {}, "utt2slots", "test0 a B-x\ntest1 b\ntest2 B-x E-x\n", "test/utt2slots: no slot has a value"),
        (
            "speech_translation", {"column": "text"}, "text", "test0  \ntest1  \ntest2  \n",
            "test/text: no utterance has a word",
        ),
        (
            "diarization", {}, "utt2turns", "test0 a 0 1\ntest1 a 0 1\ntest2 a 0\n",
            "test/utt2turns: test2: utt2turns says 'a 0', not `speaker start end ...`",
        ),
        (
            "diarization", {}, "utt2turns", "test0 a 0 1\ntest1 a 0 1\ntest2 a 0 1 b 0 1 c 0 1\n",
            "test2: 3 speakers, where the head tells 2 apart",
        ),
    ],
)  # fmt: skip
def test_what_test_cannot_be_scored_by_is_said_beforehand(data, task, settings, name, lines, said):
    for part in ("train", "dev", "test"):
        if name not in {"text", "utt2slots"}:
            (data / part / name).write_text(
                f"{part}0 {part}1 target\n{part}0 {part}2 nontarget\n"
                if name == "trials"
                else "".join(f"{part}{number} a 0.0 1.0\n" for number in range(10))
            )
    asked = labels(task, **settings)
    asked.check(data)
    (data / "test" / name).write_text(lines)
    with pytest.raises(ValueError) as error:
        asked.check(data)
    assert said in str(error.value)


def test_recordings_that_are_labels_may_lie_elsewhere_but_be_no_others(data):
    se = labels("enhancement")
    (column,) = se.names("train")
    found = []
    for place in ("/here/clean", "/there/clean", "/here/noisy"):
        (data / "train" / column).write_text("".join(f"train{k} {place}/{k}.wav\n" for k in range(10)))
        found.append(se.part_digests(data, ("train",))["train"])
    assert found[0] == found[1] != found[2]


def test_recordings_that_are_labels_are_looked_at(data, tmp_path):
    se = labels("enhancement")
    (column,) = se.names("train")
    clean = [tmp_path / "clean" / f"{k}.wav" for k in range(10)]
    clean[0].parent.mkdir()
    for path in clean:
        path.write_bytes(bytes(100))
    (data / "train" / column).write_text("".join(f"train{k} {path}\n" for k, path in enumerate(clean)))
    before = se.part_digests(data, ("train",))
    clean[3].write_bytes(bytes(99) + b"1")
    assert se.part_digests(data, ("train",)) != before


def test_texts_that_begin_as_paths_do_are_texts(data):
    asr, table = labels("speech_recognition"), data / "dev" / "text"
    before, found = table.read_text(), set()
    for text in ("/yes/no", "/so/yes/no", f"/{'long' * 100}"):
        table.write_text(before.replace("dev1 no", f"dev1 {text}"))
        found.add(asr.digest(data))
    assert len(found) == 3
    assert file_excerpt(Path("/" + "long" * 100)) == b""


@pytest.mark.parametrize(
    ("task", "column"),
    [("enhancement", "utt2clean"), ("separation", "utt2source2"), ("voice_conversion", "utt2target")],
)
def test_recordings_to_be_scored_by_are_there_and_as_long(data, tmp_path, task, column):
    asked = labels(task)
    for part in asked.parts:
        for name in asked.names(part):
            shutil.copy(data / part / "wav.scp", data / part / name)
    asked.check(data)
    table = data / "test" / column
    path = table.read_text().split()[1]
    write_audio(tmp_path / "short.wav", read_audio(path)[:-800], 16_000)
    for other, said in (("gone.wav", "no such file"), ("short.wav", " s, its utterance ")):
        edit(table, path, str(tmp_path / other))
        if said in "no such file" or task != "voice_conversion":
            with pytest.raises(ValueError, match=rf"test/{column}: test0: {tmp_path / other}.*{said}"):
                asked.check(data)
        else:
            asked.check(data)
        path = str(tmp_path / other)


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
