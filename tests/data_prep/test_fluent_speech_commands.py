from __future__ import annotations

import shutil

import pytest

from audiossl import registry
from audiossl.data.audio import read_audio
from audiossl.data.manifest import Manifest

fluent = registry.get("data_prep", "fluent_speech_commands")
FOLDER = "fluent_speech_commands_dataset"


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    root = tmp_path_factory.mktemp("fluent") / "corpus"
    root.mkdir()
    fluent.fake(root)
    return root


@pytest.fixture
def corpus(original, tmp_path):
    return shutil.copytree(original, tmp_path / "corpus")


@pytest.mark.parametrize("inside", [False, True])
def test_parts_follow_the_lists(original, tmp_path, inside):
    fluent.prepare(original / FOLDER if inside else original, tmp_path)
    made = {name: Manifest.open(tmp_path / name) for name in ("train", "dev", "test")}
    assert {len(manifest) for manifest in made.values()} == {8}
    speakers = [set(manifest.column("utt2spk")) for manifest in made.values()]
    assert speakers == [{"traina1B", "trainc2D"}, {"deva1B", "devc2D"}, {"testa1B", "testc2D"}]


def test_labels_are_single_words_and_text_is_as_written(original, tmp_path):
    fluent.prepare(original, tmp_path)
    made = Manifest.open(tmp_path / "dev")
    index = list(made.ids).index("devc2D-00000006-4474-11e9")
    found = {name: made.column(name)[index] for name in ("utt2action", "utt2object", "utt2location", "text")}
    assert found == {
        "utt2action": "change_language",
        "utt2object": "Chinese",
        "utt2location": "none",
        "text": "Set my phone's language to Chinese",
    }
    first = list(made.ids).index("deva1B-00000000-4474-11e9")
    assert made.column("text")[first] == "Switch on the lights, please"  # a comma inside quotes
    path = original / FOLDER / "wavs/speakers/devc2D/00000006-4474-11e9.wav"
    assert (made.audio(index, sample_rate=16000) == read_audio(path)).all()


def test_faults_are_named_with_file_and_line(corpus, tmp_path):
    root = corpus / FOLDER
    (root / "wavs/speakers/traina1B/00000001-4474-11e9.wav").unlink()
    with pytest.raises(ValueError, match=r"train_data\.csv:3: wavs/speakers/traina1B/00000001.*is not there"):
        fluent.prepare(corpus, tmp_path / "a")
    listed = root / "data" / "train_data.csv"
    text = listed.read_text()
    listed.write_text(text.replace("activate,lights", "activate,", 1))
    with pytest.raises(ValueError, match=r"train_data\.csv:2: a value is missing"):
        fluent.prepare(corpus, tmp_path / "b")
    listed.write_text(text.replace("location", "place"))
    with pytest.raises(ValueError, match=r"train_data\.csv:1: no column 'location'"):
        fluent.prepare(corpus, tmp_path / "c")
    (root / "data" / "test_data.csv").unlink()
    with pytest.raises(ValueError, match=r"test_data\.csv: not found"):
        fluent.prepare(corpus, tmp_path / "d")


def test_other_numbers_than_published_are_told(corpus, tmp_path, caplog):
    fluent.prepare(corpus, tmp_path / "out")
    (line,) = caplog.messages
    told = "train 8 of 23,132, dev 8 of 3,118, test 8 of 3,793"
    assert line.partition(" as published: ")[2].partition("; ")[0] == told
