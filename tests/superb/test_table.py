"""Tables of scores: what is put together, what is kept apart and said, and the score over all tasks."""

from __future__ import annotations

import csv
import io
import json

import pytest

from audiossl.cli.main import main
from audiossl.superb.page import comma_separated, every_score, markdown, page
from audiossl.superb.score import Choice, Score
from audiossl.superb.table import make_table, read_scores
from audiossl.train.ledger import Cost

METRIC = {
    "ks": "accuracy",
    "pr": "per",
    "qbe": "mtwv",
    "asv": "eer",
    "ood_es": "wer",
    "ood_zh": "cer",
    "vc_tef1": "mcd",
    "vc_tem1": "mcd",
}


def add(
    folder,
    upstream,
    task,
    value,
    *,
    seed=0,
    steps=100,
    digest="w",
    data="d",
    official=None,
    rate=1e-3,
    shares=(0.3, 0.7),
    **more,
):
    metric = METRIC[task]
    Score(
        task=task, upstream=upstream, values={metric: value, "other": 1.0}, metric=metric, learning_rate=rate, seed=seed,
        selection=f"dev {metric}", step=0 if rate is None else 50, parameters=10, cost=Cost(5, 500, 2.0, 10**9, 3000.0),
        official={} if official is None else {metric: official},
        official_choice=None if official is None else Choice(rate / 10, 20 + 10 * seed), shares=shares,
        more={"protocol": {"task": task, "superb.steps": steps}, "data": data, "upstream_digest": digest} | more,
    ).write(folder)  # fmt: skip


def table_of(*folders):
    return make_table(read_scores(folders))


def test_rows_columns_and_the_score_over_all_tasks(tmp_path):
    for upstream, ks, pr in (("fbank", 40.0, 80.0), ("a", 90.0, 20.0), ("b", 65.0, 8.0)):
        add(tmp_path / upstream, upstream, "ks", ks)
        add(tmp_path / upstream, upstream, "pr", pr)
    table = table_of(tmp_path)
    assert table.upstreams == ["fbank", "a", "b"]
    assert table.tasks == ["pr", "ks"]
    assert table.cells["a", "ks"].value == 90.0
    # By hand: ks from 40 to 90, pr from 80 down to 8.
    assert table.totals["fbank"] == pytest.approx(0.0)
    assert table.totals["a"] == pytest.approx(500 * (1.0 + 60 / 72))
    assert table.totals["b"] == pytest.approx(500 * (25 / 50 + 1.0))
    assert table.marks == {}
    text = markdown(table)
    assert "| upstream | PR PER ↓ | KS accuracy ↑ | SUPERB score ↑ |" in text
    assert "| a | 20.00 | **90.00** | **917** |" in text
    assert "| b | **8.00** | 65.00 | 750 |" in text
    assert "1000 (s - fbank) / (best of this table - fbank)" in text
    assert "s: the values shown, none of them chosen on test" in text
    rows = list(csv.reader(io.StringIO(comma_separated(table))))
    assert rows[0] == ["upstream", "pr per", "ks accuracy", "SUPERB score"]
    assert [float(value) for value in rows[2][1:]] == pytest.approx([20.0, 90.0, 500 * (1 + 60 / 72)])


def test_deltas_are_the_baseline_where_both_filterbanks_are_there(tmp_path):
    for upstream, value in (("fbank", 20.0), ("fbank+deltas", 50.0), ("a", 100.0)):
        add(tmp_path, upstream, "ks", value)
    assert table_of(tmp_path).totals == {"fbank": pytest.approx(-600.0), "fbank+deltas": 0.0, "a": 1000.0}


def test_seeds_become_a_mean_and_a_deviation(tmp_path):
    for seed, value in ((0, 90.0), (1, 94.0)):
        add(tmp_path, "a", "ks", value, seed=seed)
    add(tmp_path, "a", "ks", 92.0, seed=0)  # again: the newest counts
    cell = table_of(tmp_path).cells["a", "ks"]
    assert (cell.value, cell.spread, cell.seeds) == (93.0, pytest.approx(2**0.5), (0, 1))
    assert "93.00 ± 1.41" in markdown(table_of(tmp_path))


def test_another_protocol_of_the_same_upstream_is_left_out_and_said(tmp_path):
    add(tmp_path, "a", "ks", 10.0, seed=1, steps=5)
    add(tmp_path, "a", "ks", 90.0, steps=100)
    table = table_of(tmp_path)
    assert table.cells["a", "ks"].value == 90.0
    assert any("ks of a: 1 older scores are left out" in note for note in table.notes)


@pytest.mark.parametrize("changed", [{"steps": 5}, {"data": "e"}])
def test_columns_of_several_protocols_are_marked_and_have_no_best(tmp_path, changed):
    add(tmp_path, "fbank", "ks", 10.0)
    add(tmp_path, "a", "ks", 90.0, **changed)
    add(tmp_path, "fbank", "pr", 50.0)
    add(tmp_path, "a", "pr", 40.0)
    table = table_of(tmp_path)
    assert table.marks == {("fbank", "ks"): "a", ("a", "ks"): "b"}
    [note] = [note for note in table.notes if note.startswith("ks: not comparable")]
    assert ("superb.steps 100" in note and "superb.steps 5" in note) if "steps" in changed else "data e" in note
    assert "90.00 (b)" in markdown(table)
    assert "**90.00" not in markdown(table)
    assert table.totals == {"fbank": 0.0, "a": 1000.0}
    assert any("without ks" in note for note in table.notes)


def test_a_second_reading_with_a_language_model_is_no_other_protocol(tmp_path):
    protocol = {"task": "pr", "superb.steps": 100}
    add(tmp_path, "a", "pr", 20.0, protocol=protocol)
    for upstream in ("a", "b"):
        add(tmp_path, upstream, "pr", 20.0, protocol=protocol | {"task.decoding": {"lm": "4-gram.arpa"}})
    table = table_of(tmp_path)
    assert (table.marks, table.notes) == ({}, make_table(read_scores([tmp_path])[:1]).notes)


def test_what_is_told_beside_the_metric_is_no_other_protocol(tmp_path):
    protocol = {"task": "vc", "task.metrics": ["si_sdr_improvement"]}
    beside = {"task.metrics": ["si_sdr_improvement", "stoi"], "task.recogniser": "exp/asr", "task.verifier": "exp/sv"}
    add(tmp_path, "a", "pr", 20.0, protocol=protocol)
    add(tmp_path, "b", "pr", 20.0, protocol=protocol | beside | {"task.lexicon": ["a.txt"]})
    assert table_of(tmp_path).marks == {}
    add(tmp_path, "c", "pr", 20.0, protocol=protocol | {"task.metrics": ["stoi", "si_sdr_improvement"]})
    assert set(table_of(tmp_path).marks.values()) == {"a", "b"}


def test_what_is_not_as_published_is_said_once_or_of_whom(tmp_path):
    for task, upstream, variant in (
        ("ks", "fbank", "x"), ("ks", "a", "x"), ("pr", "fbank", "y"), ("pr", "a", ""), ("asv", "a", "")
    ):  # fmt: skip
        add(tmp_path, upstream, task, 10.0, **({"variant": variant} if variant else {}))
    notes = [note for note in table_of(tmp_path).notes if "published protocol" in note]
    assert notes == ["pr of fbank: not the published protocol: y", "ks: not the published protocol: x"]


def test_seeds_that_differ_are_said(tmp_path):
    add(tmp_path, "fbank", "ks", 10.0, seed=0)
    add(tmp_path, "a", "ks", 90.0, seed=1)
    assert "ks: seeds differ: fbank: 0; a: 1" in table_of(tmp_path).notes


def test_weights_that_changed_are_another_upstream_but_not_random_ones(tmp_path):
    for upstream in ("a", "random:a"):
        add(tmp_path, upstream, "ks", 10.0, seed=0, digest="old")
        add(tmp_path, upstream, "ks", 20.0, seed=1, digest="new")
    cells = table_of(tmp_path).cells
    assert cells["a", "ks"].value == 20.0
    assert cells["random:a", "ks"].value == 15.0


def test_an_upstream_without_a_task_has_no_total_and_no_table_is_made_of_nothing(tmp_path):
    add(tmp_path, "fbank", "ks", 10.0)
    add(tmp_path, "a", "ks", 90.0)
    add(tmp_path, "b", "pr", 90.0)
    table = table_of(tmp_path)
    assert table.totals.keys() == {"fbank", "a"}
    assert "| b | 90.00 |  |  |" in markdown(table).replace("**", "")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no score of SUPERB"):
        read_scores([tmp_path / "empty"])
    with pytest.raises(ValueError, match="no such folder"):
        read_scores([tmp_path / "absent"])


def test_how_chosen_cost_and_official_are_in_the_page(tmp_path):
    add(tmp_path, "<a>", "asv", 9.0, official=7.5)
    add(tmp_path, "<a>", "asv", 8.0, seed=1, official=7.0)
    add(tmp_path, "<a>", "qbe", 0.0123, rate=None, shares=(), layer=3)
    table = table_of(tmp_path)
    assert table.cells["<a>", "asv"].official == 7.25
    text = markdown(table)
    assert (
        "| <a> | asv | eer 8.50 ± 0.7071 % | 0.001 | 50 | 0 1 | dev eer | 7.25 ± 0.3536 | 0.0001 | 20 30 | 10 |" in text
    )
    assert "| <a> | asv | 10 | 1000 | 4.0 | 1.00 | 6 |" in text
    assert "0.0123" in text
    html = page(table)
    assert "&lt;a&gt;" in html
    assert "<a>" not in html
    assert html.count("<figure>") == 1
    assert "qbe has no layers to weigh" in html
    assert 'src="http' not in html


def test_every_score_stands_with_what_it_hangs_on(tmp_path):
    add(tmp_path, "a", "asv", 9.0, official=7.5)
    add(tmp_path, "a", "asv", 8.0, seed=1, official=7.0, rate=1e-4, variant="x, y")
    add(tmp_path, "a", "qbe", 0.0123, rate=None, shares=(), layer=3)
    qbe, first, second = csv.DictReader(io.StringIO(every_score(table_of(tmp_path))))
    assert (qbe["task"], float(qbe["value"]), qbe["learning_rate"], qbe["layer"]) == ("qbe", 0.0123, "", "3")
    assert (qbe["step"], qbe["official_value"], qbe["unit"]) == ("0", "", "")
    assert [float(row["value"]) for row in (first, second)] == [9.0, 8.0]
    assert [float(row["official_value"]) for row in (first, second)] == [7.5, 7.0]
    wanted = {
        "upstream": "a", "task": "asv", "seed": "1", "metric": "eer", "unit": "%", "learning_rate": "0.0001", "step": "50",
        "selection": "dev eer", "official_learning_rate": "1e-05", "official_step": "30", "parameters": "10", "protocol": "", "variant": "x, y",
    }  # fmt: skip
    assert second.items() >= wanted.items()
    assert second["official_selection"].startswith("test")


def test_what_test_chose_is_the_mean_of_the_same_seeds_or_is_not_told(tmp_path):
    add(tmp_path, "a", "asv", 9.0, official=7.5)
    add(tmp_path, "a", "asv", 5.0, seed=1, official=3.0)
    add(tmp_path, "a", "asv", 5.0, seed=1, official=4.0)  # again: the newest counts
    cell = table_of(tmp_path).cells["a", "asv"]
    assert (cell.value, cell.official, cell.official_spread) == (7.0, 5.75, pytest.approx(3.5 / 2**0.5))
    add(tmp_path, "a", "asv", 4.0, seed=2)
    cell = table_of(tmp_path).cells["a", "asv"]
    assert (cell.value, cell.official, cell.official_spread) == (6.0, None, None)


def test_parts_of_a_task_stand_side_by_side_with_their_mean(tmp_path):
    for upstream, es, zh in (("fbank", 60.0, 40.0), ("a", 50.0, 25.0)):
        add(tmp_path, upstream, "ood_es", es)
        add(tmp_path, upstream, "ood_zh", zh)
    add(tmp_path, "b", "ood_es", 10.0)
    add(tmp_path, "a", "vc_tef1", 8.0, official=7.0)
    assert not any(note.startswith("vc: ") for note in table_of(tmp_path).notes)
    add(tmp_path, "a", "vc_tem1", 9.0, official=8.0)
    table = table_of(tmp_path)
    assert table.tasks == ["ood_es", "ood_zh", "vc_tef1", "vc_tem1"]
    assert [note for note in table.notes if ": mean of" in note] == [
        "ood: mean of ood_es, ood_zh: fbank 50.00, a 37.50; the published mean has ood_ar, ood_sbcsae too",
        "vc: mean of vc_tef1, vc_tem1: a 8.50 (7.50 chosen on test); the published mean has vc_tef2, vc_tem2 too",
    ]


def test_the_verb_writes_three_files(tmp_path, capsys):
    add(tmp_path / "x", "fbank", "ks", 10.0)
    add(tmp_path / "y", "a", "ks", 90.0)
    with pytest.raises(SystemExit) as stop:
        main(["superb", "table", str(tmp_path / "x"), str(tmp_path / "y"), "--to", str(tmp_path / "t"), "--json"])
    assert stop.value.code == 0
    found = json.loads(capsys.readouterr().out)
    assert found["superb_score"] == {"fbank": 0.0, "a": 1000.0}
    assert {path.name for path in (tmp_path / "t").iterdir()} == {"table.md", "table.csv", "scores.csv", "table.html"}
    with pytest.raises(SystemExit) as stop:
        main(["superb", "table"])
    assert stop.value.code == 2
