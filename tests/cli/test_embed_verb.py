"""`audiossl embed`: files, words and errors; what the numbers are is tested beside `verification/extract.py`."""

from __future__ import annotations

import json

import numpy as np
import pytest
from command import audiossl, complains
from corpora import noises, write_corpus, write_encoder

from audiossl.verification.embeddings import Embeddings


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    root = tmp_path_factory.mktemp("embed")
    write_corpus(root, noises(range(8000, 11600, 900)), speakers=("s0", "s1"))
    for name in ("xvector", "fbank"):
        write_encoder(root / name, name, seed=5)  # other weights than `random:` draws
    return root


def run(*words):
    workers = () if "--num-workers" in words else ("--num-workers", 0)
    return audiossl("embed", *words, *workers, "--device", "cpu")


def test_whole_utterances_and_crops(corpus, tmp_path):
    code, out, err = run(corpus / "xvector", corpus / "data", "--out", tmp_path / "e")
    dim = Embeddings.open(tmp_path / "e").dim
    assert (code, out) == (0, f"{tmp_path / 'e'}: 4 utterances, {dim} numbers each, 0 left out\n")
    assert "no embedding of its own" not in err
    words = ["--crops", "3", "--crop-duration", "0.2", "--json"]
    code, out, _ = run(corpus / "xvector", corpus / "data", "--out", tmp_path / "c", *words)
    said = json.loads(out)
    assert (said["utterances"], said["dim"], said["left_out"]) == (4, dim, {})
    assert Embeddings.open(tmp_path / "c").matrix.shape == (4, 3, dim)
    assert {path.name for path in (tmp_path / "c").iterdir()} == {
        "embeddings.npy",
        "embeddings.ids",
        "embeddings.json",
        "selection.json",
        "utt2spk",
    }
    assert json.loads((tmp_path / "c" / "selection.json").read_text()) == {"selection": "none"}


def test_an_encoder_without_embeddings_says_what_it_gives(corpus, tmp_path):
    code, _, err = run(corpus / "fbank", corpus / "data", "--out", tmp_path / "e", "--layer", "1")
    assert code == 0
    assert f"{corpus / 'fbank'} has no embedding of its own: these are means over time of layer 1\n" in err


def test_seeds_of_random_weights(corpus, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        words = [f"random:{corpus / 'xvector'}", corpus / "data", "--out", tmp_path / name, "--seed", seed]
        assert run(*words)[0] == 0
    a, b, c = (Embeddings.open(tmp_path / name).matrix for name in "abc")
    np.testing.assert_array_equal(a, b)
    assert np.abs(a - c).max() > 1e-3


def test_other_embeddings_are_not_replaced(corpus, tmp_path):
    words = [corpus / "xvector", corpus / "data", "--out", tmp_path / "e"]
    for _ in range(2):  # the same again
        assert run(*words)[0] == 0
    crops = ["--crops", "2", "--crop-duration", "0.2"]
    for other in ([*words, *crops], [corpus / "fbank", *words[1:]], [f"random:{words[0]}", *words[1:]]):
        code, _, err = run(*other)
        assert code == 1
        assert "e: holds other embeddings already (" in err
        assert err.endswith("; choose another --out, or --overwrite\n")
    assert Embeddings.open(tmp_path / "e").matrix.ndim == 2
    assert run(*words, *crops, "--overwrite")[0] == 0
    assert Embeddings.open(tmp_path / "e").matrix.ndim == 3


def test_a_matrix_of_ones_own_is_not_replaced(corpus, tmp_path):
    words = [corpus / "xvector", corpus / "data", "--out", tmp_path]
    np.save(tmp_path / "embeddings.npy", np.ones((1, 2), np.float32))
    before = (tmp_path / "embeddings.npy").read_bytes()
    for name in ("embeddings.npy", "embeddings.ids"):
        (tmp_path / "embeddings.ids").write_text("a\n")
        (tmp_path / name).rename(tmp_path / "aside")
        code, _, err = run(*words)
        assert code == 1
        assert err.endswith(
            "embeddings.npy: exists already, and no embeddings.json says what it was made of; choose another --out, or --overwrite\n"
        )
        (tmp_path / "aside").rename(tmp_path / name)
    assert (tmp_path / "embeddings.npy").read_bytes() == before
    assert run(*words, "--overwrite")[0] == 0
    assert len(Embeddings.open(tmp_path)) == 4
    assert run(*words)[0] == 0


def test_a_data_directory_keeps_its_tables(corpus):
    before = {path.name: path.read_bytes() for path in (corpus / "data").iterdir() if path.is_file()}
    code, _, err = run(corpus / "xvector", corpus / "data", "--out", corpus / "data", "--overwrite")
    assert code == 1
    assert "is a data directory, whose utt2spk would be replaced; choose another --out" in err
    assert {path.name: path.read_bytes() for path in (corpus / "data").iterdir() if path.is_file()} == before


def test_faults_are_one_line_each(corpus, tmp_path):
    base = [corpus / "xvector", corpus / "data", "--out", tmp_path / "e"]
    cases = (
        ([*base, "--crops", "3"], 2, "--crops and --crop-duration go together"),
        ([*base, "--layer", "1"], 1, "has embeddings of its own"),
        ([*base, "--crops", "0", "--crop-duration", "1"], 1, "give at least 1 crop"),
        ([*base, "--max-bad-fraction", "2"], 1, "max_bad_fraction is 2"),
        ([*base[:-1], __file__], 1, "is a file, no folder; choose another --out"),
        ([corpus / "nowhere", corpus / "data", "--out", tmp_path / "e"], 1, "no such experiment"),
        ([corpus / "xvector", corpus / "nowhere", "--out", tmp_path / "e"], 1, "no data directory"),
    )
    for words, status, message in cases:
        assert message in complains("embed", *words, "--device", "cpu", status=status)
    assert not (tmp_path / "e").exists()
