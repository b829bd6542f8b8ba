from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from dataclasses import astuple, replace

import numpy as np
import pytest

from audiossl import registry
from audiossl.data.audio import read_audio
from audiossl.data.manifest import Manifest

pytest.importorskip("espeakng_loader", reason="mini needs the extra `synth`")
mini = registry.get("data_prep", "mini")

SENTENCES = ("train", "dev", "test")
KEYWORDS = ("keywords_train", "keywords_dev", "keywords_test")


def hashes(root):
    found = {}
    for path in sorted(root.rglob("*")):
        if path.is_file():
            content = path.read_bytes().replace(str(root).encode(), b"ROOT")
            found[path.relative_to(root).as_posix()] = hashlib.sha256(content).hexdigest()
    return found


def phones(folder):
    found = defaultdict(list)
    for line in (folder / "phones.ctm").read_text(encoding="utf-8").splitlines():
        utterance, channel, start, duration, phone = line.split()
        assert channel == "1"
        found[utterance].append((float(start), float(duration), phone))
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("mini")
    mini.prepare(None, root, mini.Config.tiny())
    return root


def test_the_same_bytes_whatever_the_number_of_workers(made, tmp_path):
    mini.prepare(None, tmp_path, replace(mini.Config.tiny(), workers=1))
    assert hashes(made) == hashes(tmp_path)


def test_another_seed_is_another_corpus(made, tmp_path):
    mini.prepare(None, tmp_path, replace(mini.Config.tiny(), seed=1))
    ours, theirs = hashes(made), hashes(tmp_path)
    shared = [name for name in ours if name.endswith(".flac") and ours[name] == theirs.get(name)]
    assert shared == []


def test_counts_and_disjoint_voices(made):
    config = mini.Config.tiny()
    speakers = {}
    for split, voices, sentences, keywords in zip(
        SENTENCES, config.voices, config.sentences, config.keywords, strict=True
    ):
        spoken, clips = Manifest.open(made / split), Manifest.open(made / f"keywords_{split}")
        assert (len(spoken), len(clips)) == (sentences, keywords)
        speakers[split] = set(spoken.column("utt2spk"))
        assert speakers[split] == set(clips.column("utt2spk"))
        assert len(speakers[split]) == voices
    assert not speakers["train"] & speakers["dev"]
    assert not (speakers["train"] | speakers["dev"]) & speakers["test"]


def test_no_sentence_comes_twice_and_every_word_is_in_train(made):
    texts = {split: list(Manifest.open(made / split).column("text")) for split in SENTENCES}
    everything = [text for split in SENTENCES for text in texts[split]]
    assert len(set(everything)) == len(everything)
    words = {split: {word for text in texts[split] for word in text.split()} for split in SENTENCES}
    assert words["dev"] | words["test"] <= words["train"]
    assert all(4 <= len(text.split()) <= 12 for text in everything)
    assert set("".join(everything)) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZ' ")


def test_phones_cover_every_sample_and_silence_is_quiet(made):
    manifest = Manifest.open(made / "train")
    found = phones(made / "train")
    levels = defaultdict(list)
    for index, utterance in enumerate(manifest.ids):
        waveform = manifest.audio(index, sample_rate=16000)
        position = 0
        for start, duration, phone in found[utterance]:
            first, last = round(start * 16000), round((start + duration) * 16000)
            assert first == position
            levels["SIL" if phone == "SIL" else "speech"].append(float(np.mean(waveform[first:last] ** 2)))
            position = last
        assert position == len(waveform)
        assert found[utterance][0][2] == found[utterance][-1][2] == "SIL"
    assert np.median(levels["SIL"]) < 0.02 * np.median(levels["speech"])


@pytest.mark.parametrize("name", ["train", "train_10min", "dev", "keywords_test"])
def test_phones_of_utterances_are_those_of_the_alignment_without_silence(made, name):
    manifest, aligned = Manifest.open(made / name), phones(made / name)
    spoken = [" ".join(phone for *_, phone in aligned[utterance] if phone != "SIL") for utterance in manifest.ids]
    assert list(manifest.column("utt2phones")) == spoken
    assert all(spoken)


def test_the_labelled_part_fits_and_is_balanced(made):
    labelled, train = Manifest.open(made / "train_10min"), Manifest.open(made / "train")
    assert set(labelled.ids) < set(train.ids)
    assert labelled.durations.sum() <= 60 * mini.Config.tiny().labelled_minutes
    turns = Counter(labelled.column("utt2spk"))
    assert len(turns) == 3
    assert max(turns.values()) - min(turns.values()) <= 1


def test_keywords_are_balanced_clips_of_one_second(made):
    for name in KEYWORDS:
        manifest = Manifest.open(made / name)
        assert set(Counter(manifest.column("utt2keyword")).values()) == {1}
        assert [word.upper() for word in manifest.column("utt2keyword")] == list(manifest.column("text"))
        np.testing.assert_allclose(manifest.durations, 1.0)


def test_default_voices_are_disjoint_and_enough():
    splits = [mini._voices(split, mini.Config()) for split in SENTENCES]
    voices = [voice for split in splits for voice in split]
    assert [len(split) for split in splits] == [136, 6, 10]
    assert len({voice.name for voice in voices}) == len({astuple(voice)[1:] for voice in voices}) == len(voices)
    variants = [{voice.variant for voice in split} for split in splits]
    assert not variants[0] & variants[1] | variants[0] & variants[2] | variants[1] & variants[2]


def test_default_sentences_use_a_few_dozen_words_and_leak_none():
    sentences = mini._sentences(mini.Config())
    words = {split: {word for item in sentences[split] for word in item.words} for split in SENTENCES}
    assert 50 < len(words["train"]) < 80
    assert words["dev"] | words["test"] <= words["train"]
    drawn = [item.words for split in SENTENCES for item in sentences[split]]
    assert len(set(drawn)) == len(drawn) == 3680


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"voices": (999, 1, 1)}, "999 voices for train"),
        ({"sentences": (0, 1, 1)}, "at least 1"),
        ({"snr": (40.0, 20.0)}, "least, greatest"),
    ],
)
def test_wrong_options_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        replace(mini.Config.tiny(), **change)


def test_a_corpus_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="leave out --corpus"):
        mini.prepare(tmp_path, tmp_path / "out")


def test_too_few_words_for_the_sentences_asked_for(tmp_path):
    with pytest.raises(ValueError, match="ask for more in train"):
        mini.prepare(None, tmp_path, replace(mini.Config.tiny(), sentences=(1, 50, 50)))


@pytest.mark.slow
def test_the_default_size(tmp_path):
    mini.prepare(None, tmp_path)
    minutes = {name: Manifest.open(tmp_path / name).durations.sum() / 60 for name in (*SENTENCES, "train_10min")}
    assert 130 < minutes["train"] < 150
    assert 2.5 < minutes["dev"] < 4.5
    assert 8 < minutes["test"] < 12
    assert 9.8 < minutes["train_10min"] <= 10
    counts = Counter(Manifest.open(tmp_path / "keywords_train").column("utt2keyword"))
    assert set(counts.values()) == {80}
    assert np.abs(read_audio(tmp_path / "audio/train/adam.a-0000.flac")).max() > 0.03
