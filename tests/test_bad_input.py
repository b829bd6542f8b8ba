"""What users get wrong, through the real command: one line, exit status 1, and nothing lost."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
import soundfile
from chain_runs import RATE, RECIPE, UNITS, audiossl, losses, make_data, succeed, write_recipe

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


def fails(*words):
    status, out, err = audiossl(*words)
    assert (status, out) == (1, "")
    assert "Traceback" not in err
    assert err.splitlines()[-1].startswith("audiossl: ")
    return err.splitlines()[-1]


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
    succeed("units", "apply", "--data", other, "--codebook", tmp_path / "km1", *apply)
    assert "made by codebook" in fails(*words, tmp_path / "e", "--dev", other)
    table = data / "units" / "km"
    lines = table.read_text().splitlines()
    table.write_text("\n".join([" ".join(lines[0].split()[:-9]), *lines[1:]]) + "\n")
    assert "labels; " in fails(*words, tmp_path / "e")
    # Nothing of these is left that a run with mended units would trip over.
    assert not (tmp_path / "e").exists()
    table.write_text("\n".join(lines) + "\n")
    succeed(*words, tmp_path / "e", "--train.max_steps", "2")
