"""`audiossl units fit | apply | quality` from the command line to the files."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from command import audiossl
from corpora import write_corpus


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Six utterances of a low and a high sound by turns."""
    folder = tmp_path_factory.mktemp("units_verb")
    rng, times = np.random.default_rng(0), np.arange(3200) / 16000
    waves = [
        [0.1 * np.sin(2 * np.pi * hertz * times) + 0.01 * rng.standard_normal(3200) for hertz in (300, 4000) * 2]
        for _ in range(6)
    ]
    marks = [(0.2 * n, 0.2, ("low", "high")[n % 2]) for n in range(4)]
    return write_corpus(folder, map(np.concatenate, waves), phones=[marks])


def run(*words):
    return audiossl("units", *words)


def test_fit_apply_quality(data, tmp_path):
    book = tmp_path / "book"
    fit = ("fit", "--data", data, "--out", book, "--clusters", 4, "--num-workers", 0)
    status, out, err = run(*fit)
    assert status == 0
    assert out.startswith(f"{book}: 4 codes of 39 numbers, 468 frames, inertia ")
    assert "k-means: 4 clusters on 468 of 468 frames, 6 utterances" in err
    status, out, _ = run("apply", "--data", data, data, "--codebook", book, "--name", "km4", "--num-workers", 0)
    assert (status, out) == (0, 2 * f"{data}/units/km4: 6 utterances, 468 labels at 100 Hz, 0 left out\n")
    status, out, _ = run("quality", "--data", data, "--name", "km4")
    assert status == 0
    assert "PNMI" in out
    assert "active codes     4 of 4" in out
    status, out, _ = run("quality", "--data", data, "--name", "km4", "--json")
    row = json.loads(out)
    assert row["use"]["labels"] == row["phones"]["frames"] == 468
    assert row["phones"]["phone_purity"] > 0.9
    for _ in range(2):
        run("quality", "--data", data, "--name", "km4", "--out", tmp_path / "exp", "--label", "mfcc")
    names = [row["name"] for row in json.loads((tmp_path / "exp/results.json").read_text())]
    assert sorted(names) == ["PNMI mfcc", "cluster purity mfcc", "code perplexity mfcc", "phone purity mfcc"]
    status, _, err = run(*fit)
    assert (status, err) == (1, f"audiossl: {book}: holds a codebook already; give another --out, or --overwrite\n")
    before = (book / "codebook.safetensors").read_bytes()
    assert run(*fit, "--overwrite")[0] == 0
    assert (book / "codebook.safetensors").read_bytes() == before


def test_residual_codebooks(data, tmp_path):
    book = tmp_path / "book"
    words = ("--data", data, "--out", book, "--clusters", 4, "--codebooks", 2, "--num-workers", 0)
    status, out, err = run("fit", *words)
    assert status == 0
    assert out.startswith(f"{book}: 2 x 4 codes of 39 numbers, 468 frames, inertia ")
    assert "codebook 2 of 2: mean squared error " in err
    status, out, _ = run("apply", "--data", data, "--codebook", book, "--name", "rvq", "--num-workers", 0)
    assert status == 0
    assert [line.split(":")[0] for line in out.splitlines()] == [f"{data}/units/rvq_0", f"{data}/units/rvq_1"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--feature", "encoder"), "feature 'encoder': no encoder is given"),
        (("--feature", "mfcc", "--encoder", "exp/a"), "feature 'mfcc' takes no encoder ('exp/a')"),
        (("--layer", "6"), "feature 'mfcc' takes no encoder ('') and no layer (6)"),
        (("--clusters", "1"), "clusters = 1; give at least 2"),
        (("--clusters", "1000", "--num-workers", "0"), "468 frames for 1000 clusters"),
    ],
)
def test_fit_refuses(data, tmp_path, words, message):
    status, out, err = run("fit", "--data", data, "--out", tmp_path / "book", *words)
    assert (status, out) == (1, "")
    assert message in err.splitlines()[-1]
    assert not (tmp_path / "book").exists()


def test_a_device_that_cannot_be_used(data, tmp_path):
    cannot = "--device cuda:7: cannot be used: "
    fit = ("fit", "--data", data, "--out", tmp_path / "book", "--clusters", "5", "--num-workers", "0", "--device")
    status, out, err = run(*fit, "cuda:7")
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert cannot in err
    assert run(*fit, "auto")[0] == 0
    words = ("apply", "--data", data, "--codebook", tmp_path / "book", "--name", "x", "--device", "cuda:7")
    status, _, err = run(*words)
    assert (status, err.count("\n")) == (1, 1)
    assert cannot in err


def test_quality_without_units(data):
    status, _, err = run("quality", "--data", data, "--name", "km7")
    assert status == 1
    assert "km7.json: no such file; make it with `audiossl units apply`" in err


def test_misuse():
    assert run("fit", "--out", "x")[0] == 2
    assert run("label")[0] == 2


@pytest.mark.parametrize("verb", ["fit", "apply", "import", "quality"])
def test_help_has_an_example(verb):
    status, out, _ = run(verb, "--help")
    assert status == 0
    assert f"audiossl units {verb} --data" in " ".join(out.split())


def test_results_as_json(data, tmp_path):
    book = tmp_path / "book"
    fit = ("fit", "--data", data, "--out", book, "--clusters", 4, "--num-workers", 0, "--json")
    status, out, _ = run(*fit)
    row = json.loads(out)
    assert status == 0
    assert row.items() >= {"codebook": str(book), "size": 4, "frames": 468, "feature": "mfcc"}.items()
    assert row["hash"] == json.loads((book / "codebook.json").read_text())["hash"]
    words = ("--codebook", book, "--name", "json", "--num-workers", 0, "--json")
    status, out, _ = run("apply", "--data", data, data, *words)
    assert status == 0
    rows = json.loads(out)["written"]
    assert [row["units"] for row in rows] == [f"{data}/units/json"] * 2
    assert rows[0].items() >= {"labels": 468, "utterances": 6, "rate": 100.0, "left_out": 0}.items()


def test_labels_of_another_codebook_are_kept(data, tmp_path):
    for seed in (0, 1):
        words = ("--data", data, "--out", tmp_path / f"book{seed}", "--clusters", 4, "--num-workers", 0, "--seed", seed)
        assert run("fit", *words)[0] == 0
    apply = [
        ("apply", "--data", data, "--codebook", tmp_path / f"book{n}", "--name", "kept", "--num-workers", 0)
        for n in (0, 1)
    ]
    assert run(*apply[0])[0] == 0
    before = (data / "units" / "kept").read_bytes()
    assert run(*apply[0])[0] == 0  # the same again is fine
    status, out, err = run(*apply[1])
    assert (status, out) == (1, "")
    assert err.startswith(f"audiossl: {data}/units/kept: labels of another codebook (")
    assert err.endswith("; choose another --name, or --overwrite\n")
    assert (data / "units" / "kept").read_bytes() == before
    card = data / "units" / "kept.json"
    text = card.read_text()
    card.write_text("{")
    status, _, err = run(*apply[0])
    assert status == 1
    assert "does not say which codebook made these labels; choose another --name, or --overwrite" in err
    card.write_text(text)
    assert run(*apply[1], "--overwrite")[0] == 0
    assert (data / "units" / "kept").read_bytes() != before


def test_a_file_where_the_codebook_should_go(data, tmp_path):
    (tmp_path / "file").write_text("mine")
    for place in ("file", "file/book"):
        status, _, err = run("fit", "--data", data, "--out", tmp_path / place, "--clusters", 4)
        assert (status, err.count("\n")) == (1, 1)  # before anything is read
        assert "is a file, no folder; choose another --out or remove it" in err
    assert (tmp_path / "file").read_text() == "mine"


def test_programs_in_wav_scp(data, tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(data, folder, ignore=shutil.ignore_patterns(".index", "units"))
    rows = (line.split() for line in (data / "wav.scp").read_text().splitlines())
    (folder / "wav.scp").write_text("".join(f"{name} cat {path} |\n" for name, path in rows))
    words = ("fit", "--data", folder, "--out", tmp_path / "book", "--clusters", 4, "--num-workers", 0)
    status, _, err = run(*words)
    assert status == 1
    assert "give --allow-commands, or make shards of it with `audiossl data shard" in err
    assert run(*words, "--allow-commands")[0] == 0
    words = ("apply", "--data", folder, "--codebook", tmp_path / "book", "--name", "km", "--num-workers", 0)
    assert run(*words)[0] == 1
    assert run(*words, "--allow-commands")[0] == 0
