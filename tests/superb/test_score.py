"""A score says how it came about, or is none."""

from __future__ import annotations

import json

import pytest

from audiossl.diagnostics.results import read_results
from audiossl.superb.score import Choice, Score
from audiossl.train.ledger import Cost

GIVEN = {
    "task": "ks", "upstream": "fbank", "values": {"accuracy": 90.0}, "metric": "accuracy", "learning_rate": 1e-3, "seed": 0,
    "selection": "dev accuracy", "step": 50, "parameters": 10, "cost": Cost(5, 500, 2.0, 10**9, None),
}  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"selection": " "}, "score of fbank on ks: has no selection; a score is not written without one"),
        ({"upstream": ""}, "score of no upstream on ks: has no upstream"),
        ({"learning_rate": None}, "learning rate None at step 50; what takes steps has a rate"),
        ({"step": 0}, "learning rate 0.001 at step 0"),
        ({"learning_rate": float("nan")}, "learning rate is nan; only finite numbers are scores"),
        ({"seed": None}, "seed None is no whole number; a score is not written without its seed"),
        ({"metric": "eer"}, "'eer' is not among its values accuracy"),
        ({"values": {"accuracy": 90.0, "other": float("inf")}}, "other is inf"),
        ({"official": {"accuracy": float("nan")}}, "accuracy is nan"),
        ({"learning_rate": None, "step": 0, "parameters": 76077}, "has neither learning rate nor layer"),
        ({"learning_rate": None, "step": 0, "more": {"layer": None}}, "has neither learning rate nor layer"),
        ({"selection": "whatever"}, "selection 'whatever' names no split; say `dev` and the metric, or 'last step'"),
        ({"selection": "test eer"}, "selection 'test eer' names no split"),
        ({"parameters": -1}, "learning rate 0.001 at step 50"),
    ],
)
def test_what_is_not_told_is_not_written(changed, message):
    with pytest.raises(ValueError, match=message):
        Score(**GIVEN | changed)


@pytest.mark.parametrize("selection", ["last step", "dev", "dev accuracy, classes alike"])
def test_selections(selection):
    assert Score(**GIVEN | {"selection": selection}).selection == selection


def test_what_trains_nothing_has_no_rate(tmp_path):
    Score(**GIVEN | {"learning_rate": None, "step": 0, "parameters": 0, "more": {"layer": 3}}).write(tmp_path)
    (row,) = json.loads((tmp_path / "results.json").read_text())
    assert (row["learning_rate"], row["layer"], row["selection"], row["seed"]) == (None, 3, "dev accuracy", 0)
    assert "gpu_peak_bytes" not in row


def test_what_was_written_can_be_read(tmp_path):
    head = {"official": {"accuracy": 91.0}, "official_choice": Choice(1e-2, 40, (0.25, 0.75)), "shares": (0.5, 0.5)}
    for more in (head, {"more": {"crops": 3}, "dev": {1e-3: 88.0}}):
        score = Score(**GIVEN | more)
        out = tmp_path / str(len(more))
        score.write(out)
        assert Score.of_rows(read_results(out)) == score
