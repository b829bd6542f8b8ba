"""Codes of another program become labels as they are, and those that cannot be labels are refused."""

from __future__ import annotations

import json
import zipfile
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from audiossl.cli.main import main
from audiossl.data.manifest import Manifest
from audiossl.units import apply
from audiossl.units.guards import check_same_codebook, check_units
from audiossl.units.labels import has_labels, read_card
from audiossl.units.recipe import UnitsConfig, ensure_units

RATE, SIZE = 75.0, 16


def made(corpus, books=3, seed=0):
    """Codes of every utterance: (books, frame)."""
    rng, manifest = np.random.default_rng(seed), Manifest.open(corpus)
    counts = (manifest.durations * RATE).round().astype(int)
    return {name: rng.integers(0, SIZE, (books, n)) for name, n in zip(manifest.ids, counts, strict=True)}


def saved(path, arrays):
    if path.suffix == ".pt":
        torch.save({name: torch.from_numpy(values) for name, values in arrays.items()}, path)
        return path
    if path.suffix == ".npz":
        np.savez(path, **arrays)
        return path
    path.mkdir()
    for name, values in arrays.items():
        np.save(path / f"{name}.npy", values)
    return path


def change(arrays, utterance, by):
    """Damage the codes of one utterance."""
    name = list(arrays)[utterance]
    return arrays | {name: by(arrays[name])}


def run(capsys, *words):
    with pytest.raises(SystemExit) as stop:
        main(["units", "import", *map(str, words)])
    shown = capsys.readouterr()
    return stop.value.code, shown.out, shown.err


def options(corpus, codes, *more, rate=RATE, clusters=SIZE):
    return "--data", corpus, "--codes", codes, "--rate", rate, "--clusters", clusters, "--name", "rvq", *more


@pytest.mark.parametrize("place", ["codes.npz", "codes.pt", "codes"])
def test_a_label_set_for_each_codebook(corpus, tmp_path, capsys, place):
    arrays = made(corpus)
    codes = saved(tmp_path / place, arrays | {"somebody-else": np.zeros((3, 5), dtype=np.int64)})
    status, out, err = run(capsys, *options(corpus, codes, "--codec", "encodec"))
    assert (status, err) == (0, "")
    total = sum(values.shape[1] for values in arrays.values())
    assert out.splitlines()[1] == f"{corpus}/units/rvq_1: 12 utterances, {total} labels at 75 Hz, 0 left out"
    for book in range(3):
        units = Manifest.open(corpus).column(f"units/rvq_{book}")
        for index, values in enumerate(arrays.values()):
            assert units[index].split() == list(map(str, values[book]))
        card = read_card(corpus, f"rvq_{book}")
        assert (card.feature, card.encoder, card.rate, card.codebook_size) == ("imported", "encodec", RATE, SIZE)
        assert (card.utterances, card.labels, card.left_out) == (12, total, 0)
        assert check_units(Manifest.open(corpus), f"rvq_{book}", log=print).sum() == total


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.zeros(3)], "holds a list; save a dict of codes by utterance"),
        ({"u": torch.zeros(3)}, "name its arrays like utterances"),
        ({"half": torch.zeros(5)}, "float32 of shape (5,); give whole numbers"),
        ({"half": torch.zeros(5, dtype=torch.bfloat16)}, "no plain array ("),
        ({"half": [[1], [2, 3]]}, "no plain array ("),
        ({"half": {"codes": 1}}, "object of shape (); give whole numbers"),
        ({"half": zipfile.ZipFile}, "names zipfile.ZipFile, which is no part of a checkpoint"),
    ],
)
def test_saved_tensors_that_cannot_be_codes(corpus, tmp_path, capsys, content, message):
    if "half" in content:
        content = {next(iter(made(corpus))): content["half"]}
    torch.save(content, tmp_path / "codes.pt")
    status, out, err = run(capsys, *options(corpus, tmp_path / "codes.pt"))
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert message in err


def test_one_codebook_keeps_the_name(corpus, tmp_path, capsys):
    arrays = {name: values[0].astype(np.int16) for name, values in made(corpus).items()}
    status, out, _ = run(capsys, *options(corpus, saved(tmp_path / "codes.npz", arrays), "--json"))
    assert status == 0
    assert [row["units"] for row in json.loads(out)["written"]] == [f"{corpus}/units/rvq"]
    assert read_card(corpus, "rvq").encoder == "rvq"  # the name stands for the codec


def test_one_process_at_a_time_labels_a_directory(corpus, tmp_path, capsys, monkeypatch):
    held, there = [], []

    @contextmanager
    def labelling(folders, _log):
        held.extend(folders)
        there.append(has_labels(corpus, "rvq"))
        yield
        there.append(has_labels(corpus, "rvq"))

    monkeypatch.setattr(apply, "labelling", labelling)
    assert run(capsys, *options(corpus, saved(tmp_path / "codes.npz", made(corpus, books=1))))[0] == 0
    assert (held, there) == ([corpus], [False, True])


def test_labels_of_another_codec_are_kept_and_told_apart(corpus, new_corpus, tmp_path, capsys):
    codes = saved(tmp_path / "codes.npz", made(corpus, 1))
    assert run(capsys, *options(corpus, codes, "--codec", "a"))[0] == 0
    assert run(capsys, *options(corpus, codes, "--codec", "a"))[0] == 0  # the same again is fine
    before = (corpus / "units/rvq").read_bytes()
    other = saved(tmp_path / "other.npz", made(corpus, 1, seed=1))
    status, _, err = run(capsys, *options(corpus, other, "--codec", "b"))
    assert status == 1
    assert "labels of another codebook" in err
    assert (corpus / "units/rvq").read_bytes() == before
    assert run(capsys, *options(corpus, other, "--codec", "b", "--overwrite"))[0] == 0
    assert (corpus / "units/rvq").read_bytes() != before
    dev = new_corpus(tmp_path / "dev")
    assert run(capsys, *options(dev, codes, "--codec", "a"))[0] == 0
    with pytest.raises(ValueError, match="run `audiossl units import` on both with one --codec"):
        check_same_codebook(Manifest.open(corpus), Manifest.open(dev), "rvq")


def test_utterances_without_codes_are_left_out_as_far_as_allowed(corpus, tmp_path, capsys):
    arrays = made(corpus, 1)
    missing = next(iter(arrays))
    codes = saved(tmp_path / "codes.npz", {name: values for name, values in arrays.items() if name != missing})
    status, _, err = run(capsys, *options(corpus, codes))
    assert status == 1
    assert "1 of 12 utterances cannot be used, more than max_bad_fraction 0.01 allows" in err
    assert not has_labels(corpus, "rvq")
    status, out, err = run(capsys, *options(corpus, codes, "--max-bad-fraction", 0.1))
    assert status == 0
    assert f"left out {missing}: {codes} holds no codes of it" in err
    assert out.endswith("1 left out\n")
    check_units(Manifest.open(corpus), "rvq", log=print)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (lambda a: change(a, 3, lambda x: x + SIZE), "is not among 16; correct --clusters"),
        (lambda a: change(a, 3, lambda x: x - SIZE), "is not among 16; correct --clusters"),
        (lambda a: change(a, 3, lambda x: x[:2]), "where the first utterance has 3 codebooks; give all the same"),
        (lambda a: {name: x.T for name, x in a.items()}, "is (frame, codebook); transpose it to (codebook, frame)"),
        (lambda a: change(a, 3, lambda x: x / 2), "float64 of shape (3, "),
        (lambda a: change(a, 3, lambda x: x[None]), "int64 of shape (1, 3, "),
        (
            lambda a: change(a, 3, lambda x: x[:, :-9]),
            "check --rate and utt2dur, then run `audiossl units import` again",
        ),
        (
            lambda a: {name: 0 * x for name, x in a.items()},
            "labels are 0; a model would learn nothing: check the codes",
        ),
        (lambda a: {f"x{name}": x for name, x in a.items()}, "name its arrays like utterances"),
    ],
)
def test_codes_that_cannot_be_labels(corpus, tmp_path, capsys, arrays, message):
    codes = saved(tmp_path / "codes.npz", arrays(made(corpus)))
    status, out, err = run(capsys, *options(corpus, codes))
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert message in err
    assert not list(corpus.glob("units/*"))


@pytest.mark.parametrize("place", ["codes.npz", "codes"])
def test_nothing_is_unpickled(corpus, tmp_path, capsys, place):
    """An array of objects is a pickle, which could run anything."""

    class Trap:
        def __reduce__(self):
            return (tmp_path / "sprung").touch, ()

    arrays = change(made(corpus, 1), 0, lambda _: np.array([Trap()], dtype=object))
    status, _, err = run(capsys, *options(corpus, saved(tmp_path / place, arrays)))
    assert status == 1
    assert "no plain array (Object arrays cannot be loaded when allow_pickle=False)" in err
    assert not (tmp_path / "sprung").exists()


def test_files_that_hold_no_codes(corpus, tmp_path, capsys):
    (tmp_path / "text.npz").write_text("no archive")
    for name, message in (("text.npz", "File is not a zip file"), ("none.npz", "No such file")):
        status, _, err = run(capsys, *options(corpus, tmp_path / name))
        assert status == 1
        assert f"{tmp_path / name}: no codes can be read" in err
        assert message in err
        assert ("by `audiossl prep fairseq_manifests`" in err) == (name == "text.npz")
    first = Manifest.open(corpus).ids[0]
    with zipfile.ZipFile(tmp_path / "odd.npz", "w") as archive:
        archive.writestr(f"{first}.npy", b"\x93NUMPY")
    assert f"{first!r}: no plain array" in run(capsys, *options(corpus, tmp_path / "odd.npz"))[2]
    assert (
        "--rate 0.0: is not positive"
        in run(capsys, *options(corpus, saved(tmp_path / "c.npz", made(corpus)), rate=0))[2]
    )
    assert "--clusters 1: give" in run(capsys, *options(corpus, tmp_path / "c.npz", clusters=1))[2]


def test_programs_are_run_only_when_told(corpus, tmp_path, capsys):
    codes = saved(tmp_path / "codes.npz", made(corpus))
    entries = [line.split() for line in (corpus / "wav.scp").read_text().splitlines()]
    (corpus / "wav.scp").write_text("".join(f"{name} cat {path} |\n" for name, path in entries))
    (corpus / "utt2dur").unlink()
    status, out, err = run(capsys, *options(corpus, codes))
    assert (status, out) == (1, "")
    assert "give --allow-commands" in err
    assert run(capsys, *options(corpus, codes, "--allow-commands"))[0] == 0


def test_a_recipe_takes_imported_codes_for_the_units_of_its_name(corpus, tmp_path, capsys):
    assert run(capsys, *options(corpus, saved(tmp_path / "codes.npz", made(corpus))))[0] == 0
    lines = []
    config = UnitsConfig(name="rvq", feature="logmel", clusters=SIZE, codebooks=3)
    ensure_units([corpus], config, tmp_path / "book", log=lines.append)
    assert [line.split(": ")[1] for line in lines] == ["there already, used as it is"] * 3
    with pytest.raises(ValueError, match="codebook_size is 16, the recipe asks for 32"):
        ensure_units([corpus], UnitsConfig(name="rvq", clusters=32, codebooks=3), tmp_path / "book", log=lines.append)
