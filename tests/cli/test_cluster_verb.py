"""`audiossl cluster`: what it writes and says, and one line for each misuse."""

from __future__ import annotations

import json

import numpy as np
import pytest
from command import audiossl, complains

from audiossl.data.kaldi import read_table
from audiossl.verification.embeddings import EmbeddingWriter


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    points = np.repeat(rng.standard_normal((3, 6)), 5, axis=0) + 0.01 * rng.standard_normal((15, 6))
    with EmbeddingWriter(tmp_path / "vectors", 6) as writer:
        writer.add([f"u{k:02}" for k in reversed(range(15))], points[::-1])
    (tmp_path / "data").mkdir()
    return tmp_path


def run(*words):
    return audiossl("cluster", *words, "--device", "cpu")


def test_labels_are_a_column_of_the_data_directory(folder):
    out = folder / "data" / "utt2cluster"
    code, text, _ = run(folder / "vectors", "--clusters", "3", "--out", out, "--json")
    assert code == 0
    facts = json.loads(text)
    assert facts == json.loads((folder / "data" / "utt2cluster.json").read_text())
    assert (facts["utterances"], facts["used"], facts["smallest"], facts["largest"]) == (15, 3, 5, 5)
    assert facts["mean_cosine"] > 0.999
    rows = [(key, value) for _, key, value in read_table(out)]
    assert [key for key, _ in rows] == [f"u{k:02}" for k in range(15)]
    values = [value for _, value in rows]
    assert [len(set(values[k : k + 5])) for k in (0, 5, 10)] == [1, 1, 1]
    assert set(values) == {"c0", "c1", "c2"}
    assert not list(folder.rglob("*.partial"))


def test_it_says_what_it_did(folder):
    out = folder / "data" / "utt2cluster"
    code, text, _ = run(folder / "vectors", "--clusters", "3", "--out", out, "--seed", "1")
    assert code == 0
    assert text.startswith(f"{out}: 15 utterances in 3 clusters of 5 to 5, mean cosine 0.99")


def test_other_labels_are_not_replaced(folder):
    out = folder / "data" / "utt2cluster"
    words = [folder / "vectors", "--out", out]
    for _ in range(2):  # the same again
        assert run(*words, "--clusters", "3")[0] == 0
    before = out.read_text()
    for other in (["4"], ["3", "--iterations", "1"], ["3", "--seed", "1"], ["3", "--balanced"]):
        code, _, err = run(*words, "--clusters", *other)
        assert code == 1
        assert "utt2cluster: exists already and is made of something else; choose another --out, or --overwrite" in err
    (folder / "data" / "utt2spk").write_text("u00 a\n")  # no labels of ours
    assert run(folder / "vectors", "--clusters", "3", "--out", folder / "data" / "utt2spk")[0] == 1
    assert (out.read_text(), (folder / "data" / "utt2spk").read_text()) == (before, "u00 a\n")
    assert run(*words, "--clusters", "4", "--overwrite")[0] == 0
    assert out.read_text() != before


def test_balanced_labels_are_others_than_those_that_are_not(folder):
    out = folder / "data" / "utt2cluster"
    words = [folder / "vectors", "--clusters", "4", "--out", out]
    code, text, _ = run(*words, "--balanced", "--json")
    assert code == 0
    facts = json.loads(text)
    assert facts["balanced"] is True
    assert run(*words, "--balanced")[0] == 0
    code, _, err = run(*words)
    assert code == 1
    assert "is made of something else" in err
    card = out.with_name("utt2cluster.json")
    card.write_text(
        json.dumps({key: value for key, value in facts.items() if key != "balanced"})
    )  # as before there was a choice
    assert run(*words)[0] == 0


def test_same_embeddings_are_those_of_the_same_content(folder):
    out = folder / "data" / "utt2cluster"
    assert run(folder / "vectors", "--clusters", "3", "--out", out)[0] == 0
    (folder / "vectors").rename(folder / "moved")
    assert run(folder / "moved", "--clusters", "3", "--out", out)[0] == 0
    before, matrix = out.read_text(), np.load(folder / "moved" / "embeddings.npy")
    np.save(
        folder / "moved" / "embeddings.npy", np.roll(matrix, 1, axis=0)
    )  # under the same name, of another checkpoint
    code, _, err = run(folder / "moved", "--clusters", "3", "--out", out)
    assert (code, out.read_text()) == (1, before)
    assert "is made of something else" in err


def test_faults_are_one_line_each(folder):
    good = folder / "data" / "utt2cluster"
    cases = (
        ([folder / "vectors", "--clusters", "3", "--out", folder / "data" / "labels"], 2, "name it utt2cluster"),
        ([folder / "vectors", "--clusters", "3", "--out", good, "--iterations", "0"], 2, "--iterations 0 is not"),
        ([folder / "vectors", "--clusters", "3", "--out", good, "--seed", "-2"], 2, "--seed -2 is negative; give 0"),
        ([folder / "vectors", "--clusters", "3", "--out", folder / "none" / "utt2cluster"], 1, "no such folder"),
        ([folder / "vectors", "--clusters", "16", "--out", good], 1, "ask for 2 to 15"),
        ([folder / "nothing", "--clusters", "3", "--out", good], 1, "no such file"),
    )
    for words, status, message in cases:
        assert message in complains("cluster", *words, "--device", "cpu", status=status)
        assert not good.exists()
