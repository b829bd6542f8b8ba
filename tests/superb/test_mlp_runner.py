"""Perceptrons from data directories to a score, on tones."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from tones import source, write_tones

from audiossl import registry
from audiossl.cli.main import main
from audiossl.data.manifest import Manifest
from audiossl.diagnostics.mlp_training import predictions
from audiossl.superb import mlp
from audiossl.superb.job import Evaluation, Job
from audiossl.superb.mlp import Config, run
from audiossl.superb.parts import left_out

SMALL = {
    "learning_rates": (1e-2, 1e-3), "hidden_layers": (1,), "inits": ("xavier_uniform",), "hidden_dim": 16, "batch": 16, "epochs": 40,
    "eval_every": 2, "patience": 8, "num_workers": 0, "batch_seconds": 4.0,
}  # fmt: skip


def score(data, out, config, *, deaf=(), **task):
    cls = registry.get("tasks", "attribute")
    assert cls.runner == "mlp"
    features, calls = source(deaf=deaf)
    job = Job("x", "attribute", cls, cls.Config(**task), config)
    return run(job, Evaluation(features, "tones", data, 3, "cpu", print), out / "task"), calls


def singles(count, column="utt2sound"):
    return [((k % 3,), {column: f"w{k % 3}"}) for k in range(count)]


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    data = tmp_path_factory.mktemp("classes")
    for seed, (part, count) in enumerate({"train": 36, "dev": 12, "test": 15}.items()):
        write_tones(data / part, singles(count), seed)
    return data


def test_a_score_says_what_it_is_and_what_it_cost(classes, tmp_path):
    config = Config(**{**SMALL, "hidden_layers": (1, 2)})
    found, calls = score(classes, tmp_path, config, columns=("utt2sound",))
    assert found.values == {"accuracy": 100.0, "unweighted_average_recall": 100.0}
    assert (found.metric, found.selection) == ("accuracy", "dev accuracy")
    assert set(found.dev) == {1e-2, 1e-3}
    assert found.learning_rate in found.dev
    depth = found.more["head"]["hidden_layers"]
    assert found.parameters == 3 + (4 * 16 + 3 * 16) + (depth == 2) * (16 * 16 + 3 * 16) + 17 * 3
    assert sum(found.shares) == pytest.approx(1.0)
    assert sum(calls) == found.cost.forwards == 36 + 12 + 15
    assert found.cost.alone_forwards >= 4 * (36 + 12 + 15)
    assert found.step == found.more["epochs"][0] * 3
    again, calls = score(classes, tmp_path, config, columns=("utt2sound",))
    assert calls == []
    assert (again.values, again.dev, again.shares) == (found.values, found.dev, found.shares)


def test_dev_chooses_the_layer_where_each_is_tried(classes, tmp_path):
    found, _ = score(classes, tmp_path, Config(**{**SMALL, "layers": "each"}), deaf=(0, 2), columns=("utt2sound",))
    assert found.more["head"]["layer"] == 1
    curve = found.more["dev_by_layer"]
    assert set(curve) == {"0", "1", "2"}
    assert curve["1"] > max(curve["0"], curve["2"]) + 20
    assert found.values["accuracy"] > 90
    assert found.shares == ()


def test_numbers_and_tags(tmp_path):
    rng = np.random.default_rng(0)
    for seed, (part, count) in enumerate({"train": 60, "dev": 20, "test": 20}.items()):
        rows = []
        for _ in range(count):
            tones = tuple(np.flatnonzero(rng.random(3) < 0.5))
            columns = {
                "utt2tags": " ".join(f"t{tone}" for tone in tones) or "-",
                "utt2many": str(len(tones)),
                "utt2low": str(int(0 in tones)),
            }
            rows.append((tones, columns))
        write_tones(tmp_path / part, rows, seed)
    config = Config(**{**SMALL, "epochs": 80, "standardise": True})
    tags, calls = score(tmp_path, tmp_path / "out", config, kind="tags", columns=("utt2tags",), metric="map")
    assert set(tags.values) == {"map", "roc_auc"}
    assert tags.metric == "map"
    assert min(tags.values.values()) > 95
    lines = [line.split() for line in tags.answers["scores"]]
    assert [line[1::2] for line in lines] == [["t0", "t1", "t2"]] * 20
    manifest = Manifest.open(tmp_path / "test")
    said = [value.split() for value in manifest.column("utt2tags")]
    assert [line[0] for line in lines] == list(manifest.ids)
    areas = [
        roc_auc_score([tag in one for one in said], [float(line[2 * k + 2]) for line in lines])
        for k, tag in enumerate(["t0", "t1", "t2"])
    ]
    assert 100 * np.mean(areas) == pytest.approx(tags.values["roc_auc"])
    assert calls
    numbers, calls = score(tmp_path, tmp_path / "out", config, kind="numbers", columns=("utt2many", "utt2low"))
    assert calls == []  # of another label, but of the same audio
    assert set(numbers.values) == {"r2", "r2_many", "r2_low"}
    assert numbers.answers == {}
    assert numbers.values["r2"] > 60


def test_folds_are_left_out_in_turn(tmp_path, monkeypatch):
    rows = [(tones, {**columns, "utt2fold": f"f{k // 12}"}) for k, (tones, columns) in enumerate(singles(48))]
    write_tones(tmp_path / "all", rows)
    folds = left_out(Manifest.open(tmp_path / "all"), "utt2fold")
    assert [fold.name for fold in folds] == ["f0", "f1", "f2", "f3"]
    for number, fold in enumerate(folds):
        parts = [set(part.rows // 12) for part in fold[1:]]
        after = (number + 1) % 4
        assert parts == [{0, 1, 2, 3} - {number, after}, {after}, {number}]
    asked = []
    fit = mlp.fit_mlps
    monkeypatch.setattr(mlp, "fit_mlps", lambda *a, **k: asked.append((len(a[0].rows), len(a[3]))) or fit(*a, **k))
    found, calls = score(tmp_path, tmp_path / "out", Config(folds="utt2fold", **SMALL), columns=("utt2sound",))
    # All heads on the first fold, on the others the chosen one alone.
    assert asked == [(24, 2), (24, 1), (24, 1), (24, 1)]
    assert sum(calls) == 48
    assert found.values["accuracy"] == pytest.approx(np.mean([one["accuracy"] for one in found.more["folds"].values()]))
    manifest = Manifest.open(tmp_path / "all")
    column = dict(zip(manifest.ids, manifest.column("utt2sound"), strict=True))
    fold = dict(zip(manifest.ids, manifest.column("utt2fold"), strict=True))
    lines = [line.split() for line in found.answers["predictions"]]
    assert [(line[0], *line[2:]) for line in lines] == [(name, column[name], fold[name]) for name in manifest.ids]
    assert np.mean([line[1] == line[2] for line in lines]) == pytest.approx(found.values["accuracy"] / 100)
    assert found.selection == "dev accuracy of the first fold"
    assert found.more["utterances"] == {"train": 96, "dev": 48, "test": 48}


def test_a_fold_without_one_of_the_classes_is_scored_on_the_others(tmp_path):
    rows = [(tones, {**columns, "utt2fold": f"f{k // 12}"}) for k, (tones, columns) in enumerate(singles(48))]
    rows = [(tones, columns) for tones, columns in rows if (columns["utt2sound"], columns["utt2fold"]) != ("w2", "f1")]
    write_tones(tmp_path / "all", rows)
    config = Config(folds="utt2fold", **SMALL)
    found, _ = score(tmp_path, tmp_path / "out", config, columns=("utt2sound",), metric="map")
    assert found.more["labels_not_scored"] == [0, 1, 0, 0]
    assert found.values["map"] > 75


def test_a_fold_of_one_training_utterance_is_named(tmp_path):
    folds = ["f0", "f0", "f1", "f1", "f2"]
    rows = [(tones, {**columns, "utt2fold": fold}) for (tones, columns), fold in zip(singles(5), folds, strict=True)]
    write_tones(tmp_path / "all", rows)
    with pytest.raises(ValueError, match=r"all: fold f0 has one usable utterance .*; join folds$"):
        score(tmp_path, tmp_path / "out", Config(folds="utt2fold", **SMALL), columns=("utt2sound",))


def test_the_input_of_the_first_block_may_be_left_out(classes, tmp_path):
    config = Config(**{**SMALL, "input_layer": False})
    found, _ = score(classes, tmp_path, config, deaf=(1, 2), columns=("utt2sound",))
    assert found.values["accuracy"] < 70  # layer 0 alone hears
    assert found.parameters == 2 + (4 * 16 + 3 * 16) + 17 * 3
    assert found.shares[0] == 0.0
    assert (len(found.shares), sum(found.shares)) == (3, pytest.approx(1.0))
    with_it, _ = score(classes, tmp_path, Config(**SMALL), deaf=(1, 2), columns=("utt2sound",))
    assert with_it.values["accuracy"] > 90
    each, _ = score(classes, tmp_path, replace(config, layers="each"), columns=("utt2sound",))
    assert set(each.more["dev_by_layer"]) == {"1", "2"}
    assert each.shares == ()
    assert mlp._first(config, replace(source()[0], num_layers=1)) == 0


def test_numbers_of_any_scale_are_learnt(tmp_path):
    rng = np.random.default_rng(0)
    for seed, (part, count) in enumerate({"train": 60, "dev": 20, "test": 20}.items()):
        heard = [tuple(np.flatnonzero(rng.random(3) < 0.5)) for _ in range(count)]
        write_tones(tmp_path / part, [(tones, {"utt2x": str(1e4 + 50 * len(tones))}) for tones in heard], seed)
    found, _ = score(tmp_path, tmp_path / "out", Config(**SMALL), kind="numbers", columns=("utt2x",))
    assert found.values["r2"] > 60


def test_two_parts_are_no_folds(tmp_path):
    write_tones(tmp_path / "all", [((0,), {"utt2fold": f"f{k % 2}"}) for k in range(4)])
    with pytest.raises(ValueError, match="utt2fold: has 2 different values; folds need at least three"):
        left_out(Manifest.open(tmp_path / "all"), "utt2fold")


def test_faults_of_labels_are_found_before_the_pass(classes, tmp_path):
    for part in ("train", "dev"):
        (tmp_path / part).symlink_to(classes / part)
    write_tones(tmp_path / "test", [((0,), {"utt2sound": "never"})])
    with pytest.raises(ValueError, match="is labelled 'never', which training does not have"):
        score(tmp_path, tmp_path / "out", Config(**SMALL), columns=("utt2sound",))
    assert not (tmp_path / "out").exists()


def test_nothing_finite_is_an_error(classes, tmp_path):
    config = Config(**{**SMALL, "learning_rates": (1e38,), "batch_norm": False})
    with pytest.raises(ValueError, match="superb x: no head gives a finite loss"):
        score(classes, tmp_path, config, columns=("utt2sound",))


def test_the_chosen_head_is_what_is_tested(classes, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(mlp, "predictions", lambda head, *a: seen.append(head) or predictions(head, *a))
    score(classes, tmp_path, Config(**SMALL), columns=("utt2sound",))
    assert [len(head.values) for head in seen] == [1]


def test_the_verb(tmp_path, capsys):
    for seed, (part, count) in enumerate({"train": 36, "dev": 12, "test": 15}.items()):
        write_tones(tmp_path / "data" / part, singles(count, "utt2genre"), seed)
    words = [
        "superb",
        "marble_gtzan_genre",
        "--upstream",
        "fbank",
        "--superb.num_workers",
        "0",
        "--superb.epochs",
        "30",
        "--device",
        "cpu",
    ]
    with pytest.raises(SystemExit) as stop:
        main([*words, "--data", str(tmp_path / "data"), "--out", str(tmp_path), "--json"])
    out, err = capsys.readouterr()
    assert stop.value.code == 0, err
    assert json.loads(out)["values"]["accuracy"] > 90
    with pytest.raises(SystemExit):
        main(["superb", "table", str(tmp_path)])
    assert "marble_gtzan_genre" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"learning_rates": ()}, "superb.learning_rates"),
        ({"hidden_layers": (1, 1)}, "superb.hidden_layers"),
        ({"inits": ()}, "superb.inits"),
        ({"dropout": 1.0}, "dropout"),
        ({"batch": 1}, "batch 2"),
        ({"patience": 0}, "patience"),
    ],
)
def test_config_refuses_nonsense(wrong, match):
    with pytest.raises(ValueError, match=match):
        Config(**wrong)
