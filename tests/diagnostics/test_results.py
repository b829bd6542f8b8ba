"""Results files: what is added is read back, whole, also when several processes add at once."""

from __future__ import annotations

import json
import multiprocessing
import sys
from datetime import datetime
from io import StringIO

import pytest

from audiossl.diagnostics.results import add_result, read_results, results_table, shown


def _add_many(folder, worker):
    for index in range(20):
        add_result(folder, f"{worker}-{index}", index, "%", seed=worker)


def test_rows_come_back_with_where_they_came_from(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/audiossl", "score", "--out", "a b"])
    first = add_result(tmp_path, "test WER", 12.5, "%", seed=3, beam=4)
    add_result(
        tmp_path / "results.json", "hours", 1, "h", command="make", date="2020-01-02T03:04:05+00:00", machine="m"
    )
    rows = read_results(tmp_path)
    assert rows[0] == first
    assert first.command == "audiossl score --out 'a b'"
    assert datetime.fromisoformat(first.date).tzinfo is not None
    assert (first.seed, first.more) == (3, {"beam": 4})
    assert (rows[1].command, rows[1].machine, rows[1].seed) == ("make", "m", None)
    raw = json.loads((tmp_path / "results.json").read_text())
    assert raw[0]["beam"] == 4
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


def test_no_row_is_lost_between_processes(tmp_path):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_add_many, args=(tmp_path, worker)) for worker in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len({row.name for row in read_results(tmp_path)}) == 60


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_only_numbers_are_results(tmp_path, value):
    with pytest.raises(ValueError, match="finite"):
        add_result(tmp_path, "x", value, "%")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", r"results.json:1: not valid JSON"),
        ("{}", "no list of results"),
        ('[{"name": "x"}]', "row 1 has no usable 'value'"),
        ("[3]", "row 1 has no usable 'name'"),
    ],
)
def test_a_broken_file_is_named_and_never_overwritten(tmp_path, content, message):
    path = tmp_path / "results.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        read_results(path)
    with pytest.raises(ValueError, match=message):
        add_result(path, "x", 1.0, "%")
    assert path.read_text() == content


def test_table_shows_brackets_as_they_are(tmp_path):
    from rich.console import Console

    result = add_result(tmp_path, "accuracy [dev]", 12.345, "%", seed=0)
    out = StringIO()
    Console(file=out, width=100).print(results_table([("exp", result)]))
    assert "accuracy [dev]" in out.getvalue()
    assert "12.35" in out.getvalue() or "12.34" in out.getvalue()


def test_small_numbers_keep_their_digits():
    assert [shown(value) for value in (0.0, 0.00123456, 12.0, -3.14159)] == ["0.00", "0.001235", "12.00", "-3.14"]


def test_a_measurement_replaces_the_one_of_the_same_context(tmp_path):
    same = ("list", "norm")
    for value, context in ((1, {"list": "a"}), (2, {"list": "b"}), (3, {"list": "a", "norm": "s"})):
        add_result(tmp_path, "EER", value, "%", same=same, **context)
    add_result(tmp_path, "cost", 4, "", same=same, list="a")
    add_result(tmp_path, "EER", 5, "%", same=same, seed=7, list="a", interval=[1, 9])
    add_result(tmp_path, "EER", 6, "%", list="b")  # appended, as nothing says what it repeats
    rows = read_results(tmp_path)
    assert [row.value for row in rows] == [2, 3, 4, 5, 6]
    assert (rows[3].seed, rows[3].more) == (7, {"list": "a", "interval": [1, 9]})
