"""Embeddings on disk: what is written is what is mapped, and what does not belong together is refused."""

from __future__ import annotations

import numpy as np
import pytest
from voices import write_embeddings

from audiossl.verification import embeddings as module
from audiossl.verification.embeddings import Embeddings, EmbeddingWriter, read_speakers
from audiossl.verification.trials import read_models


@pytest.mark.parametrize("crops", [None, 3])
def test_written_in_pieces_and_mapped(tmp_path, crops, monkeypatch):
    monkeypatch.setattr(module, "_BLOCK_BYTES", 1000)
    matrix, ids, speaker = write_embeddings(tmp_path, crops=crops)
    store = Embeddings.open(tmp_path)
    np.testing.assert_array_equal(store.matrix, matrix)
    assert not store.matrix.flags.owndata
    np.testing.assert_array_equal(np.load(tmp_path / "embeddings.npy"), matrix)
    assert (store.ids, len(store), store.dim) == (ids, 72, 8)
    assert store.rows(["s01-7", "s00-0"]).tolist() == [7, 0]
    assert store.find(["s01-7", "nobody"]).tolist() == [7, -1]
    chosen = np.array([9, 3, 70])
    np.testing.assert_array_equal(np.concatenate([block for _, block in store.blocks(chosen)]), matrix[chosen])
    np.testing.assert_array_equal(np.concatenate([block for _, block in store.blocks()]), matrix)
    np.testing.assert_allclose(store.mean(), matrix.reshape(-1, 8).mean(axis=0, dtype=np.float64), rtol=1e-12)
    lengths = np.linalg.norm(matrix[chosen].astype(np.float64), axis=-1)
    np.testing.assert_allclose(store.norms(chosen), lengths if crops is None else lengths.mean(axis=1), rtol=1e-12)
    centred = np.linalg.norm(matrix[chosen] - store.mean(), axis=-1)
    np.testing.assert_allclose(store.norms(chosen, store.mean()), centred if crops is None else centred.mean(axis=1))
    numbers, names = store.speakers()
    assert [names[number] for number in numbers] == [f"s{number:02}" for number in speaker]
    assert not list(tmp_path.glob("*.partial"))


def test_a_matrix_by_its_own_name(tmp_path):
    np.save(tmp_path / "mine.npy", np.ones((2, 3), np.float32))
    (tmp_path / "mine.ids").write_text("b\na\n")
    assert Embeddings.open(tmp_path / "mine.npy").ids == ["b", "a"]


def test_nothing_appears_where_writing_fails(tmp_path):
    write_embeddings(tmp_path)
    before = (tmp_path / "embeddings.npy").read_bytes()
    with pytest.raises(ValueError, match="comes twice"), EmbeddingWriter(tmp_path, 4) as writer:
        writer.add(["a", "b", "a"], np.ones((3, 4)))
    assert (tmp_path / "embeddings.npy").read_bytes() == before
    assert len(Embeddings.open(tmp_path)) == 72


@pytest.mark.parametrize(
    ("ids", "values", "message"),
    [
        (["a", "b"], np.ones((2, 5)), r"embeddings \(2, 5\) for 2 utterances"),
        (["a", "b"], np.ones((1, 4)), "give one row for each"),
        (["a", "b"], np.array([[1, 1, 1, 1], [1, np.nan, 1, 1]]), "embedding of b holds nan"),
        (["a", "a"], np.ones((2, 4)), "'a' comes twice"),
        (["a", "b c"], np.ones((2, 4)), "'b c' is empty or has white space"),
    ],
)
def test_the_writer_refuses(tmp_path, ids, values, message):
    with pytest.raises(ValueError, match=message), EmbeddingWriter(tmp_path, 4) as writer:
        writer.add(ids, values)
    assert not (tmp_path / "embeddings.npy").exists()


def spoil(folder, fault):
    matrix, ids = folder / "embeddings.npy", folder / "embeddings.ids"
    if fault == "ids":
        ids.unlink()
    elif fault == "matrix":
        matrix.unlink()
    elif fault == "cut":
        matrix.write_bytes(matrix.read_bytes()[:-40])
    elif fault == "complex":
        np.save(matrix, np.ones((72, 8), np.complex128))
    elif fault == "whole":
        np.save(matrix, np.ones((72, 8), np.int64))
    elif fault == "fewer":
        ids.write_text("".join(ids.read_text().splitlines(keepends=True)[:-1]))
    elif fault == "twice":
        ids.write_text(ids.read_text().replace("s00-3\n", "s00-1\n"))
    else:
        matrix.write_bytes(b"text")


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("ids", r"embeddings.ids: no such file"),
        ("matrix", r"embeddings.npy: no such file; write it with"),
        ("cut", r"embeddings.npy: is no NumPy array"),
        ("complex", r"complex128 of shape \(72, 8\), not floats of"),
        ("whole", r"int64 of shape \(72, 8\), not floats of"),
        ("fewer", r"embeddings.ids: 71 ids for 72 rows"),
        ("twice", r"embeddings.ids:4: this id stands further up"),
        ("text", r"embeddings.npy: is no NumPy array"),
    ],
)
def test_what_is_no_store_is_refused(tmp_path, fault, message):
    write_embeddings(tmp_path)
    spoil(tmp_path, fault)
    with pytest.raises(ValueError, match=message):
        Embeddings.open(tmp_path)


@pytest.mark.parametrize("kind", ["<f8", "<f2", ">f4"])
def test_floats_of_another_size_become_float32(tmp_path, kind):
    matrix, *_ = write_embeddings(tmp_path)
    np.save(tmp_path / "embeddings.npy", matrix.astype(kind))
    store = Embeddings.open(tmp_path)
    assert store.matrix.dtype == np.float32
    np.testing.assert_array_equal(store.matrix, matrix.astype(kind).astype(np.float32))


def test_missing_utterances_are_named_and_counted(tmp_path):
    write_embeddings(tmp_path)
    with pytest.raises(ValueError, match="holds no embedding of 'x' and 1 others"):
        Embeddings.open(tmp_path).rows(["s00-0", "x", "y"])


@pytest.mark.parametrize("crops", [None, 3])
def test_a_model_is_the_mean_of_its_utterances(tmp_path, crops):
    matrix, ids, _ = write_embeddings(tmp_path, crops=crops)
    chosen = [9, 0, 31]
    (tmp_path / "map").write_text(f"ann {' '.join(ids[row] for row in chosen)}\n{ids[3]} {ids[4]}\n")
    store = Embeddings.open(tmp_path).with_models(read_models(tmp_path / "map"), tmp_path / "map")
    np.testing.assert_allclose(store.matrix[store.rows(["ann"])[0]], matrix[chosen].mean(axis=0), atol=1e-6)
    np.testing.assert_array_equal(store.matrix[store.rows(ids[3:5])], matrix[[4, 4]])
    assert (sorted(store.ids), store.matrix.dtype) == (sorted([*ids, "ann"]), np.float32)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("ann s00-0\nbob s00-1 s99-0\n", r"map:2: model 'bob': 's99-0' has no embedding in .*npy; extract it too"),
        ("ann s00-0\nann s00-1\n", "map:2: model 'ann': comes twice"),
        ("ann\n", "map:1: model 'ann': comes twice, or without utterances"),
        ("", "map: is empty"),
    ],
)
def test_faults_of_models(tmp_path, content, message):
    write_embeddings(tmp_path)
    (tmp_path / "map").write_text(content)
    with pytest.raises(ValueError, match=message):
        Embeddings.open(tmp_path).with_models(read_models(tmp_path / "map"), tmp_path / "map")


def test_speakers(tmp_path):
    path = tmp_path / "utt2spk"
    path.write_text("u1 ann\nu2 bob\nu3 ann\nu4 eve\n")
    numbers, names = read_speakers(path, ["u4", "u1", "u3"])
    assert [names[number] for number in numbers] == ["eve", "ann", "ann"]
    assert sorted(names) == ["ann", "eve"]
    with pytest.raises(ValueError, match="says no speaker of 'u9'"):
        read_speakers(path, ["u1", "u9"])
    path.write_text("u1 ann\nu2 bob\nu1 ann\n")  # said twice, and alike
    assert read_speakers(path, ["u1"])[1] == ["ann"]
    path.write_text("u1 ann\nu2 bob\nu1 ann\nu2 eve\nu1 eve\n")
    with pytest.raises(ValueError, match="utt2spk:4: 'u2' has another speaker further up; remove one of the lines"):
        read_speakers(path, ["u1"])


@pytest.mark.parametrize("crops", [None, 3])
def test_a_mean_names_the_utterance_that_spoils_it(tmp_path, crops, monkeypatch):
    monkeypatch.setattr(module, "_BLOCK_BYTES", 200)  # several blocks
    shape = (30, 4) if crops is None else (30, crops, 4)
    matrix = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    np.save(tmp_path / "embeddings.npy", matrix)
    (tmp_path / "embeddings.ids").write_text("".join(f"u{row}\n" for row in range(30)))
    np.testing.assert_allclose(Embeddings.open(tmp_path).mean(), matrix.reshape(-1, 4).mean(axis=0, dtype=np.float64))
    matrix[21, ..., 1] = np.nan
    np.save(tmp_path / "embeddings.npy", matrix)
    with pytest.raises(ValueError, match="the embedding of u21 is not finite"):
        Embeddings.open(tmp_path).mean()
