"""Dataclass < recipe < command line, with errors that name the key."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from audiossl import config
from audiossl.registry import names


@dataclass(frozen=True)
class Inner:
    size: int = 3
    mode: Literal["a", "b"] = "a"
    seed: int = 0


@dataclass(frozen=True)
class Outer:
    rate: float
    inner: Inner = field(default_factory=Inner)
    pair: tuple[float, float] = (0.9, 0.98)
    names: tuple[str, ...] = ()
    path: Path | None = None
    on: bool = False


def test_round_trip_through_toml(tmp_path):
    built = config.build(Outer, {"rate": 1, "inner": {"size": 5}, "names": ["x"], "path": "a/b"}, "outer")
    assert built == Outer(1.0, Inner(5), names=("x",), path=Path("a/b"))
    config.write_toml(tmp_path / "c.toml", {"outer": config.to_table(built)})
    assert config.build(Outer, config.load_toml(tmp_path / "c.toml")["outer"], "outer") == built


@dataclass(frozen=True)
class Open:
    name: str
    more: dict = field(default_factory=dict, metadata={config.FURTHER: True})


def test_further_keys_stand_beside_the_others(tmp_path):
    table = {"name": "a", "rate": 1.5, "dims": [2, 3]}
    built = config.build(Open, table, "open")
    assert built == Open("a", {"rate": 1.5, "dims": [2, 3]})
    config.write_toml(tmp_path / "c.toml", config.to_table(built))
    assert config.load_toml(tmp_path / "c.toml") == table
    assert config.build(Open, {"name": "a", "more": 1}, "open").more == {"more": 1}
    with pytest.raises(ValueError, match="open: 'name' is not given"):
        config.build(Open, {"rate": 1.5}, "open")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rate": 1, "inner": {"sice": 5}}, r"outer.inner: unknown key 'sice'; did you mean 'size'\?"),
        ({}, "outer: 'rate' is not given"),
        ({"rate": "fast"}, "outer.rate: 'fast' is not a number"),
        ({"rate": 1, "inner": {"size": True}}, "outer.inner.size: True is not a whole number"),
        ({"rate": 1, "inner": {"seed": -1}}, "outer.inner.seed: -1 is negative; give 0 or more"),
        ({"rate": 1, "inner": {"seed": 2**32}}, "outer.inner.seed: 4294967296 is above 4294967295; give less"),
        ({"rate": 1, "inner": {"mode": "c"}}, "outer.inner.mode: 'c' is not one of 'a', 'b'"),
        ({"rate": 1, "inner": 4}, "outer.inner: 4 is not a table"),
        ({"rate": 1, "pair": [1.0]}, r"outer.pair: \[1.0\] has 1 values; 2 are wanted"),
        ({"rate": 1, "names": "x"}, "outer.names: 'x' is not a list"),
        ({"rate": 1, "on": 1}, "outer.on: 1 is not true or false"),
    ],
)
def test_errors_name_the_key(values, message):
    with pytest.raises(ValueError, match=message):
        config.build(Outer, values, "outer")


def test_overrides_are_split_from_other_arguments():
    words = [
        "recipe",
        "--data",
        "d",
        "--train.max-steps",
        "10",
        "--encoder.name=fbank",
        "--a.b.c",
        "[1, 2]",
        "--a.on",
        "true",
    ]
    tables, rest = config.split_overrides(words)
    assert tables == {"train": {"max_steps": 10}, "encoder": {"name": "fbank"}, "a": {"b": {"c": [1, 2]}, "on": True}}
    assert rest == ["recipe", "--data", "d"]
    with pytest.raises(ValueError, match="--train.max_steps: has no value"):
        config.split_overrides(["--train.max_steps"])


@pytest.mark.parametrize("turned", [False, True])
def test_an_option_is_a_value_or_a_table(turned):
    pairs = [["--objective.margin", "additive"], ["--objective.margin.size", "0.1"]]
    words = [word for pair in (pairs[::-1] if turned else pairs) for word in pair]
    with pytest.raises(ValueError, match=r"--objective\.margin.*: one option gives it a value, another one keys"):
        config.split_overrides(words)
    assert config.split_overrides(["--a.b", "1", "--a.b", "2"]) == ({"a": {"b": 2}}, [])


def test_merge_replaces_a_table_that_names_another_plugin():
    base = {"encoder": {"name": "wav2vec2", "dim": 768}, "train": {"seed": 1, "max_steps": 5}}
    over = {"encoder": {"name": "fbank"}, "train": {"seed": 2}}
    assert config.merge(base, over) == {"encoder": {"name": "fbank"}, "train": {"seed": 2, "max_steps": 5}}
    assert config.merge(base, {"encoder": {"dim": 5}})["encoder"] == {"name": "wav2vec2", "dim": 5}
    # Units have a name of their own, which is no plug-in's.
    units = {"units": {"name": "a", "clusters": 9}}
    assert config.merge(units, {"units": {"name": "b"}}) == {"units": {"name": "b", "clusters": 9}}


def test_recipes_are_found_by_name():
    assert "hubert_base" in config.recipe_names()
    assert config.find_recipe("hubert_base").is_file()
    with pytest.raises(ValueError, match=r"unknown recipe 'hubert_bse'; did you mean 'hubert_base'\?"):
        config.find_recipe("hubert_bse")
    with pytest.raises(ValueError, match=r"none.toml: no such recipe file"):
        config.find_recipe("none.toml")


def test_toml_fault_names_file_and_line(tmp_path):
    (tmp_path / "bad.toml").write_text("a = 1\nb = = 2\n")
    with pytest.raises(ValueError, match=r"bad.toml: not valid TOML: .*line 2"):
        config.load_toml(tmp_path / "bad.toml")
    (tmp_path / "mark.toml").write_text("a = 1\n", encoding="utf-8-sig")
    assert config.load_toml(tmp_path / "mark.toml") == {"a": 1}


def test_encoders_have_configs():
    assert {"wav2vec2", "fbank"} <= set(names("encoders"))
