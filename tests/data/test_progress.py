"""Progress goes to stderr, as lines that a log file can hold, and changes nothing of what passes through."""

from __future__ import annotations

import sys

from audiossl.data import progress as module
from audiossl.data.progress import progress


def test_items_pass_and_short_work_is_silent(capsys):
    assert list(progress(range(5), 5, "reading")) == [0, 1, 2, 3, 4]
    assert capsys.readouterr() == ("", "")


def test_lines_of_long_work(capsys, monkeypatch):
    clock = iter(range(0, 1000, 4))
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    assert len(list(progress(range(8), 8, "reading"))) == 8
    assert capsys.readouterr().err.splitlines() == [
        "reading: 3/8 (38 %) in 12 s",
        "reading: 6/8 (75 %) in 24 s",
        "reading: 8/8 (100 %) in 36 s",
    ]


def test_unknown_total(capsys, monkeypatch):
    clock = iter(range(0, 1000, 11))
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    list(progress(iter("ab"), None, "reading"))
    assert capsys.readouterr().err.splitlines()[0] == "reading: 1 in 11 s"


def test_bar_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert list(progress(range(3), 3, "reading")) == [0, 1, 2]
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "reading" in shown.err
