"""Memory-mapped tables against a dictionary, and when their index is built again."""

from __future__ import annotations

import os
import pickle

import numpy as np
import pytest

from audiossl.data import index
from audiossl.data.index import Table
from audiossl.data.kaldi import read_table


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(index, "_told", set())


@pytest.fixture
def builds(monkeypatch):
    counted = []
    original = index._line_offsets
    monkeypatch.setattr(index, "_line_offsets", lambda path: counted.append(path.name) or original(path))
    return counted


@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_rows_and_keys_are_those_of_the_file(tmp_path, shuffled, ending):
    rng = np.random.default_rng(1)
    # Long keys too: longer than the piece of a line that is looked at first.
    oracle = {f"{'k' * int(n)}{i}é": f"value {i}" if i % 3 else "" for i, n in enumerate(rng.integers(1, 400, 60))}
    keys = list(rng.permutation(list(oracle))) if shuffled else sorted(oracle)
    (tmp_path / "text").write_bytes(ending.join(f"{key}\t{oracle[key]}" for key in keys).encode())
    table = Table(tmp_path / "text")
    assert [table.row(i) for i in range(len(table))] == sorted(oracle.items())
    assert [table.key(i) for i in range(len(table))] == sorted(oracle)
    for row, key in enumerate(sorted(oracle)):
        assert table.find(key) == table.find(key, row) == table.find(key, 3) == row
        assert table.line(row) == keys.index(key) + 1
    assert table.find("absent") == table.find("") == table.find("\U0001f600") == -1
    assert [pickle.loads(pickle.dumps(table)).row(i) for i in range(3)] == sorted(oracle.items())[:3]


@pytest.mark.parametrize("text", ["a 1\nb 2\n", "b 2\na 1\n", "a 1\n"])
def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path, text):
    (tmp_path / "text").write_bytes(b"\xef\xbb\xbf" + text.encode())
    table, lines = Table(tmp_path / "text"), sorted(tuple(line.split()) for line in text.splitlines())
    assert [table.row(row) for row in range(len(table))] == lines
    assert [table.find(key) for key, _ in lines] == list(range(len(lines)))
    assert sorted(row[1:] for row in read_table(tmp_path / "text")) == lines


def test_an_empty_table_and_a_missing_one(tmp_path):
    (tmp_path / "text").touch()
    assert len(Table(tmp_path / "text")) == 0
    assert Table(tmp_path / "text").find("a") == -1
    with pytest.raises(ValueError, match="no such file"):
        Table(tmp_path / "none")


@pytest.mark.parametrize("content", ["a 1\na 2\n", "a 1\nb 2\na 3\n"])
def test_a_key_that_comes_twice(tmp_path, content):
    (tmp_path / "text").write_text(content)
    line = content.count("\n")
    with pytest.raises(ValueError, match=rf"text:{line}: 'a' comes twice; run `audiossl data fix"):
        Table(tmp_path / "text")


def test_the_index_is_built_only_when_the_file_changed(tmp_path, builds):
    path = tmp_path / "text"
    path.write_text("a 1\nb 2\n")
    Table(path)
    Table(path)
    assert builds == ["text"]
    status = path.stat()
    path.write_text("a 1\nc 2\n")  # same size
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert Table(path).key(1) == "c"
    assert builds == ["text", "text"]
    assert [p.name for p in (tmp_path / ".index").iterdir()] == ["text.npy"]


@pytest.mark.parametrize("damage", [b"", b"rubbish", None])
def test_a_damaged_index_is_built_again(tmp_path, builds, damage):
    path = tmp_path / "text"
    path.write_text("a 1\nb 2\n")
    Table(path)
    stored = tmp_path / ".index" / "text.npy"
    stored.write_bytes(stored.read_bytes()[:-4] if damage is None else damage)
    assert Table(path).row(1) == ("b", "2")
    assert len(builds) == 2


def test_a_directory_that_cannot_be_written_to(tmp_path, builds, capsys):
    (tmp_path / "data").mkdir()
    path = tmp_path / "data" / "text"
    path.write_text("a 1\n")
    (tmp_path / "data" / ".index").touch()  # stands in for a read-only directory, which a test run as root can write to
    assert Table(path).row(0) == ("a", "1")
    (path.parent / "utt2spk").write_text("a s\n")
    Table(path.parent / "utt2spk")
    Table(path)
    assert builds == ["text", "utt2spk"]
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "cannot be written; the index is kept in" in said


def test_neither_can_be_written_to(tmp_path, monkeypatch):
    (tmp_path / ".index").touch()
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    (tmp_path / "text").write_text("a 1\n")
    with pytest.raises(ValueError, match="set XDG_CACHE_HOME"):
        Table(tmp_path / "text")


def test_processes_of_two_nodes_build_the_same_index_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(index.os, "getpid", lambda: 7)
    (tmp_path / "text").write_text("a 1\nb 2\n")
    save, nodes = np.save, []

    def save_while_another_node_does(file, content):
        save(file, content)
        monkeypatch.setattr(np, "save", save)
        nodes.append(Table(tmp_path / "text"))

    monkeypatch.setattr(np, "save", save_while_another_node_does)
    nodes.append(Table(tmp_path / "text"))
    assert [node.row(1) for node in nodes] == [("b", "2")] * 2
    assert [path.name for path in (tmp_path / ".index").iterdir()] == ["text.npy"]


def test_an_index_that_is_gone_when_it_is_to_be_mapped(tmp_path, monkeypatch):
    (tmp_path / "text").write_text("a 1\nb 2\n")
    monkeypatch.setattr(index, "_load", lambda *_: None)
    assert Table(tmp_path / "text").row(1) == ("b", "2")
