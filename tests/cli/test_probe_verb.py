"""`audiossl probe` from recordings to probe.json: filterbank and random encoder, three directories and one."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import pytest
from command import audiossl, complains
from corpora import write_corpus

from audiossl import registry
from audiossl.cli.probe import _settings
from audiossl.diagnostics.results import read_results
from audiossl.nn.utterance_classifier import ClassifierConfig, UtteranceClassifier

WORDS = {"low": 300.0, "mid": 900.0, "high": 2500.0}
QUICK = ["--probe.steps", "150", "--probe.batch", "16", "--num-workers", "0", "--device", "cpu"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Chords in noise: the word is their pitch, the speaker the loudness of the noise."""
    root = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    for part, count in (("train", 30), ("dev", 12), ("test", 12)):
        waves = []
        for index in range(count):
            time = np.arange(rng.integers(4000, 6000)) / 16_000
            # Five tones an octave wide: a good third of the mel bands tells the word.
            tones = list(WORDS.values())[index % 3] * np.linspace(1, 2, 5)[:, None]
            wave = 0.1 * np.sin(2 * np.pi * tones * time + rng.random((5, 1))).sum(axis=0)
            waves.append(wave + (0.003, 0.01)[index % 2] * rng.standard_normal(len(time)))
        labels = {"speakers": ("spk0", "spk1"), "columns": {"utt2keyword": list(WORDS)}}
        write_corpus(root / "audio" / part, waves, **labels, out=root / part)
    return root


def run(*words):
    return audiossl("probe", *words)


def three(corpus):
    return ["--train", corpus / "train", "--dev", corpus / "dev", "--test", corpus / "test"]


def test_keyword_on_filterbank(corpus, tmp_path):
    words = ["fbank", "--task", "keyword", *three(corpus), "--out", tmp_path / "p", *QUICK]
    code, out, _ = run(*words)
    assert code == 0
    probe = json.loads((tmp_path / "p" / "probe.json").read_text())
    assert probe["accuracy"] > 90
    assert probe["majority"] == pytest.approx(100 / 3)
    assert probe["classes"] == ["high", "low", "mid"]
    assert probe["forwards"] == 54
    assert [seed["seed"] for seed in probe["seeds"]] == [0, 1, 2]
    assert probe["selection"] == f"dev accuracy on {corpus / 'dev'}"
    assert probe["learning_rate"] in [rate for rate, _ in probe["dev_accuracy_by_learning_rate"]]
    assert "utt2keyword accuracy" in out
    assert f"{probe['accuracy']:.2f} %" in out
    [row] = read_results(tmp_path / "p")
    assert (row.name, row.value, row.unit, row.seed) == ("probe keyword accuracy", probe["accuracy"], "%", 0)
    # The same again reads the cache and finds the same.
    code, out, _ = run(*words, "--json")
    again = json.loads(out)
    assert again["forwards"] == 0
    assert again["accuracy"] == probe["accuracy"]
    assert again["layer_weights"] == probe["layer_weights"]


def test_fractions_of_the_labels_share_one_pass(corpus, tmp_path):
    words = ["fbank", "--task", "keyword", *three(corpus), *QUICK, "--json", "--out"]
    whole = json.loads(run(*words, tmp_path / "whole")[1])
    assert "fractions" not in whole
    words += [tmp_path / "p", "--fractions", "0.5", "0.1"]
    probe = json.loads(run(*words)[1])
    assert [part["fraction"] for part in probe["fractions"]] == [0.1, 0.5, 1.0]
    assert [part["utterances"]["train"] for part in probe["fractions"]] == [3, 15, 30]
    assert probe["forwards"] == 54
    for key in ("accuracy", "learning_rate", "layer_weights", "utterances"):
        assert probe[key] == probe["fractions"][-1][key] == whole[key]
    rows = {row.name: row.value for row in read_results(tmp_path / "p")}
    names = [
        "probe keyword accuracy, 10 % of labels",
        "probe keyword accuracy, 50 % of labels",
        "probe keyword accuracy",
    ]
    assert rows == dict(zip(names, (part["accuracy"] for part in probe["fractions"]), strict=True))
    words.remove("--json")
    text = run(*words)[1]
    assert f"10 % of labels        {probe['fractions'][0]['accuracy']:.2f} % +- " in text
    assert "(15 utterances), learning rate" in text


def test_speakers_of_one_directory_on_a_random_encoder(corpus, tmp_path):
    recipe = tmp_path / "tiny.toml"
    from audiossl.config import to_table, write_toml
    from audiossl.encoders.fbank import FBank

    write_toml(recipe, {"encoder": {"name": "fbank", **to_table(FBank.Config.tiny())}})
    words = [f"random:{recipe}", "--task", "speaker", "--train", corpus / "train", "--split", "0.6/0.2/0.2"]
    code, out, _ = run(*words, "--out", tmp_path / "p", "--json", *QUICK)
    assert code == 0
    probe = json.loads(out)
    assert probe["utterances"] == {"train": 18, "dev": 6, "test": 6}
    assert probe["forwards"] == 30
    assert len(probe["layer_weights"]) == FBank.Config.tiny().num_layers + 1
    assert "split 0.6/0.2/0.2 with seed 0" in probe["selection"]
    # Other random weights are another encoder, with features of its own.
    code, out, _ = run(*words, "--out", tmp_path / "p", "--json", "--seed", "1", *QUICK)
    assert json.loads(out)["forwards"] == 30


def test_a_new_task_of_utterances_can_be_probed_and_one_of_several_labels_cannot(monkeypatch):
    @dataclass(frozen=True)
    class Config(ClassifierConfig):
        column: str = "utt2accent"

    accent = type("Accent", (UtteranceClassifier,), {"Config": Config})
    get = registry.get
    monkeypatch.setattr(registry, "get", lambda kind, name: accent if name == "accent" else get(kind, name))
    column, config = _settings("accent", None, {})
    assert (column, config.steps) == ("utt2accent", 2000)
    with pytest.raises(ValueError, match="--task intent: has no label per utterance to probe"):
        _settings("intent", None, {})


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["--dev", "DEV", "--test", "TEST"], 2, "neither --task nor --column"),
        (["--task", "keyword"], 2, "--dev and --test are needed"),
        (["--task", "keyword", "--split", "0.5/0.3/0.2", "--dev", "DEV"], 2, "leave out --dev"),
        (["--task", "keyword", "--split", "0.5/0.5"], 1, "--split 0.5/0.5: not three numbers"),
        (["--task", "keywrd", "--split", "0.6/0.2/0.2"], 1, "did you mean 'keyword'"),
        (
            ["--task", "ctc", "--split", "0.6/0.2/0.2"],
            1,
            "no label per utterance to probe; use emotion, keyword, speaker, or --column",
        ),
        (["--column", "utt2spk", "--split", "0.6/0.2/0.2", "--seed", "-1"], 2, "--seed -1 is negative"),
        (["--column", "utt2spk", "--split", "0.6/0.2/0.2", "--probe.seeds", "[0,-1]"], 1, "has one below 0"),
        (["--task", "keyword", "--split", "0.6/0.2/0.2", "--fractions", "0.5", "1.5"], 2, "1.5: is not in (0, 1]"),
        (["--column", "utt2mood", "--split", "0.6/0.2/0.2"], 1, "utt2mood"),
        (["--task", "keyword", "--dev", "DEV", "--test", "TEST", "--probe.stps", "3"], 1, "did you mean 'steps'"),
        (["--task", "keyword", "--dev", "DEV", "--test", "TEST", "--prob.steps", "3"], 2, "did you mean 'probe'"),
        (["--task", "keyword", "--split", "0.6/0.2/0.2", "--device", "abacus"], 1, "--device abacus"),
    ],
)
def test_misuse_is_one_line_and_writes_nothing(corpus, tmp_path, words, status, message):
    places = {"DEV": corpus / "dev", "TEST": corpus / "test"}
    given = [places.get(word, word) for word in words]
    words = ("fbank", "--train", corpus / "train", "--out", tmp_path / "p", *given)
    assert message in complains("probe", *words, status=status)
    assert not (tmp_path / "p").exists()


def test_a_file_is_no_folder_to_write_to(corpus, tmp_path):
    (tmp_path / "p").write_text("mine")
    code, out, err = run("fbank", "--column", "utt2spk", *three(corpus), "--out", tmp_path / "p")
    assert (code, out, err) == (
        1,
        "",
        f"audiossl: {tmp_path / 'p'}: is a file, no folder; choose another --out or remove it\n",
    )


def test_any_column_can_be_asked_for(corpus, tmp_path):
    words = ["fbank", "--column", "utt2spk", *three(corpus), "--out", tmp_path / "p", "--json", *QUICK]
    code, out, _ = run(*words)
    assert code == 0
    assert json.loads(out)["column"] == "utt2spk"
    assert json.loads(out)["accuracy"] > 90


def test_recordings_that_cannot_be_used_are_left_out_up_to_a_share(tmp_path):
    waves = [0.1 * np.random.default_rng(number).standard_normal(4000) for number in range(24)]
    waves[5][:] = 0
    data = write_corpus(tmp_path, waves, columns={"utt2keyword": list(WORDS)})
    words = ["fbank", "--task", "keyword", "--train", data, "--split", "0.6/0.2/0.2", "--out", tmp_path / "p", *QUICK]
    assert "max_bad_fraction 0.01 allows" in complains("probe", *words)
    assert "max_bad_fraction is 1.5; give a number from 0 to 1" in complains(
        "probe", *words, "--max-bad-fraction", "1.5"
    )
    code, out, err = run(*words, "--max-bad-fraction", "0.05", "--json", "--probe.steps", "2")
    assert code == 0, err
    assert sum(json.loads(out)["utterances"].values()) == 23
    assert "left out s-5: " in err


def test_a_split_that_cannot_be_made_is_said_before_the_pass(corpus, tmp_path):
    names = [line.split()[0] for line in (corpus / "train" / "utt2spk").read_text().splitlines()]
    (corpus / "train" / "utt2alone").write_text("".join(f"{name} {name}\n" for name in names))
    words = ["fbank", "--column", "utt2alone", "--train", corpus / "train", "--split", "0.6/0.2/0.2"]
    code, _, err = run(*words, "--out", tmp_path / "p", *QUICK)
    assert code == 1
    assert "with 1 utterances leaves none for dev" in err
    assert not (tmp_path / "p" / "pooled").exists()
