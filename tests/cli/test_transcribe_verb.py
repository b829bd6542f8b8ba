"""`audiossl transcribe` with tasks other than CTC: scored as their training scores them, refused where they write no text."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from audiossl import registry
from audiossl.cli.main import main
from audiossl.config import to_table, write_toml
from audiossl.data.audio import write_audio
from audiossl.data.writer import CorpusUtterance, write_data_dir
from audiossl.diagnostics.results import read_results
from audiossl.encoders.wav2vec2 import Wav2Vec2
from audiossl.interop.checkpoint import save_checkpoint
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
    place, rng, rows = tmp_path_factory.mktemp("transcribe"), np.random.default_rng(0), []
    for number in range(4):
        path = place / f"{number}.wav"
        write_audio(path, 0.1 * rng.standard_normal(9000 + 1000 * number), 16000)
        name, word = f"s{number % 2}-{number}", ("go", "no")[number // 2]
        columns = {"text": f"{word} on", "utt2word": word}
        columns |= {f"utt2{slot}": word for slot in ("action", "object", "location")}
        marks = [(0.1 * k, 0.1, phone) for k, phone in enumerate(word)]
        rows.append(CorpusUtterance(name, name, path, name[:2], columns=columns, phones=marks))
    write_data_dir(rows, place / "data")
    (place / "data" / "trials").write_text("s0-0 s0-2 target\ns0-0 s1-1 nontarget\n")
    (place / "lexicon.txt").write_text("go G OW1\nno N OW1\non AA1 N\n")
    torch.manual_seed(0)
    config = Wav2Vec2.Config.tiny()
    weights = {f"encoder.{name}": value for name, value in Wav2Vec2(config).state_dict().items()}
    save_checkpoint(place / "base", 1, weights, {}, keep=1)
    write_toml(place / "base" / "config.toml", {"encoder": {"name": "wav2vec2", **to_table(config)}})
    (place / "recipe.toml").write_text(RECIPE)
    return place


def fine_tuned(place, **task):
    """Return what training measured on the same data."""
    finetune(
        str(place / "recipe.toml"), out=place / task["name"], init=str(place / "base"), data=place / "data",
        dev=place / "data", overrides={"task": task}, device="cpu",
    )  # fmt: skip
    return json.loads((place / task["name"] / "best.json").read_text())


def transcribe(capsys, *words):
    with pytest.raises(SystemExit) as stop:
        main(["transcribe", *map(str, words), "--num-workers", "0", "--device", "cpu"])
    shown = capsys.readouterr()
    return stop.value.code, shown.out, shown.err


def test_phones_by_a_lexicon_are_scored_as_in_training(place, capsys):
    best = fine_tuned(
        place, name="phone_recognition", column="text", lexicon=[str(place / "lexicon.txt")], projector_dim=4
    )
    capsys.readouterr()
    status, out, err = transcribe(capsys, place / "phone_recognition", place / "data", "--json")
    assert status == 0, err
    assert json.loads(out)["scores"] == {str(place / "data"): {"per": pytest.approx(best["per"])}}
    [kept] = [row for row in read_results(place / "phone_recognition") if row.name == "per data"]
    assert kept.value == pytest.approx(best["per"])


def test_classes_of_several_columns_are_written_and_scored(place, capsys):
    best = fine_tuned(place, name="intent", projector_dim=0)
    capsys.readouterr()
    status, out, err = transcribe(capsys, place / "intent", place / "data", place / "0.wav", "--json")
    said = json.loads(out)
    assert status == 0, err
    assert said["scores"][str(place / "data")]["accuracy"] == pytest.approx(best["accuracy"])
    assert said["texts"][str(place / "0.wav")] == said["texts"]["s0-0"]
    assert len(said["texts"]["s0-0"].split()) == 3


@pytest.mark.parametrize(
    ("task", "cure"),
    [
        ({"name": "speaker_verification", "hidden_dim": 8, "pooled_dim": 12}, "`audiossl embed` takes its encoder"),
        ({"name": "word_embedding", "dim": 6, "hidden_dim": 5, "symbol_dim": 4}, "`audiossl search` takes it"),
    ],
)
def test_what_writes_no_text_is_refused(place, tmp_path, capsys, task, cure):
    fine_tuned(place, **task)
    capsys.readouterr()
    experiment = place / task["name"]
    for words in (("data",), ("0.wav",), ("0.wav", "--json"), ("0.wav", "--out", tmp_path / "texts")):
        status, out, err = transcribe(capsys, experiment, place / words[0], *words[1:])
        assert (status, out) == (1, "")
        assert err.startswith(f"audiossl: {experiment}: its task {task['name']!r} writes no text; {cure}")
        assert err.count("\n") == 1
    assert not (tmp_path / "texts").exists()


def test_every_task_says_what_it_predicts():
    tasks = [registry.get("tasks", name) for name in registry.names("tasks")]
    said = {cls.__name__ for cls in tasks if issubclass(cls, Task) and cls.writes_text}
    strings = {
        cls.__name__
        for cls in tasks
        if issubclass(cls, Task) and str(cls.predict.__annotations__["return"]) == "list[str]"
    }
    assert said == strings
