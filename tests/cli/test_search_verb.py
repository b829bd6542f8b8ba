"""`audiossl search` on an experiment of two updates: what it prints, and what it says of words that it cannot search for."""

from __future__ import annotations

import json
import shutil

import pytest
from command import audiossl
from corpora import noises, tenths, write_corpus, write_encoder

from audiossl.train.run_finetune import finetune

PHONES = {"go": "g oU", "no": "n oU"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("search")
    words = {"columns": {"utt2word": list(PHONES)}, "phones": [tenths(said.split()) for said in PHONES.values()]}
    write_corpus(root / "audio", noises(range(9000, 13800, 800)), **words, out=root / "data")
    write_encoder(root / "base")
    train = {
        "max_steps": 2,
        "save_every": 1,
        "eval_every": 1,
        "log_every": 1,
        "precision": "fp32",
        "tensorboard": False,
    }
    for symbols in ("phones", "letters"):
        overrides = {
            "task": {"dim": 6, "hidden_dim": 5, "symbol_dim": 4, "symbols": symbols}, "train": train,
            "data": {"num_workers": 0, "batch_seconds": 4.0}, "optim": {"warmup_steps": 1},
        }  # fmt: skip
        finetune(
            "word_embedding", out=root / symbols, init=str(root / "base"), data=root / "data", dev=root / "data", overrides=overrides, device="cpu"
        )  # fmt: skip
        best = json.loads((root / symbols / "best.json").read_text())
        assert "cross_average_precision" in json.dumps(best)
    return root


def run(*words):
    return audiossl("search", *words, "--device", "cpu")


def test_hits_are_printed_and_written(place, tmp_path):
    words = ("go", "no", "--model", place / "phones", "--recordings", place / "audio", "--search.threshold", "-1.0")
    code, out, err = run(*words, "--search.top", "3", "--out", tmp_path / "found.txt")
    assert code == 0, err
    assert (tmp_path / "found.txt").read_text() == out
    again = [*words, "--search.top", "2", "--out", tmp_path / "found.txt"]
    assert "found.txt: exists already and holds something else; choose another --out" in run(*again)[2]
    assert (tmp_path / "found.txt").read_text() == out
    assert run(*again, "--overwrite")[0] == 0
    assert run(*words, "--overwrite")[0] == 2
    lines = [line.split() for line in out.splitlines()]
    assert sorted(line[1] for line in lines) == ["go"] * 3 + ["no"] * 3
    assert [float(line[0]) for line in lines] == sorted((float(line[0]) for line in lines), reverse=True)
    assert all(line[4].endswith(".wav") and float(line[2]) < float(line[3]) for line in lines)
    code, shown, _ = run(*words, "--search.top", "3", "--json")
    assert [hit["word"] for hit in json.loads(shown)] == [line[1] for line in lines]


def test_words_that_training_did_not_have(place, tmp_path):
    common = ("--recordings", place / "audio", "--search.threshold", "-1.0", "--json")
    code, _, err = run("gong", "--model", place / "phones", *common)
    assert (code, "write its phones into a file for --lexicon" in err) == (1, True)
    (tmp_path / "lexicon.txt").write_text("gong g oU n\n")
    code, out, _ = run("gong", "--model", place / "phones", "--lexicon", tmp_path / "lexicon.txt", *common)
    assert code == 0
    assert {hit["word"] for hit in json.loads(out)} == {"gong"}
    code, out, _ = run("gong", "--model", place / "letters", *common)
    assert code == 0
    code, _, err = run("XYZ", "--model", place / "letters", *common)
    assert (code, "training did not have these" in err) == (1, True)


def test_the_lexicon_is_for_words_that_training_did_not_have(place, tmp_path):
    common = ("--recordings", place / "audio", "--search.threshold", "-1.0", "--json")
    (tmp_path / "lexicon.txt").write_text("go n n n\ngong g oU N\n")
    for model, word in (("phones", "go"), ("letters", "go"), ("letters", "gon")):
        words = (word, "--model", place / model, *common)
        assert run(*words, "--lexicon", tmp_path / "lexicon.txt") == run(*words)
    code, out, err = run("gong", "--model", place / "phones", "--lexicon", tmp_path / "lexicon.txt", *common)
    assert (code, json.loads(out) != []) == (0, True)
    assert "'gong': N: training did not have these; check spelling and lexicon" in err


def test_faults_are_one_line(place, tmp_path):
    model = ("--model", place / "phones")
    assert run(*model, "--recordings", place / "audio")[0] == 2
    code, _, err = run("go", *model, "--recordings", tmp_path)
    assert (code, "no audio file is in or below it" in err) == (1, True)
    code, _, err = run("go", *model, "--recordings", tmp_path / "nowhere")
    assert (code, "no such file or folder" in err) == (1, True)
    assert run("go", *model, "--recordings", place / "audio", "--serach.top", "1")[0] == 2
    words = ("--recordings", place / "audio", "--out", tmp_path / "none" / "hits.txt")
    code, out, err = run("go", *model, *words, "--search.threshold", "-1.0")
    assert (code, out) == (1, "")
    assert f"{tmp_path / 'none'}: no such folder; make it, or choose another --out" in err
    code, _, err = run("go", "--model", place / "base", "--recordings", place / "audio")
    assert (code, err.count("\n")) == (1, 1)


def test_damaged_recordings_are_named_at_the_end(place, tmp_path):
    shutil.copytree(place / "audio", tmp_path / "audio")
    (tmp_path / "audio" / "2.wav").write_bytes(b"RIFF but nothing else")
    words = ("--recordings", tmp_path / "audio", "--search.threshold", "-1.0", "--search.top", "0")
    code, out, err = run("go", "--model", place / "phones", *words)
    assert code == 1
    assert {line.rpartition("/")[2] for line in out.splitlines()} == {f"{number}.wav" for number in (0, 1, 3, 4, 5)}
    assert err.startswith(f"audiossl: {tmp_path / 'audio' / '2.wav'}: ")


def test_silence_is_said(place):
    code, out, err = run(
        "go", "--model", place / "phones", "--recordings", place / "audio" / "0.wav", "--search.threshold", "1.1"
    )
    assert (code, out.strip()) == (0, "")
    assert "not heard above 1.1: go" in err
