"""What a run says of its batches before it begins."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from audiossl.data.loader import LoaderConfig, make_sampler
from audiossl.train.experiment import MAY_CHANGE, describe_batches, resolve
from audiossl.train.run_finetune import sections
from audiossl.train.run_pretrain import _sections

SPEECH = np.random.default_rng(0).lognormal(np.log(8.0), 0.6, 20_000).clip(0.5, 35.0)


def described(durations, **options):
    source = SimpleNamespace(path=Path("data/train"), durations=np.asarray(durations))
    return describe_batches(source, LoaderConfig(**options), seed=1)


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
    assert "lower data.batch_seconds" in warning
    assert len(described([1.0, 5.0, 10.0], batch_seconds=10.0)) == 1


def test_what_may_change_exists():
    pretraining, tuning = (resolve_all(made) for made in (_sections(), sections()))
    known = pretraining | tuning
    assert {name for name in MAY_CHANGE if name not in known} == set()


def resolve_all(made):
    """Tables and keys of all plain tables with their defaults."""
    names = {"run"}
    plugins = {"encoder": "fbank", "objective": "hubert", "adapter": "full", "task": "ctc"}
    tables = {name: {"name": plugins[name]} for name in made.plugins}
    complete, _ = resolve(tables | {name: {} for name in made.plain}, made, "test")
    return names | {f"{table}.{key}" for table, values in complete.items() for key in values}
