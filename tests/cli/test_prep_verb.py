from __future__ import annotations

import json
import os
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from audiossl import registry
from audiossl.cli.main import main
from audiossl.data.audio import read_audio, write_audio
from audiossl.data.manifest import Manifest
from audiossl.data.writer import CorpusUtterance, write_data_dir


def call(*words):
    with pytest.raises(SystemExit) as stop:
        main(["prep", *map(str, words)])
    return stop.value.code


@pytest.fixture
def digits(tmp_path):
    registry.get("data_prep", "free_spoken_digits").fake(tmp_path / "corpus")
    return tmp_path / "corpus"


def test_list_names_every_corpus(capsys):
    assert call("--list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == registry.names("data_prep")
    assert all(len(line.split()) > 3 for line in lines)
    assert call("--list", "--json") == 0
    corpora = json.loads(capsys.readouterr().out)["corpora"]
    assert [corpus["name"] for corpus in corpora] == registry.names("data_prep")


@pytest.mark.parametrize("name", registry.names("data_prep"))
def test_list_of_a_corpus_is_its_page(name, capsys):
    module = registry.get("data_prep", name)
    assert call(name, "--list") == 0
    page = capsys.readouterr().out
    assert page.startswith(module.__doc__.strip())
    assert call(name, "--list", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert all(f"--prep.{key} " in page for key in found["options"])
    assert bool(found["options"]) == hasattr(module, "Config")


def test_writes_directories_that_say_where_their_audio_is(digits, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ("free_spoken_digits", "--corpus", "corpus", "--out", "made/digits", "--prep.passes", "2", "--json")
    assert call(*words) == 0
    written = json.loads(capsys.readouterr().out)["written"]
    names = ["dev", "dev_strings", "test", "test_strings", "train", "train_strings"]
    assert [row["path"] for row in written] == [str(tmp_path / "made/digits" / name) for name in names]
    assert not (tmp_path / "made/digits.partial").exists()
    monkeypatch.chdir("/")
    for row in written:
        manifest = Manifest.open(row["path"])
        assert len(manifest) == row["utterances"]
        assert len(manifest.audio(0, sample_rate=8000)) == round(8000 * manifest.durations[0])
    assert written[4]["utterances"] == 40
    strings = Manifest.open(tmp_path / "made/digits/train_strings")
    assert sum(len(text.split()) for text in strings.column("text")) == 2 * 40


def test_recordings_that_columns_name_are_found_too(tmp_path, monkeypatch):
    def prepare(corpus, out):
        (out / "audio").mkdir()
        for name in ("noisy", "clean"):
            write_audio(out / "audio" / f"{name}.wav", np.full(800, 0.1), 8000)
        columns = {"utt2clean": str(out / "audio" / "clean.wav")}
        write_data_dir([CorpusUtterance("a", "a", out / "audio" / "noisy.wav", "a", columns=columns)], out / "all")

    monkeypatch.setattr(registry, "get", lambda kind, name: SimpleNamespace(prepare=prepare))
    assert call("made_up", "--out", tmp_path / "made") == 0
    manifest = Manifest.open(tmp_path / "made" / "all")
    assert manifest.column("utt2clean")[0] == str(tmp_path / "made" / "audio" / "clean.wav")
    assert len(manifest.audio(0, sample_rate=8000)) == len(read_audio(manifest.column("utt2clean")[0])) == 800
    assert manifest.column("utt2spk")[0] == "a"


def test_an_existing_folder_is_left_alone(digits, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine").write_text("kept", encoding="utf-8")
    assert call("free_spoken_digits", "--corpus", digits, "--out", out) == 1
    assert "exists" in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == ["mine"]


def test_a_failure_leaves_nothing(digits, tmp_path, capsys):
    next((digits / "recordings").glob("*_11.wav")).write_bytes(b"no audio")
    assert call("free_spoken_digits", "--corpus", digits, "--out", tmp_path / "out") == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "_11.wav" in error
    assert {path.name for path in tmp_path.iterdir()} == {"corpus"}


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        ((), 2, "audiossl prep --list"),
        (("mini",), 2, "audiossl prep --list"),
        (("minni", "--out", "out"), 1, "did you mean 'mini'"),
        (("librispeech", "--out", "out"), 1, "SPEAKERS.TXT"),
        (("librispeech", "--out", "out", "--corpus", "nowhere"), 1, "nowhere: no such folder"),
        (("mini", "--out", "out", "--prep.voice", "3"), 1, "did you mean 'voices'"),
        (("mini", "--out", "out", "--train.steps", "3"), 1, "--prep.key value only"),
        (("mini", "--out", "out", "--corpus", "."), 1, "leave out --corpus"),
        (("mini", "--fake", "out"), 1, "run `audiossl prep mini --out DIR`"),
        (("superb_mini", "--fake", "out"), 1, "superb_mini has no published layout to imitate"),
        (("folder", "--fake", "out", "--json"), 2, "leave out --json"),
        (("folder", "--fake", "out", "--prep.speaker_level", "0"), 2, "leave out --prep.*"),
        (("folder", "--fake", "out", "--train.steps", "3"), 2, "leave out --train.*"),
        (("speech_commands", "--out", "out", "--prep.version", "v3"), 1, "'v3' is not one of"),
    ],
)
def test_misuse_and_errors_in_one_line(words, status, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert call(*words) == status
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_an_imitation_can_be_prepared(tmp_path, capsys):
    assert call("folder", "--fake", tmp_path / "corpus") == 0
    assert call("folder", "--corpus", tmp_path / "corpus", "--out", tmp_path / "out") == 0
    assert "8 utterances" in capsys.readouterr().out


def test_help_gives_an_example(capsys):
    assert call("--help") == 0
    assert "Example: audiossl prep free_spoken_digits" in " ".join(capsys.readouterr().out.split())


def test_the_cure_of_a_missing_synthesiser_is_right_everywhere(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nothing"))
    with pytest.raises(SystemExit) as stop:
        main(["prep", "mini", "--out", str(tmp_path / "mini")])
    assert stop.value.code == 1
    error = capsys.readouterr().err.splitlines()
    assert error[-1].startswith("audiossl: espeak-ng is not installed, and pip cannot fetch espeakng-loader")
    assert error[-1].endswith("pip install '.[synth]' in a checkout or 'audiossl[synth]' elsewhere")
    assert not (tmp_path / "mini").exists()
