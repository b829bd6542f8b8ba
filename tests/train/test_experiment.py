"""What a run says of its batches before it begins."""

from __future__ import annotations

import errno
import fcntl
import itertools
import platform
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from audiossl.data.augment import AugmentConfig
from audiossl.data.loader import LoaderConfig, make_sampler
from audiossl.train.experiment import (
    MAY_CHANGE,
    _options,
    describe_batches,
    gather_tables,
    main_first,
    only_run,
    open_data,
    resolve,
    stream_of,
    write_config,
)
from audiossl.train.foreign import _NAMES
from audiossl.train.run_finetune import sections
from audiossl.train.run_pretrain import sections as pretraining_sections

SPEECH = np.random.default_rng(0).lognormal(np.log(8.0), 0.6, 20_000).clip(0.5, 35.0)


def described(durations, *, crops=True, **options):
    source = SimpleNamespace(path=Path("data/train"), durations=np.asarray(durations))
    return describe_batches(source, LoaderConfig(**options), seed=1, crops=crops)


def test_one_line_says_what_is_used_and_left_out():
    options = {"min_duration": 2.0, "max_duration": 30.0}
    [line] = described(SPEECH, **options)
    sampler = make_sampler(SimpleNamespace(durations=SPEECH), LoaderConfig(**options), seed=1)
    assert line.startswith(f"data/train: {len(sampler)} utterances, ")
    short, long = (SPEECH < 2.0).sum(), (SPEECH > 30.0).sum()
    assert f"left out: {short} too short, {long} too long" in line
    share = float(line.split("; ")[-1].partition("%")[0])
    assert share >= 95.0
    assert share == pytest.approx(100 * sampler.useful_fraction(), abs=0.05)


def test_much_padding_is_a_warning_with_a_cure():
    line, warning = described([1.0, 5.0, 10.0], batch_seconds=100.0)
    assert "53.3% of the batches is audio" in line
    assert warning.startswith("warning: 46.7% of the batches is padding")
    assert warning.endswith("lower data.batch_seconds, or set data.crop_duration or data.max_duration")
    _, whole = described([1.0, 5.0, 10.0], batch_seconds=100.0, crops=False)
    assert whole.endswith("lower data.batch_seconds, or set data.max_duration")
    assert len(described([1.0, 5.0, 10.0], batch_seconds=10.0)) == 1


def test_what_may_change_exists():
    pretraining, tuning = (resolve_all(made) for made in (pretraining_sections(), sections()))
    known = pretraining | tuning
    assert {name for name in MAY_CHANGE if name not in known} == set()


def test_a_stream_that_could_give_nothing_is_refused_at_once(tmp_path):
    source = SimpleNamespace(path=tmp_path, ids=["a"], durations=np.ones(1), column=lambda name: [name])
    module = SimpleNamespace(needs=("units/km",), views=None, batch_views=None)
    faster = LoaderConfig(augment=AugmentConfig(speed_probability=0.5))
    with pytest.raises(ValueError, match="what units/km says is aligned"):
        stream_of(source, module, faster, sample_rate=16000, seed=0)
    noisy = LoaderConfig(augment=AugmentConfig(noise_probability=0.5, noise_dirs=(tmp_path / "musan",)))
    with pytest.raises(ValueError, match="musan: no data directory"):
        stream_of(source, module, noisy, sample_rate=16000, seed=0)
    stream_of(source, module, LoaderConfig(), sample_rate=16000, seed=0)


def test_the_next_batch_comes_in_the_place_of_one_that_is_all_unusable(tmp_path):
    names = [f"u{number}" for number in range(12)]

    def audio(index, **_):
        if index in {2, 3}:
            raise ValueError(f"{names[index]}: broken")
        return np.full(16000, index / 12, np.float32)

    source = SimpleNamespace(path=tmp_path, ids=names, durations=np.ones(12), column=list, audio=audio)
    module = SimpleNamespace(needs=(), views=lambda u, _rng: {"waveform": u.waveform}, batch_views=lambda b, _rng: b)
    for workers in (0, 1):
        config = LoaderConfig(batch_seconds=1.0, num_workers=workers)
        stream = stream_of(source, module, config, sample_rate=16000, seed=0)
        batches = list(itertools.islice(stream(itertools.count()), 36))
        assert all(len(batch["utt_ids"]) == 1 and "waveform" in batch for batch in batches)
        assert {utterance for batch in batches for utterance, _ in batch["bad"]} == {"u2", "u3"}
        order = [
            names[index] for number in range(38) for index in make_sampler(source, config, seed=0).batch(number)[1]
        ]
        usable = [next(name for name in order[number:] if name not in {"u2", "u3"}) for number in range(36)]
        assert [batch["utt_ids"][0] for batch in batches] == usable


def test_batches_that_are_all_unusable_end_a_run(tmp_path):
    def audio(index, **_):
        raise ValueError(f"u{index}: broken")

    source = SimpleNamespace(path=tmp_path, ids=["u0", "u1"], durations=np.ones(2), column=list, audio=audio)
    module = SimpleNamespace(needs=(), views=lambda u, _rng: {"waveform": u.waveform}, batch_views=lambda b, _rng: b)
    stream = stream_of(source, module, LoaderConfig(num_workers=0, max_bad_fraction=1.0), sample_rate=16000, seed=0)
    with pytest.raises(ValueError, match=r"every recording of 10 batches is unusable, such as u\d .*; mend the data"):
        next(stream([0]))


def test_a_run_is_resumed_by_its_own_recipe(tmp_path):
    out, run = tmp_path / "exp", {"data": Path("data/train")}
    write_config(out, gather_tables("hubert_nano", out, {}, run, resume=True))
    for recipe in ("hubert_nano", str(out / "config.toml")):
        assert gather_tables(recipe, out, {}, run, resume=True)["objective"]["name"] == "hubert"
    with pytest.raises(
        ValueError, match="exp: follows the recipe hubert_nano, not wav2vec2_nano; resume it with hubert"
    ):
        gather_tables("wav2vec2_nano", out, {}, run, resume=True)


WAITS = """
import sys
from pathlib import Path
from types import SimpleNamespace
from audiossl.train.experiment import only_run

with only_run(Path(sys.argv[1]), SimpleNamespace(main=True)):
    print("begun", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def running(tmp_path):
    """Another process that is in `exp/run`."""
    words = [sys.executable, "-c", WAITS, tmp_path / "exp" / "run"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        yield process
        process.kill()


@pytest.mark.parametrize("killed", [False, True])
def test_an_experiment_has_one_run_at_a_time(tmp_path, running, killed):
    out, main = tmp_path / "exp" / "run", SimpleNamespace(main=True)
    said = f"exp/run: another run (pid {running.pid} on {platform.node()}) writes here; wait for it, or choose another --out"
    with pytest.raises(ValueError, match=re.escape(said)), only_run(out, main):
        pass
    with only_run(out, SimpleNamespace(main=False)):  # nor the other processes of a run
        pass
    if killed:
        running.kill()
    running.communicate()
    assert (tmp_path / "exp").exists() == killed
    with only_run(out, main):
        gather_tables("hubert_nano", out, {}, {}, resume=False)
    assert not (out / ".lock").exists()


def test_a_file_system_without_locks_does_not_stop_a_run(tmp_path, monkeypatch):
    def none(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", none)
    with only_run(tmp_path / "exp", SimpleNamespace(main=True)):
        (tmp_path / "exp" / "config.toml").touch()
    assert [path.name for path in (tmp_path / "exp").iterdir()] == ["config.toml"]


def test_a_recipe_of_another_verb_is_named():
    with pytest.raises(ValueError, match=r"x: unknown table \[objective\]; the recipe is for `audiossl pretrain`"):
        resolve({"objective": {"name": "hubert"}}, sections(), "x")
    with pytest.raises(ValueError, match=r"x: unknown table \[task\]; the recipe is for `audiossl finetune`"):
        resolve({"task": {"name": "ctc"}, "adapter": {"name": "lora"}}, pretraining_sections(), "x")
    with pytest.raises(ValueError, match=r"x: unknown table \[trian\]; did you mean 'train'"):
        resolve({"trian": {}}, pretraining_sections(), "x")


@pytest.mark.parametrize(
    ("table", "key", "said"),
    [
        ("data", "max_tokens", "data.batch_seconds here, in seconds of audio, padding included, not in samples"),
        ("dataset", "max_tokens", "data.batch_seconds here, in seconds of audio, padding included, not in samples"),
        ("dataset", "num_workers", "data.num_workers here"),
        ("optim", "max_update", "train.max_steps here"),
        ("optimization", "max_update", "train.max_steps here"),
        ("train", "max_epoch", "train.max_steps here, in updates, not in epochs"),
        ("optim", "lr", "optim.peak_lr here"),
        ("optim", "clip_norm", "train.clip_norm here"),
        ("train", "update_freq", "train.accumulate here"),
        ("train", "gradient_accumulation_steps", "train.accumulate here"),
        ("runner", "gradient_clipping", "train.clip_norm here"),
        ("checkpoint", "save_dir", "--out here"),
        ("checkpoint", "save_interval_updates", "train.save_every here"),
        ("common", "seed", "train.seed here"),
        ("common", "fp16", "train.precision here, 'bf16' or 'fp32'"),
        ("model", "mask_prob", "objective.mask_prob here"),
        ("model", "encoder_embed_dim", "encoder.dim here"),
        ("lr_scheduler", "warmup_updates", "optim.warmup_steps here"),
    ],
)
def test_options_of_other_packages_are_told_by_their_name_here(table, key, said):
    tables = {"encoder": {"name": "wav2vec2"}, "objective": {"name": "hubert"}}
    with pytest.raises(ValueError, match=rf"; {key} is {re.escape(said)}$"):
        resolve({**tables, table: {key: 1}}, pretraining_sections(), "x")


@pytest.mark.parametrize(
    ("table", "key", "said"),
    [
        ("finetune", "freeze_finetune_updates", "finetune.freeze_steps"),
        ("model", "mask_prob", "finetune.mask_prob"),
        ("model", "mask_channel_prob", "finetune.channel_mask_prob"),
        ("task", "labels", "task.tokens"),
        ("model", "w2v_path", "--init"),
    ],
)
def test_those_of_fine_tuning(table, key, said):
    tables = {"encoder": {"name": "wav2vec2"}, "adapter": {"name": "full"}, "task": {"name": "ctc"}}
    tables[table] = {**tables.get(table, {}), key: 1}
    with pytest.raises(ValueError, match=rf"; {key} is {re.escape(said)} here$"):
        resolve(tables, sections(), "x")


def test_every_translation_leads_to_an_option():
    plugins = {"encoder": "wav2vec2", "objective": "hubert", "adapter": "full", "task": "ctc"}
    known = {}
    for own in (sections(), pretraining_sections()):
        known |= _options({name: {"name": plugins[name]} for name in own.plugins}, own)
    for meant in itertools.chain.from_iterable(_NAMES.values()):
        table, _, key = meant.partition(",")[0].partition(".")
        assert table.startswith("--") or key in known[table], meant


def test_a_key_that_no_package_has_is_told_by_the_nearest():
    tables = {"encoder": {"name": "wav2vec2"}, "objective": {"name": "hubert"}}
    with pytest.raises(ValueError, match=r"x: optim: unknown key 'peak_rl'; did you mean 'peak_lr'\?"):
        resolve({**tables, "optim": {"peak_rl": 1}}, pretraining_sections(), "x")


def resolve_all(made):
    """Tables and keys of all plain tables with their defaults."""
    names = {"run"}
    plugins = {"encoder": "fbank", "objective": "hubert", "adapter": "full", "task": "ctc"}
    tables = {name: {"name": plugins[name]} for name in made.plugins}
    complete, _ = resolve(tables | {name: {} for name in made.plain}, made, "test")
    return names | {f"{table}.{key}" for table, values in complete.items() for key in values}


@pytest.mark.parametrize(("main", "order"), [(True, ["opened", "barrier"]), (False, ["barrier", "opened"])])
def test_the_main_process_goes_first_and_lets_the_others_go_even_if_it_fails(main, order):
    done = []
    world = SimpleNamespace(main=main, barrier=lambda: done.append("barrier"))

    def open_and_fail():
        done.append("opened")
        raise ValueError("data/train: no data directory")

    with pytest.raises(ValueError, match="no data directory"), main_first(world):
        open_and_fail()
    assert done == order


def test_files_that_are_cut_short_or_have_values_for_tables_are_named(tmp_path):
    (tmp_path / "exp").mkdir()
    config = tmp_path / "exp" / "config.toml"
    config.touch()
    with pytest.raises(
        ValueError, match=rf"{re.escape(str(config))}: has no table \[run\], as if it was cut short; restore it"
    ):
        gather_tables("hubert_nano", tmp_path / "exp", {}, {}, resume=True)
    (tmp_path / "r.toml").write_text("train = 3\n")
    with pytest.raises(ValueError, match=r"r\.toml: train = 3 is no table; write \[train\] with its keys"):
        gather_tables(str(tmp_path / "r.toml"), tmp_path / "new", {"train": {"max_steps": 1}}, {}, resume=False)


def test_data_of_another_length_are_refused(tmp_path):
    (tmp_path / "wav.scp").write_text("a a.wav\nb b.wav\n")
    (tmp_path / "utt2dur").write_text("a 1.004\nb 2.003\n")
    tables = {"run": {"data": str(tmp_path)}, "data": {"allow_commands": False}}
    open_data(tables)
    assert tables["run"] == {"data": str(tmp_path), "data_utterances": 2, "data_seconds": 3.01}
    open_data(tables)
    (tmp_path / "utt2dur").write_text("a 1.004\nb 2.5\n")
    with pytest.raises(ValueError, match=r"has 3\.5 seconds, 3\.\d+ when this experiment began; start a new one"):
        open_data(tables)
    del tables["run"]["data_seconds"]  # as of an earlier version
    open_data(tables)
    assert tables["run"]["data_seconds"] == 3.5
