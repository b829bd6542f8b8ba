"""The table of units: sorted, atomic, and read back as it was written."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from audiossl.data.alignments import parse_labels
from audiossl.units.labels import LabelWriter, labels_path, read_labels


def write(path, rows, size=50):
    with LabelWriter(path, size) as writer:
        for number, utterance, labels in rows:
            writer.add(number, utterance, labels)


def test_any_order_becomes_the_order_of_numbers(tmp_path):
    rng = np.random.default_rng(0)
    rows = [(n, f"u{n:03d}", rng.integers(0, 50, rng.integers(0, 30)).tolist()) for n in range(200)]
    path = labels_path(tmp_path, "km50")
    write(path, [rows[n] for n in rng.permutation(200)])
    expected = "".join(" ".join([name, *map(str, labels)]) + "\n" for _, name, labels in rows)
    assert path.read_text() == expected
    again = [
        (line - 1, name, labels.tolist()) for line, name, labels in read_labels(tmp_path, "km50", codebook_size=50)
    ]
    assert again == rows
    assert [found.name for found in path.parent.iterdir()] == ["km50"]


def test_an_error_leaves_the_old_table(tmp_path):
    path = labels_path(tmp_path, "km")
    write(path, [(0, "old", [1])])

    def rows():
        yield 0, "new", [2]
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write(path, rows())
    assert path.read_text() == "old 1\n"
    assert [found.name for found in path.parent.iterdir()] == ["km"]


def test_no_utterance_at_all(tmp_path):
    path = labels_path(tmp_path, "km")
    write(path, [])
    assert path.read_text() == ""


def test_labels_wait_on_disk(tmp_path):
    labels = list(np.random.default_rng(0).integers(0, 50, 1000).tolist())
    tracemalloc.start()
    try:
        write(labels_path(tmp_path, "km"), ((n, f"u{n:05d}", labels) for n in range(1500)))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert labels_path(tmp_path, "km").stat().st_size > 4_000_000
    assert peak < 500_000


def test_missing_table(tmp_path):
    with pytest.raises(ValueError, match=r"units/km: no such file; make it with `audiossl units apply`"):
        list(read_labels(tmp_path, "km", codebook_size=5))


@pytest.mark.parametrize("text", ["", "7", "1 23 456", "1  2", " 1\t2 ", "-1 +2", "\u0663 4"])
def test_labels_are_parsed_as_python_reads_whole_numbers(text):
    assert parse_labels(text).tolist() == list(map(int, text.split()))
