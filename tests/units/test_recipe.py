"""`[units]`: labelled once, kept while they hold, made again when they do not."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from audiossl.config import build, to_table, write_toml
from audiossl.data.manifest import Manifest
from audiossl.encoders.fbank import FBank
from audiossl.interop.checkpoint import save_checkpoint
from audiossl.units import codebook as codebooks
from audiossl.units.apply import apply_codebook
from audiossl.units.codebook import Codebook
from audiossl.units.features import MFCCFeatures, make_features
from audiossl.units.guards import check_same_codebook
from audiossl.units.labels import read_card
from audiossl.units.recipe import UnitsConfig, ensure_units

CONFIG = UnitsConfig(name="km8", clusters=8, iterations=5, batch_seconds=5.0, num_workers=0)


@pytest.fixture
def folders(new_corpus, tmp_path):
    return [new_corpus(tmp_path / "train"), new_corpus(tmp_path / "dev", num_utterances=6, seed=1)]


def run(folders, out, config=CONFIG):
    lines = []
    ensure_units(folders, config, out, log=lines.append)
    return lines


def test_fits_on_the_first_and_labels_all(folders, tmp_path):
    out = tmp_path / "codebook"
    assert sum("not there, labelling" in line for line in run(folders, out)) == 2
    assert codebooks.load(out).card.utterances == 12
    check_same_codebook(*map(Manifest.open, folders), "km8")
    times = [(folder / "units/km8").stat().st_mtime_ns for folder in folders]
    assert run(folders, out) == []
    assert [(folder / "units/km8").stat().st_mtime_ns for folder in folders] == times


def test_a_rate_that_is_not_the_objectives_is_told_before_the_fit(folders, tmp_path):
    with pytest.raises(
        ValueError, match=r"label_rate: 50, but units.feature mfcc gives 100 Hz; give --objective.label_rate 100"
    ):
        ensure_units(folders, CONFIG, tmp_path / "codebook", label_rate=50.0, log=[].append)
    assert not (tmp_path / "codebook").exists()


def test_a_place_that_cannot_be_written_is_told_before_the_fit(folders, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, _: Path(path) != folders[1])
    said = f"{folders[1]}: cannot be written, and units are kept there; copy the tables by `audiossl data subset {folders[1]} NEW --part 1/1`"
    with pytest.raises(ValueError, match=re.escape(said)):
        run(folders, tmp_path / "codebook")
    assert not (tmp_path / "codebook").exists()
    monkeypatch.undo()
    run(folders, tmp_path / "codebook")
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert run(folders, tmp_path / "codebook") == []  # what is there is read, wherever it lies


def test_units_are_made_on_the_device_of_the_training(folders, tmp_path, monkeypatch):
    asked = []

    def noted(*words, device):
        asked.append(device)
        return make_features(*words, device=device)

    monkeypatch.setattr("audiossl.units.recipe.make_features", noted)
    ensure_units(folders, CONFIG, tmp_path / "codebook", device="cuda:1", log=[].append)
    assert asked == ["cuda:1"]


def test_labels_from_elsewhere_are_used_as_they_are(folders, tmp_path):
    run(folders, tmp_path / "one")
    before = read_card(folders[1], "km8").codebook_hash
    lines = run(folders, tmp_path / "two")
    assert sum("there already, used as it is" in line for line in lines) == 2
    assert read_card(folders[1], "km8").codebook_hash == before
    assert not codebooks.exists(tmp_path / "two")


def test_units_of_mfcc_keep_the_scale_that_they_began_with(folders, new_corpus, tmp_path):
    out = tmp_path / "codebook"
    run(folders, out)
    book = codebooks.load(out)
    assert (book.card.full_scale, read_card(folders[0], "km8").full_scale) == (1.0, 1.0)
    former = replace(book.card, full_scale=None)  # as from before there was a choice
    codebooks.save(Codebook(book.centroids, former), out)
    assert sum("made by another codebook" in line for line in run(folders, out)) == 2
    labels = [(folder / "units/km8").read_text() for folder in folders]
    assert run(folders, out) == []
    assert sum("full_scale than the published 1" in line for line in run(folders, tmp_path / "other")) == 2
    features = MFCCFeatures(None)
    apply_codebook(Manifest.open(folders[1]), codebooks.load(out), features, "km", CONFIG.stream(0.0, 0), log=print)
    assert (folders[1] / "units/km").read_text() == labels[1]


def test_other_labels_of_that_name_are_never_replaced(folders, tmp_path):
    run(folders, tmp_path / "one")
    table = (folders[0] / "units/km8").read_bytes()
    with pytest.raises(
        ValueError,
        match=r"units/km8: codebook_size is 8, the recipe asks for 9; choose another units.name, and the same in objective.labels",
    ):
        run(folders, tmp_path / "two", UnitsConfig(**{**vars(CONFIG), "clusters": 9}))
    assert (folders[0] / "units/km8").read_bytes() == table


def test_labels_of_some_directories_only_are_an_error(folders, new_corpus, tmp_path):
    run(folders, tmp_path / "one")
    third = new_corpus(tmp_path / "third", num_utterances=5, seed=2)
    with pytest.raises(ValueError, match=r"third.*units/km8: not there, but .* has these units; label it too"):
        run([*folders, third], tmp_path / "two")


def test_data_that_grew_is_labelled_again(folders, new_corpus, tmp_path):
    out = tmp_path / "codebook"
    run(folders, out)
    grown = new_corpus(tmp_path / "grown", num_utterances=14)
    (grown / "units").mkdir()
    for name in ("km8", "km8.json"):
        (grown / "units" / name).write_bytes((folders[0] / "units" / name).read_bytes())
    lines = run([grown], out)
    assert any("made for 12 utterances, there are 14 now" in line for line in lines)
    assert read_card(grown, "km8").utterances == 14


def test_table_without_its_card_is_made_again(folders, tmp_path):
    out = tmp_path / "codebook"
    run(folders, out)
    (folders[0] / "units/km8.json").unlink()
    assert any("not there, labelling" in line for line in run(folders, out))


def test_kept_labels_are_checked(folders, tmp_path):
    out = tmp_path / "codebook"
    run(folders, out)
    path = folders[1] / "units/km8"
    path.write_text(path.read_text().replace(" 3", " 8"))
    with pytest.raises(ValueError, match=r"label 8 is not in the codebook of 8"):
        run(folders, out)


@pytest.mark.parametrize(
    "change", [{"clusters": 9}, {"seed": 1}, {"codebooks": 2}, {"feature": "encoder", "encoder": "exp/a", "layer": 6}]
)
def test_codebook_is_not_the_one_asked_for(folders, tmp_path, change):
    out = tmp_path / "codebook"
    run(folders, out)
    with pytest.raises(ValueError, match=r"codebook\.json: .* the recipe asks for .*remove the folder"):
        run(folders, out, UnitsConfig(**{**vars(CONFIG), **change}))


@pytest.fixture
def encoders(tmp_path):
    """Two experiments that differ in their weights alone."""
    config, table = FBank.Config.tiny(), {"name": "fbank", **to_table(FBank.Config.tiny())}
    for seed, name in enumerate(("a", "b")):
        torch.manual_seed(seed)
        weights = {f"encoder.{key}": value for key, value in FBank(config).state_dict().items()}
        save_checkpoint(tmp_path / name, 1, weights, {}, keep=1)
        write_toml(tmp_path / name / "config.toml", {"encoder": table})
    return tmp_path / "a", tmp_path / "b"


def test_units_of_another_encoder_are_refused(folders, encoders, tmp_path):
    options = vars(CONFIG) | {"feature": "encoder", "layer": 1, "encoder": str(encoders[0])}
    run(folders, tmp_path / "one", UnitsConfig(**options))
    files = [
        *(tmp_path / "one").iterdir(),
        *(folder / "units" / name for folder in folders for name in ("km8", "km8.json")),
    ]
    before = {path: path.read_bytes() for path in files}
    other = UnitsConfig(**options | {"encoder": str(encoders[1])})
    with pytest.raises(
        ValueError,
        match=r"units/km8: made with the encoder .*/a .* other weights .*; choose another units\.name, and the same in objective\.labels, or r",
    ):
        run(folders, tmp_path / "two", other)
    with pytest.raises(
        ValueError, match=r"codebook\.json: made with the encoder .* other weights .* or remove the folder"
    ):
        run(folders, tmp_path / "one", other)
    shutil.copytree(encoders[0], tmp_path / "moved")
    moved, unnamed = (UnitsConfig(**options | {"encoder": name}) for name in (str(tmp_path / "moved"), ""))
    for config in (moved, unnamed):
        assert sum("used as it is" in line for line in run(folders, tmp_path / "two", config)) == 2
    assert run(folders, tmp_path / "one", moved) == []
    assert {path: path.read_bytes() for path in files} == before


def test_toml_round_trip():
    config = UnitsConfig(feature="encoder", encoder="exp/it1", layer=6, clusters=500, fraction=0.1)
    assert build(UnitsConfig, to_table(config), "units") == config


def test_residual_codebooks_give_a_set_each(folders, tmp_path):
    config = UnitsConfig(**{**vars(CONFIG), "name": "rvq", "codebooks": 2})
    out = tmp_path / "codebook"
    run(folders, out, config)
    assert sorted(path.name for path in (folders[1] / "units").iterdir()) == [
        "rvq_0",
        "rvq_0.json",
        "rvq_1",
        "rvq_1.json",
    ]
    assert run(folders, out, config) == []
    assert len(run(folders, tmp_path / "elsewhere", config)) == 4
    (folders[0] / "units/rvq_1.json").unlink()
    assert any("rvq_1: not there, labelling" in line for line in run(folders, out, config))
    for folder in folders:
        (folder / "units/rvq_0").unlink()
    with pytest.raises(ValueError, match=r"units/rvq_0: not there, but rvq_1 is; choose another units.name"):
        run(folders, tmp_path / "third", config)


@pytest.mark.parametrize(("own", "used"), [(-1, 7), (0, 0), (3, 3)])
def test_units_are_made_by_as_many_processes_as_training_has(own, used):
    assert UnitsConfig(num_workers=own).stream(0.01, 7).num_workers == used
    assert UnitsConfig().num_workers == -1
