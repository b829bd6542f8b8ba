from __future__ import annotations

import os

import pytest

from audiossl.data.processes import in_processes


def test_results_come_in_order_from_other_processes():
    assert in_processes(abs, [-3, 2, -1], 2) == [3, 2, 1]
    assert in_processes(os.getenv, ["OMP_NUM_THREADS"], 2) == ["1"]


def test_without_workers_it_is_done_here():
    here = []
    in_processes(here.append, [1, 2], 0)
    assert here == [1, 2]


def test_an_error_comes_back():
    with pytest.raises(ValueError, match="'x'"):
        in_processes(int, ["1", "x"], 2)
