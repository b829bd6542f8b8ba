"""What users get wrong, through the real command: one line, exit status 1, and nothing lost."""

from __future__ import annotations

import os
import re
import shutil

import numpy as np
import pytest
import soundfile
from chain_runs import RATE, RECIPE, UNITS, losses, make_data, write_recipe
from command import fails, succeed

STEPS = ["--device", "cpu", "--train.max_steps", "14", "--train.log_every", "100"]


def break_recordings(folder, first):
    """Spoil six recordings, each in its own way; returns their utterances and what a message about each says."""
    paths = [folder / "audio" / f"{number:03}.wav" for number in range(first, first + 6)]
    samples = soundfile.info(paths[2]).frames
    paths[0].unlink()
    os.truncate(paths[1], paths[1].stat().st_size // 2)
    os.truncate(paths[2], 0)
    soundfile.write(paths[3], np.zeros(samples), RATE)
    soundfile.write(paths[4], np.full(samples, np.nan, dtype=np.float32), RATE, subtype="FLOAT")
    text = paths[5].with_suffix(".flac")
    text.write_text("this is no recording\n")
    paths[5].unlink()
    table = folder / "data" / "wav.scp"
    table.write_text(table.read_text().replace(str(paths[5]), str(text)))
    names = [f"s{number % 2}-{number:03}" for number in range(first, first + 6)]
    return dict(
        zip(names, ["no such file", "cut short", "empty file", "silent", "NaN", "no readable audio"], strict=True)
    )


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    root = tmp_path_factory.mktemp("sound")
    return make_data(root)


@pytest.fixture
def recipe(tmp_path):
    return write_recipe(tmp_path)


@pytest.mark.slow
def test_one_per_cent_of_broken_recordings(tmp_path, recipe):
    data = make_data(tmp_path / "c", 600, seconds=(3, 5))
    words = ["pretrain", recipe, "--data", data, *STEPS, "--data.batch_seconds", "30"]
    # The first run makes the units of all while they are whole.
    succeed(*words, "--out", tmp_path / "whole")
    broken = break_recordings(tmp_path / "c", 100)
    succeed(*words, "--out", tmp_path / "most")
    log = (tmp_path / "most" / "log" / "train.log").read_text().splitlines()
    named = [line for line in log if line.startswith("left out")]
    assert len(named) == 6
    for utterance, message in broken.items():
        [line] = [line for line in named if line.startswith(f"left out {utterance}: ")]
        assert message in line
    assert all(np.isfinite(loss) for _, loss in losses(tmp_path / "most"))
    # Units, too, can be made of such a corpus.
    shutil.rmtree(data / "units")
    _, err = succeed(*words, "--out", tmp_path / "units")
    assert all(f"left out {utterance}: " in err for utterance in broken)
    assert losses(tmp_path / "units")[0][0] == 1
    # Fine-tuning does the same.
    words_tuned = ["finetune", "ctc_adapters_nano", "--init", tmp_path / "most", "--data", data, "--dev", data, *STEPS]
    words_tuned += ["--adapter.bottleneck", "4", "--data.num_workers", "0", "--train.tensorboard", "false"]
    _, err = succeed(*words_tuned, "--out", tmp_path / "asr")
    assert all(f"left out {utterance}: " in err for utterance in broken)
    # On the development data they are named as well.
    _, err = succeed(*words, "--dev", data, "--out", tmp_path / "dev", "--train.max_steps", "1")
    assert all(f"left out {utterance}: " in err for utterance in broken)
    break_recordings(tmp_path / "c", 200)
    error = fails(*words, "--out", tmp_path / "too_many")
    assert "7 of 600 utterances cannot be used, more than max_bad_fraction 0.01 allows" in error
    # Who knows better says so, for units and training alike.
    shutil.rmtree(data / "units")
    _, err = succeed(*words, "--out", tmp_path / "told", "--max-bad-fraction", "0.05", "--train.max_steps", "1")
    assert err.count("left out s") >= 12


def test_an_existing_experiment_is_kept(tmp_path, recipe, sound):
    data, out = tmp_path / "data", tmp_path / "e"
    shutil.copytree(sound, data)
    words = ["pretrain", recipe, "--data", data, "--out", out, "--device", "cpu"]
    _, err = succeed(*words, "--train.eval_every", "2")
    assert "train.eval_every is 2, but no development data is given" in err
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert "exists already; continue it with --resume" in fails(*words)
    assert f"--data {sound}: {out} began with {data}" in fails(
        "pretrain", recipe, "--data", sound, "--out", out, "--resume"
    )
    for name in ("wav.scp", "utt2spk", "spk2utt", "utt2dur", "text", "utt2keyword"):
        lines = (data / name).read_text().splitlines()
        kept = [line.replace(" s1-011", "") for line in lines if not line.startswith("s1-011")]
        (data / name).write_text("\n".join(kept) + "\n")
    assert f"{data}: has 11 utterances, 12 when this experiment began" in fails(*words, "--resume")
    assert {path: path.read_bytes() for path in before} == before


def test_a_resumed_run_stays_the_same_run(tmp_path, recipe, sound):
    out = tmp_path / "e"
    words = ["pretrain", recipe, "--data", sound, "--out", out, "--device", "cpu"]
    succeed(*words)
    config = out / "config.toml"
    before = config.read_bytes()
    for option, value, said in (
        ("encoder.dim", "64", "encoder.dim is 32, 64 would"),
        ("encoder.name", "wav2vec2", "encoder.name is 'fbank', 'wav2vec2' would"),
        ("objective.mask_prob", "0.5", "objective.mask_prob is 0.8, 0.5 would"),
        ("data.batch_seconds", "3", "data.batch_seconds is 2.0, 3.0 would"),
        ("data.augment.gain_probability", "1", "data.augment."),
        ("train.seed", "1", "train.seed is 0, 1 would"),
        ("optim.weight_decay", "0", "optim.weight_decay is 0.01, 0.0 would"),
        ("units.clusters", "9", "units.clusters is 8, 9 would"),
    ):
        error = fails(*words, "--resume", f"--{option}", value)
        assert f"{config}: {said}" in error
        assert error.endswith("or choose another --out")
        assert config.read_bytes() == before
    same = ["--encoder.dim", "32", "--data.batch_seconds", "2", "--objective.labels", '["km"]']
    other = ["--train.max_steps", "8", "--train.log_every", "1", "--train.save_every", "5", "--data.num_workers", "1"]
    succeed(*words, "--resume", *same, *other, "--optim.peak_lr", "1e-4", "--train.tensorboard", "false")
    assert [step for step, _ in losses(out)] == list(range(1, 9))
    assert "max_steps = 8" in config.read_text()
    # What no option says: a checkpoint of another model.
    spoilt = config.read_text().replace("\ndim = 32", "\ndim = 64")
    config.write_text(spoilt)
    assert "step_00000008: does not fit what the recipe and the data make now: size mismatch" in fails(
        *words, "--resume"
    )
    assert config.read_text() == spoilt
    # Where nothing was trained yet, nothing is at stake.
    shutil.rmtree(out / "checkpoints")
    succeed(*words, "--resume", "--objective.mask_prob", "0.5", "--train.max_steps", "1")


def test_wrong_recipes(tmp_path, recipe, sound):
    words = ["--data", sound, "--out", tmp_path / "e", "--device", "cpu"]
    assert "did you mean 'mask_prob'" in fails("pretrain", recipe, *words, "--objective.mask_probe", "0.5")
    assert "did you mean 'encoder'" in fails("pretrain", recipe, *words, "--encode.dim", "1")
    assert "no such recipe file" in fails("pretrain", tmp_path / "none.toml", *words)
    assert "no data is given; add --data DIR" in fails("pretrain", recipe, "--out", tmp_path / "e")
    assert "no data directory" in fails("pretrain", recipe, "--data", tmp_path, "--out", tmp_path / "e")
    assert not (tmp_path / "e").exists()


def test_units_that_are_missing_or_mean_nothing(tmp_path, sound):
    data = tmp_path / "data"
    shutil.copytree(sound, data, ignore=shutil.ignore_patterns("units"))
    recipe = write_recipe(tmp_path, RECIPE.replace(UNITS, ""))
    words = ["pretrain", recipe, "--data", data, "--device", "cpu", "--out"]
    assert "units/km.json: no such file; make the units" in fails(*words, tmp_path / "e")
    fit = ["--clusters", "8", "--num-workers", "0"]
    for seed in (0, 1):
        succeed("units", "fit", "--data", data, "--out", tmp_path / f"km{seed}", *fit, "--seed", seed)
    apply = ["--name", "km", "--num-workers", "0"]
    succeed("units", "apply", "--data", data, "--codebook", tmp_path / "km0", *apply)
    other = tmp_path / "other"
    shutil.copytree(data, other)
    succeed("units", "apply", "--data", other, "--codebook", tmp_path / "km1", *apply, "--overwrite")
    assert "made by codebook" in fails(*words, tmp_path / "e", "--dev", other)
    table = data / "units" / "km"
    lines = table.read_text().splitlines()
    table.write_text("\n".join([" ".join(lines[0].split()[:-9]), *lines[1:]]) + "\n")
    assert "labels; " in fails(*words, tmp_path / "e")
    # Also where the encoder would first measure recordings, of which it could use none.
    table.write_text("".join(" ".join(line.split()[:-9]) + "\n" for line in lines))
    assert re.search(rf"{table}: 's0-000' has \d+ labels; .* should give about", fails(*words, tmp_path / "e"))
    table.write_text("".join(line.split()[0] + " 0\n" for line in lines))
    assert re.search(rf"{table}: 's0-000' has 1 labels; ", fails(*words, tmp_path / "e"))
    # Nothing of these is left that a run with mended units would trip over.
    assert not (tmp_path / "e").exists()
    table.write_text("\n".join(lines) + "\n")
    succeed(*words, tmp_path / "e", "--train.max_steps", "2")


def test_recordings_that_are_all_unusable_are_named_before_training(tmp_path, recipe):
    data = make_data(tmp_path / "c", 4)
    words = ["pretrain", recipe, "--data", data, "--device", "cpu", "--units.clusters", "4"]
    succeed(*words, "--out", tmp_path / "units", "--train.max_steps", "1")
    for path in (tmp_path / "c" / "audio").iterdir():
        path.write_bytes(b"")
    error = fails(*words, "--out", tmp_path / "e")
    assert re.search(r"\d of 4 utterances cannot be used, .* The first: s[01]-00\d: .*empty file", error)
    error = fails(*words, "--out", tmp_path / "e", "--max-bad-fraction", "1")
    assert re.search(r"every recording of 10 batches is unusable, such as s[01]-00\d \(.*empty file", error)
    assert not (tmp_path / "e").exists()


def test_a_file_where_the_experiment_should_go(tmp_path, recipe, sound):
    (tmp_path / "file").write_text("mine")
    for verb, more in (("pretrain", ()), ("finetune", ("--init", tmp_path))):
        for place in ("file", "file/e"):
            words = [verb, recipe, "--data", sound, "--out", tmp_path / place, "--device", "cpu", *more]
            assert "is a file, no folder; choose another --out or remove it" in fails(*words)
    assert (tmp_path / "file").read_text() == "mine"


def test_programs_in_wav_scp_run_only_if_allowed(tmp_path, recipe, sound):
    data = tmp_path / "data"
    shutil.copytree(sound, data, ignore=shutil.ignore_patterns("units", ".index"))
    rows = (line.split() for line in (data / "wav.scp").read_text().splitlines())
    (data / "wav.scp").write_text("".join(f"{name} cat {path} |\n" for name, path in rows))
    words = ["pretrain", recipe, "--data", data, "--out", tmp_path / "e", *STEPS, "--train.max_steps", "2"]
    assert "give --allow-commands, or make shards of it with `audiossl data shard" in fails(*words)
    assert not (tmp_path / "e").exists()
    succeed(*words, "--allow-commands")
    succeed(*words, "--train.max_steps", "3", "--resume")  # the experiment remembers it
    succeed("data", "shard", data, tmp_path / "shards", "--allow-commands")
    succeed(
        "pretrain", recipe, "--data", tmp_path / "shards", "--out", tmp_path / "s", *STEPS, "--train.max_steps", "2"
    )
