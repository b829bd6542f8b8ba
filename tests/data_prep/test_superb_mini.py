from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from audiossl import registry
from audiossl.data.audio import read_audio
from audiossl.data.manifest import Manifest
from audiossl.data.turns import parse_turns
from audiossl.data.validate import faults
from audiossl.metrics._slots import slots
from audiossl.verification.trials import read_trials

pytest.importorskip("espeakng_loader", reason="superb_mini needs the extra `synth`")
superb_mini = registry.get("data_prep", "superb_mini")

SPLIT = ("train", "dev", "test")


def hashes(root):
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(
            path.read_bytes().replace(str(root).encode(), b"")
        ).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def column(folder, name):
    manifest = Manifest.open(folder)
    return dict(zip(manifest.ids, manifest.column(name), strict=True))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("superb_mini")
    superb_mini.prepare(None, root, replace(superb_mini.Config.tiny(), tasks=("all",)))
    return root


def test_every_task_is_there_and_sound(made):
    layout = {task: set(SPLIT) for task in ("pr", "asr", "ks", "sid", "asv", "sd", "ic", "sf", "ood", "se", "ss", "st")}
    layout |= {"vc": {*SPLIT, "reference"}, "er": {"all"}, "qbe": {"documents", "queries_dev", "queries_eval"}}
    found = {path.name: {part.name for part in path.iterdir()} for path in made.iterdir() if path.name != "audio"}
    assert found == layout
    for task, parts in layout.items():
        for part in parts:
            assert [str(fault) for fault in faults(made / task / part)] == []
    assert (made / "asr").resolve() == (made / "pr").resolve()


def test_voices_are_apart_but_where_they_must_not_be(made):
    for task in ("pr", "ks", "asv", "ic", "sf", "ood", "se", "st"):
        voices = [set(column(made / task / part, "utt2spk").values()) - {"noise"} for part in SPLIT]
        assert not voices[0] & voices[1] | voices[0] & voices[2] | voices[1] & voices[2]
    known, *others = (set(column(made / "sid" / part, "utt2spk").values()) for part in SPLIT)
    assert known == others[0] == others[1]
    texts = [text for part in SPLIT for text in column(made / "sid" / part, "text").values()]
    assert len(texts) > len(known)


def test_phones_are_those_of_the_alignment_and_sentences_are_apart(made):
    texts = [set(column(made / "pr" / part, "text").values()) for part in SPLIT]
    assert not texts[0] & texts[1] | texts[0] & texts[2] | texts[1] & texts[2]
    spoken = {}
    for line in (made / "pr" / "train" / "phones.ctm").read_text(encoding="utf-8").splitlines():
        name, _, _, _, phone = line.split()
        if phone != "SIL":
            spoken.setdefault(name, []).append(phone)
    assert {name: " ".join(phones) for name, phones in spoken.items()} == column(made / "pr" / "train", "utt2phones")


def test_keywords_are_seconds_of_twelve_classes(made):
    for part in SPLIT:
        labels = column(made / "ks" / part, "utt2keyword")
        assert set(Counter(labels.values()).values()) == {2}
        assert len(set(labels.values())) == 12
        manifest = Manifest.open(made / "ks" / part)
        np.testing.assert_allclose(manifest.durations, 1.0)
        silent = [index for index, name in enumerate(manifest.ids) if labels[name] == "_silence_"]
        loud = [index for index, name in enumerate(manifest.ids) if labels[name] == "stop"]
        power = [np.mean([np.mean(manifest.audio(i, sample_rate=16000) ** 2) for i in rows]) for rows in (silent, loud)]
        assert power[0] < 0.2 * power[1]


def test_every_intent_is_in_every_part_and_is_what_is_said(made):
    for part in SPLIT:
        said = [column(made / "ic" / part, name) for name in ("text", "utt2action", "utt2object", "utt2location")]
        intents = {tuple(one[name] for one in said[1:]) for name in said[0]}
        assert intents == set(superb_mini._INTENTS)
        for name, text in said[0].items():
            assert said[2][name].upper() in text
            assert (f"IN THE {said[3][name].upper()}" in text) != (said[3][name] == "none")


def test_slots_are_well_formed_and_their_marks_are_not_spoken(made):
    for part in SPLIT:
        marked, plain = column(made / "sf" / part, "utt2slots"), column(made / "sf" / part, "text")
        for name, text in marked.items():
            marks = [word for word in text.split() if word.startswith(("B-", "E-"))]
            assert len(marks) == 2 * sum(len(values) for values in slots(text).values())
            assert " ".join(word for word in text.split() if word not in marks) == plain[name]
    assert {kind for text in marked.values() for kind in slots(text)} <= {"NAME", "THING", "COLOUR", "PLACE", "DIGIT"}


def test_emotions_differ_and_sessions_have_their_own_voices(made):
    emotion, session = (column(made / "er" / "all", f"utt2{name}") for name in ("emotion", "session"))
    voices = column(made / "er" / "all", "utt2spk")
    assert Counter(emotion.values()).keys() == {"neutral", "happy", "angry", "sad"}
    assert {len({voices[name] for name in session if session[name] == one}) for one in session.values()} == {2}
    assert len({(session[name], voices[name]) for name in session}) == 10
    manifest = Manifest.open(made / "er" / "all")
    loud = {name: [] for name in set(emotion.values())}
    for index, name in enumerate(manifest.ids):
        loud[emotion[name]].append(np.mean(manifest.audio(index, sample_rate=16000) ** 2))
    level = {name: 10 * np.log10(np.mean(values)) for name, values in loud.items()}
    assert level["angry"] > level["happy"] > level["neutral"] > level["sad"]


def test_trials_are_of_voices_that_training_lacks(made):
    for part in ("dev", "test"):
        trials = read_trials(made / "asv" / part / "trials")
        assert 0 < trials.labels.sum() < len(trials)
        assert set(trials.names) == set(Manifest.open(made / "asv" / part).ids)


def test_turns_are_two_voices_who_overlap_each_other_and_not_themselves(made):
    overlap = 0
    for part in SPLIT:
        manifest = Manifest.open(made / "sd" / part)
        for seconds, value in zip(manifest.durations, manifest.column("utt2turns"), strict=True):
            turns = parse_turns(value)
            assert len({turn.speaker for turn in turns}) == 2
            assert max(turn.end for turn in turns) <= seconds
            for one, turn in enumerate(turns):
                for other in turns[:one]:
                    shared = turn.start < other.end
                    overlap += shared
                    assert not (shared and other.speaker == turn.speaker)
    assert overlap


def test_spanish_sentences_are_apart(made):
    texts = [list(column(made / "ood" / part, "text").values()) for part in SPLIT]
    assert len({text for part in texts for text in part}) == sum(map(len, texts))
    assert "Ñ" in "".join(text for part in texts for text in part)


def read(made, task, part, name=None):
    """Waveforms of a directory, or those that a column names."""
    manifest = Manifest.open(made / task / part)
    if name is None:
        return [manifest.audio(index, sample_rate=16_000) for index in range(len(manifest))]
    return [read_audio(path) for path in manifest.column(name)]


def test_what_is_not_clean_is_noise(made):
    ratios = []
    for noisy, clean in zip(read(made, "se", "train"), read(made, "se", "train", "utt2clean"), strict=True):
        assert len(noisy) == len(clean)
        ratios.append(10 * np.log10(np.mean(clean**2) / np.mean((noisy - clean) ** 2)))
        assert abs(np.corrcoef(clean, noisy - clean)[0, 1]) < 0.05
    assert min(ratios) < 10  # of the whole recording with its pauses
    assert -6 < np.mean(ratios) < 15


def test_a_mixture_is_the_sum_of_its_sources(made):
    sources = [read(made, "ss", "test", f"utt2source{number}") for number in (1, 2)]
    for mixture, *pair in zip(read(made, "ss", "test"), *sources, strict=True):
        assert np.mean((mixture - sum(pair)) ** 2) < 1e-4 * np.mean(mixture**2)
        first = [np.flatnonzero(np.abs(wave) > 1e-3)[0] for wave in pair]
        assert abs(first[0] - first[1]) < 0.3 * 16_000  # they begin together


def test_sentences_are_translated_word_by_word_and_none_is_in_two_parts(made):
    parts = {english.upper(): german for pairs in superb_mini._GERMAN.values() for english, german in pairs.items()}
    texts = []
    for part in SPLIT:
        translations = column(made / "st" / part, "utt2translation")
        for name, text in column(made / "st" / part, "text").items():
            texts.append(text)
            for english, german in parts.items():
                assert (f" {english} " in f" {text} ") == (f" {german} " in f" {translations[name][:-1]} ")
    assert len(set(texts)) == len(texts)


def test_what_is_converted_is_said_by_the_target_too(made):
    (target,) = {*column(made / "vc" / "train", "utt2spk").values(), *column(made / "vc" / "dev", "utt2spk").values()}
    sources = set(column(made / "vc" / "test", "utt2spk").values())
    assert len(sources) == 4
    assert target not in sources
    assert set(column(made / "vc" / "reference", "utt2spk").values()) == {target}
    heard = {
        str(made / "audio" / "vc" / "reference" / f"{name}.flac"): text
        for name, text in column(made / "vc" / "reference", "text").items()
    }
    texts = column(made / "vc" / "test", "text")
    assert {name: heard[path] for name, path in column(made / "vc" / "test", "utt2target").items()} == texts
    for part in ("train", "dev"):
        assert column(made / "vc" / part, "utt2target") == {
            line.split()[0]: line.split()[1] for line in (made / "vc" / part / "wav.scp").read_text().splitlines()
        }
        assert not set(column(made / "vc" / part, "text").values()) & set(texts.values())


def test_relevant_documents_say_the_query(made):
    texts = column(made / "qbe" / "documents", "text")
    asked = []
    for part in ("queries_dev", "queries_eval"):
        queries = column(made / "qbe" / part, "text")
        pairs = {tuple(line.split()) for line in (made / "qbe" / part / "relevant").read_text().splitlines()}
        assert {query for query, _ in pairs} == set(queries)
        assert pairs == {(q, d) for q in queries for d in texts if f" {queries[q]} " in f" {texts[d]} "}
        asked.append(set(queries.values()))
    assert not asked[0] & asked[1]


def test_the_same_bytes_whatever_the_number_of_workers(made, tmp_path):
    superb_mini.prepare(
        None,
        tmp_path,
        replace(superb_mini.Config.tiny(), tasks=("ks", "sd", "er", "ood", "se", "ss", "st", "vc"), workers=1),
    )
    one, other = hashes(tmp_path), hashes(made)
    assert one
    assert one == {name: other[name] for name in one}


@pytest.mark.parametrize(
    ("change", "message"),
    [({"tasks": ("kws",)}, "unknown 'kws'"), ({"scale": 0.0}, "above 0"), ({"workers": 0}, "workers")],
)
def test_wrong_options_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        replace(superb_mini.Config.tiny(), **change)


def test_a_corpus_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="leave out --corpus"):
        superb_mini.prepare(tmp_path, tmp_path / "out")
