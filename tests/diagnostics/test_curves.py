"""Curves of training, and the references that ship with the recipes."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure

from audiossl import registry
from audiossl.cli.main import main
from audiossl.config import find_recipe, load_toml, recipe_names, write_toml
from audiossl.diagnostics import curves, figures, report
from audiossl.diagnostics.curves import Curve, read_curves, read_reference, reference_path, watched, write_reference
from audiossl.diagnostics.report import Options, write_report
from audiossl.train import run_pretrain
from audiossl.train.experiment import gather_tables, resolve

SETTINGS = {
    "encoder": {"name": "fbank"},
    "objective": {"name": "hubert", "labels": ["km"]},
    "optim": {"peak_lr": 0.001},
    "data": {"num_workers": 2},
    "train": {"max_steps": 250, "seed": 3},
}
RUN = {
    "recipe": "hubert_nano",
    "data_utterances": 10,
    "data_seconds": 36.0,
    "command": "/home/me/bin/audiossl pretrain hubert_nano --data /home/me/data/train --out 'my exp'",
}


def rows(steps=250):
    """Training losses of 1 / step, and dev ones."""
    found = []
    for step in range(1, steps + 1):
        found.append({"step": step, "kind": "train", "loss": 1 / step, "effective_rank": 5.0, "lr": 0.1, "bits": 9.0})
        found += [{"step": step, "kind": "dev", "loss": 2.0, "masked_accuracy": 0.25}] if step % 125 == 0 else []
    return found


@pytest.fixture
def experiment(tmp_path):
    return make(tmp_path / "exp")


def make(folder, *, steps=250, run=RUN, **settings):
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(steps)))
    os.utime(folder / "metrics.jsonl", (0, 1_700_000_000))
    write_toml(folder / "config.toml", {**SETTINGS, **settings, "run": run})
    return folder


@pytest.fixture
def shipped(tmp_path, monkeypatch, experiment):
    """A reference of the recipe hubert_nano, where the package would have it."""
    monkeypatch.setattr(curves, "reference_path", lambda recipe: tmp_path / "curves" / f"{recipe}.jsonl")
    monkeypatch.setattr(report, "reference_path", curves.reference_path)
    return write_reference(experiment, tmp_path / "curves" / "hubert_nano.jsonl", "toys")


def test_a_reference_holds_means_of_a_hundred_chunks(experiment, tmp_path):
    made = write_reference(experiment, tmp_path / "r.jsonl", "toys")
    assert (made.recipe, made.corpus, made.seed, made.utterances, made.seconds) == ("hubert_nano", "toys", 3, 10, 36.0)
    assert made.date == "2023-11-14"
    assert list(made.curves) == ["loss", "masked_accuracy", "effective_rank"]  # bookkeeping is left out
    train, dev = made.curves["loss"]["train"], made.curves["loss"]["dev"]
    chunks = np.split(np.arange(1, 251), [int(250 * k / 100) for k in range(1, 100)])
    np.testing.assert_allclose(train.steps, [chunk.mean() for chunk in chunks], atol=0.051)
    np.testing.assert_allclose(train.values, [(1 / chunk).mean() for chunk in chunks], rtol=1e-3)
    assert (dev.steps.tolist(), dev.values.tolist()) == ([125.0, 250.0], [2.0, 2.0])
    assert made.curves["masked_accuracy"].keys() == {"dev"}
    assert not list(tmp_path.glob("*.partial"))


def test_a_reference_says_nothing_of_the_machine(experiment, tmp_path):
    tables = load_toml(experiment / "config.toml")
    write_toml(experiment / "config.toml", {**tables, "units": {"encoder": "/home/me/exp/it1", "seed": 0}})
    made = write_reference(experiment, tmp_path / "r.jsonl", "toys")
    assert made.command == "audiossl pretrain hubert_nano --data train --out 'my exp'"
    assert made.settings["units"]["encoder"] == "it1"
    assert "/home" not in (tmp_path / "r.jsonl").read_text()


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"steps": 249}, "exp2: is at step 249 of 250; finish it with --resume first"),
        ({"run": {"command": "audiossl"}}, r"config.toml: has no run\.recipe"),
    ],
)
def test_only_finished_experiments_make_references(tmp_path, change, fault):
    with pytest.raises(ValueError, match=fault):
        write_reference(make(tmp_path / "exp2", **change), tmp_path / "r.jsonl", "toys")
    assert not (tmp_path / "r.jsonl").exists()


def test_a_damaged_reference_is_named(tmp_path):
    (tmp_path / "r.jsonl").write_text('{"step": 1, "kind": "train", "loss": 2.0}\n')
    with pytest.raises(ValueError, match=r"r\.jsonl:1: does not say where the curve comes from"):
        read_reference(tmp_path / "r.jsonl")


def test_differences_are_those_that_matter(shipped):
    same = {**SETTINGS, "train": {"max_steps": 250, "seed": 9}, "data": {"num_workers": 0}, "run": RUN}
    assert shipped.differences(same) == []
    newer = {**same, "encoder": {"name": "fbank", "inputs": "log_mel", "mean_norm": False}}  # defaults
    assert shipped.differences(newer) == []
    augment = {"gain_probability": 0.5, "noise_probability": 0.5, "noise_dirs": ["noise"]}
    louder, fewer, otherwise = (
        {**SETTINGS, "data": {"augment": {**augment, "order": order}}, "run": RUN}
        for order in (["speed", "noise", "gain", "gaussian", "pitch"], ["noise", "gain"], ["gain", "noise"])
    )
    reference = replace(shipped, settings=louder)
    assert reference.differences(fewer) == []  # steps that are off have no place in the order
    assert "augment.order" in reference.differences(otherwise)[0]
    other = {**SETTINGS, "optim": {"peak_lr": 0.002, "warmup_steps": 5}, "run": {**RUN, "data_seconds": 72.0}}
    assert shipped.differences(other) == [
        "other data: 10 utterances of 0.02 h, here 10 of 0.01 h (toys)",
        "other settings: optim.peak_lr 0.002 (reference: 0.001), optim.warmup_steps 5 (reference: 0)",
    ]
    sizes = {
        "dim": 32,
        "ffn_dim": 64,
        "num_heads": 2,
        "num_layers": 3,
        "num_mels": 20,
        "position_groups": 4,
        "position_kernel": 8,
    }
    many = {**SETTINGS, "encoder": {"name": "fbank", **sizes, "conv_dim": 16, "dropout": 0.2}, "run": RUN}
    assert shipped.differences(many)[0].endswith("encoder.num_layers 3 (reference: 12) and 3 more")


def test_the_page_draws_the_reference_of_the_recipe(shipped, experiment, tmp_path, capsys):
    run = {**RUN, "data_utterances": 11}
    second = make(tmp_path / "second", optim={"peak_lr": 0.1}, run=run)
    third = make(tmp_path / "third", run={**RUN, "recipe": "mine"})
    drawn = []
    real = figures.draw_metrics
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "draw_metrics", lambda figure, *given: (drawn.append(given), real(figure, *given)))
        with pytest.raises(SystemExit):
            main(["report", *map(str, (experiment, second, third)), "--compare", "--out", str(tmp_path / "r.html")])
    runs, references = drawn[0]
    assert list(runs) == ["exp", "second", "third"]
    assert list(references) == ["reference hubert_nano (toys, seed 3)"]
    said = capsys.readouterr().err
    assert "Training: second and its reference: other data: 11 utterances of 0.01 h, here 10" in said
    assert "Training: second and its reference: other settings: optim.peak_lr 0.1 (reference: 0.001)" in said
    assert "not shown: Training: a reference for third: none ships with the recipe mine" in said
    assert "exp and its reference" not in said
    page = (tmp_path / "r.html").read_text()
    assert "audiossl pretrain hubert_nano --data train" in page
    assert "other data: 11 utterances" in page
    assert re.findall(r"<td>masked_accuracy</td><td>(\d+)</td><td>([^<]+)</td>", page)[0] == ("250", "0.25")


def test_an_experiment_that_names_no_recipe_is_drawn_alone(tmp_path):
    old = make(tmp_path / "old", run={"command": "audiossl"})
    missing = write_report([old], tmp_path / "r.html", Options(compare=True))
    assert "Training: a reference for old: its config.toml does not say which recipe it follows" in missing
    assert "<figure>" in (tmp_path / "r.html").read_text()


def test_panels_hold_runs_over_grey_references():
    figure, curve = Figure(), Curve(np.array([1.0, 2.0]), np.array([3.0, 2.5]))
    runs = {"a": {"loss": {"train": curve, "dev": curve}}, "b": {"effective_rank": {"train": curve}}}
    figures.draw_metrics(figure, runs, {"ref": {"loss": {"train": curve}, "accuracy": {"train": curve}}})
    loss, rank = figure.axes
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["loss", "effective rank"]
    grey, train, dev = loss.get_lines()
    assert grey.get_label() == "ref, train"
    assert len({*grey.get_color().lstrip("#")[::2]}) <= 3
    assert grey.get_linewidth() > train.get_linewidth()
    assert train.get_color() == dev.get_color() != rank.get_lines()[0].get_color()
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["ref, train", "a, train", "a, dev", "b, train"]


def test_the_command_for_references(experiment, tmp_path, capsys):
    option = ["--reference", str(tmp_path / "out" / "r.jsonl")]
    for count, corpus, status in ((1, ["--corpus", "toys"], 0), (1, [], 2), (2, ["--corpus", "toys"], 2)):
        with pytest.raises(SystemExit) as stop:
            main(["report", *count * [str(experiment)], *option, *corpus])
        assert stop.value.code == status
    assert read_reference(tmp_path / "out" / "r.jsonl").corpus == "toys"
    said = capsys.readouterr().err
    assert "loss, masked_accuracy, effective_rank, 100 points" in said
    assert said.count("a reference is of one experiment; give EXP --reference FILE --corpus NAME") == 2


def test_what_is_watched_is_what_the_objective_shows_and_what_must_not_collapse(experiment):
    assert watched(load_toml(experiment / "config.toml"))[:3] == ("loss", "masked_accuracy", "prediction_perplexity")
    assert {"unmasked_accuracy", "frontend_grad_norm"} < set(watched(SETTINGS))
    assert "loss_per_token" in watched({"task": {"name": "ctc"}})
    assert "bits" not in read_curves(experiment / "metrics.jsonl", watched(SETTINGS))


def test_an_experiment_remembers_its_recipe(tmp_path):
    tables = gather_tables("hubert_nano", tmp_path / "a", {}, {}, resume=False)
    assert tables["run"]["recipe"] == "hubert_nano"
    write_toml(tmp_path / "config.toml", tables)
    again = gather_tables(str(tmp_path / "config.toml"), tmp_path / "b", {}, {}, resume=False)
    assert again["run"]["recipe"] == "hubert_nano"


def test_shipped_references_are_small_and_complete():
    paths = sorted((registry.folder("recipes") / "curves").iterdir())
    assert {"hubert_nano", "hubert_nano_it2", "simclr_nano"} <= {path.stem for path in paths}
    for path in paths:
        made = read_reference(path)
        assert made.recipe == path.stem
        assert path == reference_path(made.recipe)
        assert made.recipe in recipe_names()
        assert path.stat().st_size < 50_000
        assert made.seconds > 0
        for kinds in made.curves.values():
            for curve in kinds.values():
                assert 0 < len(curve.steps) <= 100
                assert (np.diff(curve.steps) > 0).all()
                assert np.isfinite(curve.values).all()
        assert (
            max(curve.steps[-1] for curve in made.curves["loss"].values()) > 0.98 * made.settings["train"]["max_steps"]
        )
        assert not re.search(r'"/|/(tmp|home|root|work)\b', path.read_text())


@pytest.mark.parametrize(
    "path", sorted((registry.folder("recipes") / "curves").glob("*.jsonl")), ids=lambda path: path.stem
)
def test_shipped_references_are_of_todays_recipes(path):
    """But for the labels, which name what the corpus has and what made them, and for what the command that made it says."""
    made = read_reference(path)
    tables, _ = resolve(load_toml(find_recipe(made.recipe)), run_pretrain.sections(), made.recipe)
    labels = [("objective", "labels"), ("encoder", "labels"), ("units", "name"), ("units", "encoder")]
    told = [tuple(word[2:].split(".")) for word in made.command.split() if word.startswith("--") and "." in word]
    for table, key in [*labels, *told]:
        if key in made.settings.get(table, {}):
            tables[table][key] = made.settings[table][key]
    tables["run"] = {"data_utterances": made.utterances, "data_seconds": made.seconds}
    assert made.differences(tables) == []


def test_small_masked_prediction_recipes_have_a_reference():
    """Those of speakers learn from labels or clusters: of them `simclr_nano` has one."""
    recipes = registry.folder("recipes").glob("*_nano*.toml")
    trained = {path.stem for path in recipes if "objective" in load_toml(path)} - {"aam_nano", "pseudo_label_nano"}
    assert "discrete_bert_nano" in trained
    assert [name for name in sorted(trained) if not reference_path(name).is_file()] == []
