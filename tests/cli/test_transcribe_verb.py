"""`audiossl transcribe` with tasks other than CTC: scored as their training scores them, refused where they write no text."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from command import audiossl
from corpora import noises, tenths, write_corpus, write_encoder

from audiossl import registry
from audiossl.data.audio import write_audio
from audiossl.data.writer import CorpusUtterance, write_data_dir
from audiossl.diagnostics.results import read_results
from audiossl.encoders.wav2vec2 import Wav2Vec2
from audiossl.nn.task import Task
from audiossl.train.run_finetune import finetune

RECIPE = """
[adapter]
name = "frozen"
[finetune]
mask_prob = 0.0
channel_mask_prob = 0.0
[data]
batch_seconds = 4.0
num_workers = 0
[optim]
peak_lr = 1e-2
weight_decay = 0.0
[train]
max_steps = 1
save_every = 1
eval_every = 1
precision = "fp32"
tensorboard = false
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A data directory of noise with labels of many kinds, and an encoder with random weights."""
    place, words = tmp_path_factory.mktemp("transcribe"), ("go", "go", "no", "no")
    columns = dict.fromkeys(("utt2word", "utt2action", "utt2object", "utt2location"), words)
    columns["text"] = [f"{word} on" for word in words]
    marks = [tenths(word) for word in words]
    write_corpus(place, noises(range(9000, 13000, 1000)), speakers=("s0", "s1"), columns=columns, phones=marks)
    (place / "data" / "trials").write_text("s0-0 s0-2 target\ns0-0 s1-1 nontarget\n")
    (place / "lexicon.txt").write_text("go G OW1\nno N OW1\non AA1 N\n")
    write_encoder(place / "base")
    (place / "recipe.toml").write_text(RECIPE)
    return place


def fine_tuned(place, **task):
    """Return what training measured on the same data."""
    finetune(
        str(place / "recipe.toml"), out=place / task["name"], init=str(place / "base"), data=place / "data",
        dev=place / "data", overrides={"task": task}, device="cpu",
    )  # fmt: skip
    return json.loads((place / task["name"] / "best.json").read_text())


def transcribe(*words):
    return audiossl("transcribe", *words, "--num-workers", 0, "--device", "cpu")


def test_phones_by_a_lexicon_are_scored_as_in_training(place):
    best = fine_tuned(
        place, name="phone_recognition", column="text", lexicon=[str(place / "lexicon.txt")], projector_dim=4
    )
    status, out, err = transcribe(place / "phone_recognition", place / "data", "--json")
    assert status == 0, err
    assert json.loads(out)["scores"] == {str(place / "data"): {"per": pytest.approx(best["per"])}}
    [kept] = [row for row in read_results(place / "phone_recognition") if row.name == "per data"]
    assert kept.value == pytest.approx(best["per"])


def test_classes_of_several_columns_are_written_and_scored(place):
    best = fine_tuned(place, name="intent", projector_dim=0)
    status, out, err = transcribe(place / "intent", place / "data", place / "0.wav", "--json")
    said = json.loads(out)
    assert status == 0, err
    assert said["scores"][str(place / "data")]["accuracy"] == pytest.approx(best["accuracy"])
    assert said["texts"][str(place / "0.wav")] == said["texts"]["s0-0"]
    assert len(said["texts"]["s0-0"].split()) == 3


def test_a_directory_without_references_is_read_and_said_not_to_be_scored(place, tmp_path, keyword):
    shutil.copytree(place / "data", tmp_path / "data")
    (tmp_path / "data" / "utt2word").unlink()
    status, out, err = transcribe(keyword, tmp_path / "data", "--json")
    said = json.loads(out)
    assert (status, said["scores"], len(said["texts"])) == (0, {}, 4)
    assert f"{tmp_path / 'data'}: has no utt2word, so it is not scored" in err


@pytest.mark.parametrize(
    ("task", "cure"),
    [
        ({"name": "speaker_verification", "hidden_dim": 8, "pooled_dim": 12}, "`audiossl embed` takes its encoder"),
        ({"name": "word_embedding", "dim": 6, "hidden_dim": 5, "symbol_dim": 4}, "`audiossl search` takes it"),
    ],
)
def test_what_writes_no_text_is_refused(place, tmp_path, task, cure):
    fine_tuned(place, **task)
    experiment = place / task["name"]
    for words in (("data",), ("0.wav",), ("0.wav", "--json"), ("0.wav", "--out", tmp_path / "texts")):
        status, out, err = transcribe(experiment, place / words[0], *words[1:])
        assert (status, out) == (1, "")
        assert err.startswith(f"audiossl: {experiment}: its task {task['name']!r} writes no text; {cure}")
        assert err.count("\n") == 1
    assert not (tmp_path / "texts").exists()


@pytest.fixture(scope="module")
def keyword(place):
    fine_tuned(place, name="keyword", column="utt2word", projector_dim=0)
    return place / "keyword"


def test_long_recordings_are_heard_in_windows(place, tmp_path, monkeypatch):
    fine_tuned(place, name="ctc")
    write_audio(tmp_path / "long.wav", 0.1 * np.random.default_rng(0).standard_normal(80_000), 16000)
    heard, forward = [], Wav2Vec2.forward

    def note(self, waveform, *rest, **options):
        heard.append(waveform.shape[1] / 16_000)
        return forward(self, waveform, *rest, **options)

    monkeypatch.setattr(Wav2Vec2, "forward", note)
    for words, longest in (([], 5.0), (["--max-seconds", "2"], 2.1), (["--max-seconds", "0"], 5.0)):
        heard.clear()
        status, out, _ = transcribe(place / "ctc", tmp_path / "long.wav", *words)
        assert (status, out.split()[0]) == (0, str(tmp_path / "long.wav"))
        assert longest - 0.2 < max(heard) <= longest
    for seconds in ("0.5", "-3", "nan", "inf"):
        status, _, err = transcribe(place / "ctc", tmp_path / "long.wav", "--max-seconds", seconds)
        assert (status, err.count("\n")) == (1, 1)
        assert "is no length of a window; give at least 1, or 0 for no windows" in err


def test_ids_that_cannot_be_told_apart_or_written_are_refused_before_reading(place, keyword, tmp_path):
    shutil.copy(place / "0.wav", tmp_path / "Meeting 1.wav")
    words = (tmp_path / "Meeting 1.wav", "--out", tmp_path / "texts")
    status, out, err = transcribe(keyword, *words)
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert "Meeting 1.wav: its path is its id in --out, which must be UTF-8 without white space; rename it" in err
    assert transcribe(keyword, words[0])[0] == 0
    shutil.copytree(place / "data", tmp_path / "copy", ignore=shutil.ignore_patterns(".index"))
    status, out, err = transcribe(keyword, place / "data", tmp_path / "copy", *words[1:])
    assert (status, out) == (1, "")
    assert err.startswith(f"audiossl: {tmp_path / 'copy'}: has an utterance 's0-0', as another path has; transcribe")
    assert not (tmp_path / "texts").exists()


def test_what_cannot_be_scored_or_written_is_printed_all_the_same(place, keyword, tmp_path, monkeypatch):
    shutil.copytree(place / "data", tmp_path / "data", ignore=shutil.ignore_patterns(".index"))
    column = tmp_path / "data" / "utt2word"
    column.write_text("".join(column.read_text().splitlines(keepends=True)[1:]))
    status, out, err = transcribe(keyword, tmp_path / "data", "--out", tmp_path / "texts")
    assert (status, out.count("\n")) == (1, 4)
    assert err == (
        f"audiossl: {tmp_path / 'data'}: is not scored: {column}: no line for utterance 's0-0'; "
        "add it or run `audiossl data fix` on the directory\n"
    )
    assert (tmp_path / "texts").read_text() == out

    def full(*_):
        raise OSError(28, "No space left on device", "texts")

    monkeypatch.setattr("audiossl.cli.transcribe.write_table", full)
    status, out, err = transcribe(keyword, place / "data", "--out", tmp_path / "others")
    assert (status, out.count("\n")) == (1, 4)
    assert "texts" in err


def test_what_was_read_is_kept_where_nobody_reads_what_is_printed(place, keyword, tmp_path, monkeypatch):
    def gone(*_, **__):
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr("audiossl.cli.transcribe._show", gone)
    shutil.copytree(place / "data", tmp_path / "read", ignore=shutil.ignore_patterns(".index"))
    transcribe(keyword, tmp_path / "read", "--out", tmp_path / "texts")
    assert (tmp_path / "texts").read_text().count("\n") == 4
    assert " read" in (keyword / "results.json").read_text()


def test_what_is_left_out_is_counted_by_directory(place, keyword, tmp_path):
    for name in ("whole", "part"):
        rows = []
        for number in range(2):
            path = tmp_path / f"{name}-{number}.wav"
            shutil.copy(place / f"{number}.wav", path)
            rows.append(CorpusUtterance(path.stem, path.stem, path, name, columns={"utt2word": "go"}))
        write_data_dir(rows, tmp_path / name)
    for path in (tmp_path / "part-1.wav", tmp_path / "loose.wav"):
        path.write_bytes(b"RIFF but nothing else")
    words = [tmp_path / name for name in ("loose.wav", "whole", "part")]
    status, out, _ = transcribe(keyword, *words, "--json")
    assert (status, len(json.loads(out)["bad"])) == (1, 2)
    found = {row.name: row.more["left_out"] for row in read_results(keyword)}
    assert (found["accuracy whole"], found["accuracy part"]) == (0, 1)


def test_scores_have_their_own_units(place, keyword, tmp_path, monkeypatch):
    shutil.copytree(keyword, tmp_path / "keyword")
    values = {"bleu": 12.5, "accuracy": 50.0}
    monkeypatch.setattr(registry.get("tasks", "keyword"), "evaluate", lambda self, own, manifest: values)
    status, _, err = transcribe(tmp_path / "keyword", place / "data")
    assert (status, err.splitlines()[-1].endswith("/data: bleu 12.50, accuracy 50.00 %")) == (0, True)
    units = {row.name: row.unit for row in read_results(tmp_path / "keyword")}
    assert units.items() >= {"bleu data": "", "accuracy data": "%"}.items()


def test_scores_that_are_made_again_replace_their_rows(place, keyword, tmp_path):
    shutil.copytree(keyword, tmp_path / "again")
    (tmp_path / "again" / "results.json").unlink(missing_ok=True)
    for _ in range(2):
        transcribe(tmp_path / "again", place / "data")
    assert [row.name for row in read_results(tmp_path / "again")] == ["accuracy data"]


def test_every_task_says_what_it_predicts():
    tasks = [registry.get("tasks", name) for name in registry.names("tasks")]
    said = {cls.__name__ for cls in tasks if issubclass(cls, Task) and cls.writes_text}
    strings = {
        cls.__name__
        for cls in tasks
        if issubclass(cls, Task) and str(cls.predict.__annotations__["return"]).startswith("list[str]")
    }
    assert said == strings
