"""`finetune` from a recipe to an experiment."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from corpora import noises, write_corpus, write_encoder
from thread_worlds import together

import audiossl
from audiossl.cli.export import main as export
from audiossl.cli.transcribe import main as transcribe
from audiossl.config import load_toml, write_toml
from audiossl.data.audio import write_audio
from audiossl.data.loader import LoaderConfig
from audiossl.data.whole import FileList
from audiossl.data.writer import CorpusUtterance, write_data_dir
from audiossl.diagnostics.results import read_results
from audiossl.interop.checkpoint import list_checkpoints, load_weights
from audiossl.interop.encoder import load_encoder
from audiossl.interop.experiments import open_experiment
from audiossl.train import run_finetune
from audiossl.train.distributed import World
from audiossl.train.fine_tune import FineTune
from audiossl.train.ledger import read_cost
from audiossl.train.run_finetune import finetune

RECIPE = """
[task]
name = "ctc"
[adapter]
name = "full"
[finetune]
mask_length = 3
channel_mask_length = 4
[data]
batch_seconds = 2.0
num_workers = 0
[optim]
peak_lr = 1e-2
weight_decay = 0.0
[train]
max_steps = 4
save_every = 1
keep_checkpoints = 4
precision = "fp32"
tensorboard = false
"""


@pytest.fixture
def place(tmp_path):
    write_encoder(tmp_path / "init")
    write_corpus(tmp_path, noises(range(9000, 13000, 1000)), columns={"text": ("AB", "BA A")})
    (tmp_path / "recipe.toml").write_text(RECIPE)
    return tmp_path


def run(place, out, **options):
    words = {"data": place / "data", "device": "cpu", **options, "init": str(options.get("init", place / "init"))}
    finetune(str(place / "recipe.toml"), out=place / out, **words)
    return [load_weights(checkpoint) for checkpoint in list_checkpoints(place / out)]


def moved(before, after):
    return {name.partition(".")[0] for name, value in before.items() if not torch.equal(value, after[name])}


def test_a_resumed_run_knows_how_long_the_encoder_rests(place):
    whole = run(place, "whole", overrides={"finetune": {"freeze_steps": 2}})
    assert [moved(*pair) for pair in itertools.pairwise(whole)] == [
        {"task"},
        {"encoder", "task"},
        {"encoder", "task"},
    ]
    for step in (1, 2):
        shutil.copytree(place / "whole", place / f"cut{step}")
        for checkpoint in list_checkpoints(place / f"cut{step}")[step:]:
            shutil.rmtree(checkpoint)
        resumed = run(place, f"cut{step}", resume=True)
        assert all(torch.equal(value, resumed[-1][name]) for name, value in whole[-1].items())


def test_scores_say_what_training_cost(place, capsys):
    run(place, "out", overrides={"train": {"max_steps": 1}})
    first = read_cost(place / "out")
    run(place, "out", overrides={"train": {"max_steps": 2}}, resume=True)
    second = read_cost(place / "out")
    assert second["seconds"] > first["seconds"] > 0
    assert transcribe(str(place / "out"), (place / "data",), num_workers=0, device="cpu") == 0
    assert "wer" in capsys.readouterr().err
    (place / "out" / "cost.json").unlink()  # as of a model trained before costs were noted
    assert transcribe(str(place / "out"), (place / "data",), num_workers=0, device="cpu") == 0
    *_, with_cost, _, without = read_results(place / "out")
    assert with_cost.more["train_seconds"] == second["seconds"]
    assert with_cost.more["train_joules"] == second["joules"]
    assert not {"train_seconds", "train_joules"} & without.more.keys()


def test_weight_decay_would_move_what_rests(place):
    with pytest.raises(ValueError, match=r"finetune\.freeze_steps: optim\.weight_decay 0\.01 would move what rests"):
        run(place, "out", overrides={"optim": {"weight_decay": 0.01}, "finetune": {"freeze_steps": 2}})


@pytest.mark.parametrize("steps", [4, 5])
def test_an_encoder_that_would_rest_to_the_end_is_refused(place, steps):
    said = rf"^finetune\.freeze_steps: {steps} of train\.max_steps 4: the encoder would never train; lower it, or set"
    with pytest.raises(ValueError, match=said):
        run(place, "out", overrides={"finetune": {"freeze_steps": steps}})
    assert not (place / "out").exists()


def test_a_whole_encoder_needs_no_other(place, capsys):
    write_toml(
        place / "init" / "config.toml", {**load_toml(place / "init" / "config.toml"), "run": {"kind": "wav2vec2"}}
    )
    run(place, "out", overrides={"train": {"max_steps": 2}})
    expected = audiossl.load(place / "out").state_dict()
    (place / "init").rename(place / "gone")
    found = audiossl.load(place / "out").state_dict()
    assert all(torch.equal(value, found[name]) for name, value in expected.items())
    assert transcribe(str(place / "out"), (place / "data",), num_workers=0, device="cpu") == 0
    capsys.readouterr()
    assert export(str(place / "out"), to="transformers", out=place / "hf") == 0
    assert capsys.readouterr().out == f"{place / 'hf'}: wav2vec2 for transformers\n"
    said = f"^{place / 'out'}: needs the encoder that it was trained on, {place / 'init'}, which is not there; put it back, or"
    with pytest.raises(ValueError, match=said):
        run(place, "out", resume=True)
    config = load_toml(place / "out" / "config.toml")
    del config["run"]["kind"]  # as older ones are
    write_toml(place / "out" / "config.toml", config)
    assert open_experiment(place / "out").kind == "hubert"


def test_an_encoder_in_part_needs_the_other(place):
    run(place, "out", overrides={"adapter": {"name": "frozen"}, "train": {"max_steps": 1}})
    (place / "init").rename(place / "gone")
    said = f"^{place / 'out'}: needs the encoder that it was trained on, {place / 'init'}, which is not there; put it back, or"
    with pytest.raises(ValueError, match=said):
        audiossl.load(place / "out")
    with pytest.raises(ValueError, match=said):
        run(place, "out", overrides={"train": {"max_steps": 2}}, resume=True)
    with pytest.raises(ValueError, match=f"^{place / 'init'}: no such experiment"):
        run(place, "new")
    config = (place / "out" / "config.toml").read_text()
    (place / "out" / "config.toml").write_text(config.replace(str(place / "init"), str(place / "gone")))
    run(place, "out", init=place / "gone", overrides={"train": {"max_steps": 2}}, resume=True)
    audiossl.load(place / "out")


def test_a_crop_that_fine_tuning_would_not_make_is_refused(place):
    said = r"^data\.crop_duration: 2 would cut nothing, since fine-tuning learns from whole utterances; leave it"
    with pytest.raises(ValueError, match=said):
        run(place, "out", overrides={"data": {"crop_duration": 2.0}})
    assert not (place / "out").exists()


def test_recordings_with_too_few_frames_for_the_task_are_left_out(place, capsys):
    rows = []
    for number, samples in enumerate((9000, 9000, 3000)):
        path = place / f"short{number}.wav"
        write_audio(path, 0.1 * np.random.default_rng(number).standard_normal(samples), 16000)
        rows.append(CorpusUtterance(f"s{number}-0", f"s{number}-0", path, f"s{number}"))
    write_data_dir(rows, place / "short")
    (place / "short" / "trials").write_text("s0-0 s0-0 target\ns0-0 s1-0 nontarget\n")
    overrides = {
        "task": {"name": "speaker_verification", "hidden_dim": 8, "pooled_dim": 12},
        "data": {"max_bad_fraction": 0.5}, "train": {"max_steps": 2, "eval_every": 2},
    }  # fmt: skip
    run(place, "out", data=place / "short", dev=place / "short", overrides=overrides)
    said = capsys.readouterr().err
    assert "s2-0: 9 frames, fewer than the 16 that the task needs; set data.min_duration" in said
    assert "s2-0: 0.188 s is too short for 16 frames (0.325 s); leave it out" in said
    assert "dev eer" in said


@pytest.mark.parametrize("encoder", [{}, {"dropout": 0.0}, {"name": "wav2vec2"}])
def test_an_encoder_of_another_kind_is_one_short_line(place, encoder):
    write_encoder(place / "simclr", "fast_resnet34")
    said = rf"^{place}/simclr: cannot be fine-tuned: FastResNet34 has no contextualise; encoders that have: .{{,200}}$"
    with pytest.raises(ValueError, match=said):
        run(place, "out", init=place / "simclr", overrides={"encoder": encoder})
    said = r"init: its encoder is wav2vec2, the recipe's \[encoder\] is conformer; start from one that is conformer$"
    with pytest.raises(ValueError, match=said):
        run(place, "out", overrides={"encoder": {"name": "conformer"}})
    assert not (place / "out").exists()


@pytest.mark.parametrize("prefix", ["", "random:"])
@pytest.mark.parametrize("name", ["model.pt", "folder"])
def test_a_downloaded_checkpoint_is_to_be_imported_first(place, prefix, name):
    (place / "folder").mkdir()
    (place / "folder" / "config.json").write_text("{}")
    (place / "model.pt").touch()
    said = f"^{place}/{name}: is no experiment; .* run `audiossl import {place}/{name} --out EXP` and give EXP$"
    with pytest.raises(ValueError, match=said):
        run(place, "out", init=f"{prefix}{place}/{name}")
    with pytest.raises(ValueError, match=said):
        load_encoder(f"random:{place}/{name}")


@pytest.mark.parametrize("adapter", ["houlsby", "lora", "mms"])
def test_adapters_are_not_fine_tuned_again(place, adapter):
    run(place, "asr", overrides={"adapter": {"name": adapter}, "train": {"max_steps": 1}})
    said = rf"^{place}/asr: has adapters; start from {place}/init \(what it was started from\), or from one fine-tuned in full$"
    with pytest.raises(ValueError, match=said):
        run(place, "out", init=place / "asr")
    assert not (place / "out").exists()


def test_labels_that_are_missing_stop_before_training(place):
    shutil.copytree(place / "data", place / "dev")
    rows = (place / "dev" / "text").read_text().splitlines(keepends=True)
    (place / "dev" / "text").write_text("".join(rows[1:]))
    lacking = r"/dev/text: no line for utterance 's-0'; add it or run `audiossl data fix`"
    with pytest.raises(ValueError, match=lacking):
        run(place, "out", dev=place / "dev")
    assert not (place / "out").exists()
    words = {"init": str(place / "init"), "data": place / "dev", "device": "cpu"}
    with pytest.raises(ValueError, match=f"^{place}{lacking}"):  # the place is named once
        finetune(str(place / "recipe.toml"), out=place / "out", **words)


def give_two_speakers(data):
    (data / "utt2spk").write_text("".join(f"s-{number} {'st'[number // 2]}\n" for number in range(4)))
    (data / "spk2utt").write_text("s s-0 s-1\nt s-2 s-3\n")


@pytest.mark.parametrize(
    ("task", "name", "lines", "said"),
    [
        (
            {"name": "speaker_verification", "hidden_dim": 8, "pooled_dim": 12},
            "trials",
            "s-0 s-1 target\ns-0 s-9 nontarget\n",
            "dev/trials:2: 's-9' is no utterance of this directory",
        ),
        (
            {"name": "word_embedding", "column": "text", "dim": 6, "hidden_dim": 5, "symbol_dim": 4},
            "phones.ctm",
            "s-0 1 0.0 0.1 a\n",
            "dev/text: no utterance of 'BA A' has phones",
        ),
        ({"name": "ctc"}, "text", "s-0\ns-1\ns-2\ns-3\n", "dev/text: no utterance has a word; give texts"),
    ],
)
def test_labels_that_cannot_be_scored_stop_before_training(place, task, name, lines, said):
    phones = [f"s-{number} 1 0.0 0.1 {'ab'[number % 2]}\n" for number in range(4)]
    (place / "data" / "phones.ctm").write_text("".join(phones))
    give_two_speakers(place / "data")
    shutil.copytree(place / "data", place / "dev", ignore=shutil.ignore_patterns(".index"))
    (place / "dev" / name).write_text(lines)
    with pytest.raises(ValueError) as error:
        run(place, "out", dev=place / "dev", overrides={"task": task})
    assert said in str(error.value)
    assert not (place / "out").exists()


def test_phones_are_not_taken_from_words(place):
    phones = {"task": {"tokens": "phones"}, "train": {"max_steps": 1}}
    with pytest.raises(ValueError, match=rf"^{place}/data/utt2phones: no such file; the columns .* are: text, utt2dur"):
        run(place, "out", overrides=phones)
    assert not (place / "out").exists()
    (place / "data" / "utt2phones").write_text("".join(f"s-{number} AA0 B\n" for number in range(4)))
    run(place, "out", dev=place / "data", overrides=phones)
    assert json.loads((place / "out" / "vocabulary.json").read_text())["tokens"] == ["<blank>", "<unk>", "AA0", "B"]
    assert load_toml(place / "out" / "config.toml")["task"]["column"] == "utt2phones"


def test_phones_of_the_text_go_on_where_that_was_said(place, capsys):
    """As experiments have it that were made while `text` was the default of phones too."""
    run(place, "out", overrides={"task": {"tokens": "phones", "column": "text"}, "train": {"max_steps": 1}})
    run(place, "out", overrides={"task": {"tokens": "phones"}, "train": {"max_steps": 2}}, resume=True)
    capsys.readouterr()
    assert transcribe(str(place / "out"), (place / "data",), num_workers=0, device="cpu") == 0
    assert "data: per " in capsys.readouterr().err


@pytest.mark.parametrize("tokens", ["characters", "words", "bpe"])
@pytest.mark.parametrize("kept", [0, 1, 4])
def test_development_text_that_is_unlike_training_text_is_told(place, capsys, tokens, kept):
    options = {"tokens": tokens}
    if tokens == "bpe":
        pytest.importorskip("sentencepiece", reason="word pieces need the extra `asr`")
        options["bpe_size"] = 5
    shutil.copytree(place / "data", place / "dev", ignore=shutil.ignore_patterns(".index"))
    texts = ["BA A", "AB", "BA A", "AB"]
    lines = [f"s-{k} {text if k < kept else text.lower()}\n" for k, text in enumerate(texts)]
    (place / "dev" / "text").write_text("".join(lines))
    overrides = {"task": options, "train": {"max_steps": 1}}
    where = place / "dev" / "text"
    if not kept:
        cure = (
            "if they were in upper case: write both in one case; give texts like those of training, or leave out --dev$"
        )
        lacks = rf"^{where}: training has none of the \d+ tokens looked at, and not those of 'ba', and \d+ {cure}"
        with pytest.raises(ValueError, match=lacks):
            run(place, "out", dev=place / "dev", overrides=overrides)
        assert not (place / "out").exists()
        return
    run(place, "out", dev=place / "dev", overrides=overrides)
    told = [line for line in capsys.readouterr().err.splitlines() if str(where) in line]
    assert len(told) == (kept < 4)
    if told:
        assert told[0].startswith(f"warning: {where}: training has ")
        assert " if they were in upper case: write both in one case; what training lacks cannot be read" in told[0]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_development_data_are_read_in_float32_as_by_transcribe(place, monkeypatch, precision):
    lowered, predict = [], FineTune.predict

    def noted(module, batch):
        lowered.append(torch.is_autocast_enabled("cpu"))
        return predict(module, batch)

    monkeypatch.setattr(FineTune, "predict", noted)
    run(place, "out", dev=place / "data", overrides={"train": {"max_steps": 1, "precision": precision}})
    assert lowered
    assert not any(lowered)


def test_tasks_that_average_are_scored_some_at_a_time(monkeypatch):
    seen = []

    def evaluate(predictions, _):
        seen.append(len(predictions))
        return {"snr": sum(predictions.values()) / len(predictions)}

    said = [[(str(number), float(number)) for number in range(5)], []]
    monkeypatch.setattr(run_finetune, "predict_all", lambda *_, **__: iter(said.pop(0)))
    monkeypatch.setattr(run_finetune, "_SCORED_TOGETHER", 2, raising=False)
    measure = run_finetune._scorer(FileList(()), LoaderConfig(), World(0, 1, torch.device("cpu")))
    module = SimpleNamespace(task=SimpleNamespace(averages=True, evaluate=evaluate))
    assert measure(module, print) == {"snr": 2.0}
    assert seen == [2, 2, 1]
    with pytest.raises(ValueError, match=r"recordings: no recording can be used; mend the data"):
        measure(module, print)


@pytest.mark.parametrize("averages", [False, True])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_processes_share_the_development_data(monkeypatch, averages, size):
    """Eleven utterances in batches of two, the third of which cannot be used."""
    heard, said = [], []

    def one_epoch(*_, first, step, **__):
        for number in range(0, 12, 2)[first::step]:
            heard.append(number)
            names = [str(each) for each in range(number, min(number + 2, 11)) if each != 2]
            yield {"utt_ids": names, "bad": [("2", "silent")] if number == 2 else []}

    def evaluate(predictions, _):
        return {"snr": sum(predictions.values()) / len(predictions), "count": len(predictions)}

    def forward(batch):
        return [float(name) for name in batch["utt_ids"]]

    monkeypatch.setattr("audiossl.data.whole.one_epoch", one_epoch)
    monkeypatch.setattr("audiossl.data.frame_grid.FrameGrid.of", lambda _: SimpleNamespace(samples_of=lambda _: 1))
    task = SimpleNamespace(averages=averages, evaluate=evaluate, min_frames=1)
    module = SimpleNamespace(
        task=task,
        encoder=SimpleNamespace(sample_rate=16_000),
        predict=forward,
        parameters=lambda: iter([torch.ones(1)]),
    )
    files = FileList(tuple(map(Path, map(str, range(11)))))

    def measure(world):
        return run_finetune._scorer(files, LoaderConfig(max_bad_fraction=0.1), world)(module, said.append)

    scores = together(size, measure)
    assert [each["snr"] for each in scores] == pytest.approx([5.3] * size)
    assert averages or {each["count"] for each in scores} == {10}
    assert sorted(heard) == list(range(0, 12, 2))
    assert said == ["left out 2: silent"] * size


def test_what_only_superb_reads_with_is_refused(place):
    decoding = {"lm": "lm.arpa", "lexicon": "lexicon.txt"}
    recipe = place / "recipe.toml"
    recipe.write_text(RECIPE.replace('"ctc"', '"speech_recognition"'))
    with pytest.raises(ValueError, match=r"^task\.decoding: only `audiossl superb` reads with it; leave it out$"):
        run(place, "out", overrides={"task": {"decoding": decoding}})


def test_the_recipe_regularises_in_place_of_pretraining(place):
    run(place, "out", overrides={"encoder": {"dropout": 0.0, "activation_dropout": 0.25}, "train": {"max_steps": 1}})
    text = (place / "out" / "config.toml").read_text()
    assert "activation_dropout = 0.25" in text
    assert "\ndropout = 0.0" in text


@pytest.mark.parametrize("tokens", ["characters", "bpe"])
def test_tokens_are_kept_in_the_experiment(place, tokens):
    options = {"tokens": tokens}
    if tokens == "bpe":
        pytest.importorskip("sentencepiece", reason="word pieces need the extra `asr`")
        options["bpe_size"] = 5
    run(place, "out", overrides={"task": options, "train": {"max_steps": 1}})
    made = {path.name for path in (place / "out").iterdir()}
    assert "vocabulary.json" in made
    assert ("bpe.model" in made) is (tokens == "bpe")
    run(place, "out", resume=True)


def test_a_resumed_run_keeps_its_adapter_and_task(place):
    run(place, "out", overrides={"train": {"max_steps": 1}})
    config = place / "out" / "config.toml"
    before = config.read_bytes()
    for table, changes, said in (
        ("adapter", {"name": "frozen"}, "adapter.name is 'full', 'frozen' would make it another run"),
        ("task", {"dropout": 0.5}, "task.dropout is 0.0, 0.5 would"),
        ("finetune", {"mask_length": 4}, "finetune.mask_length is 3, 4 would"),
        ("encoder", {"dropout": 0.5}, "encoder.dropout is "),
    ):
        with pytest.raises(ValueError, match=re.escape(f"{config}: {said}")):
            run(place, "out", overrides={table: changes}, resume=True)
        assert config.read_bytes() == before
    run(place, "out", overrides={"adapter": {"name": "full"}, "train": {"max_steps": 2}}, resume=True)


@pytest.mark.parametrize(
    ("new", "said"), [("ABCDE A", "'C' is new"), ("AC", "'C' is new, 'B' is gone"), ("A", "'B' is gone")]
)
def test_labels_that_changed_are_not_those_of_the_experiment(place, new, said):
    run(place, "out", overrides={"train": {"max_steps": 1}})
    before = {path.name: path.read_bytes() for path in (place / "out").iterdir() if path.is_file()}
    text = place / "data" / "text"
    text.write_text(text.read_text().replace("AB", new).replace("BA A", new))
    said = f"{place / 'data'}: its labels are no longer those of {place / 'out' / 'vocabulary.json'}: {said}; put them back"
    with pytest.raises(ValueError, match=re.escape(said)):
        run(place, "out", overrides={"train": {"max_steps": 2}}, resume=True)
    assert {path.name: path.read_bytes() for path in (place / "out").iterdir() if path.is_file()} == before


@pytest.mark.parametrize(
    ("task", "lacking"),
    [
        ({"name": "speaker_verification", "hidden_dim": 8, "pooled_dim": 12}, "trials"),
        ({"name": "word_embedding", "column": "text", "dim": 6, "hidden_dim": 5, "symbol_dim": 4}, "phones.ctm"),
    ],
)
def test_what_evaluation_reads_is_missed_before_training(place, task, lacking):
    give_two_speakers(place / "data")
    shutil.copytree(place / "data", place / "dev", ignore=shutil.ignore_patterns(".index"))
    lines = [f"s-{number} 1 0.0 0.1 {'ab'[number % 2]}\n" for number in range(4)]
    (place / "data" / "phones.ctm").write_text("".join(lines))
    said = rf"^{place}/dev/{lacking}: no such file, and --dev is scored by it in the task {task['name']}; write it, or leave out --dev$"
    with pytest.raises(ValueError, match=said):
        run(place, "out", dev=place / "dev", overrides={"task": task})
    assert not (place / "out").exists()
