"""`audiossl embed`: files, words and errors; what the numbers are is tested beside `verification/extract.py`."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from audiossl.cli.main import main
from audiossl.config import to_table, write_toml
from audiossl.data.audio import write_audio
from audiossl.data.writer import CorpusUtterance, write_data_dir
from audiossl.encoders.fbank import FBank
from audiossl.encoders.xvector import XVector
from audiossl.interop.checkpoint import save_checkpoint
from audiossl.verification.embeddings import Embeddings


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    root = tmp_path_factory.mktemp("embed")
    rng = np.random.default_rng(0)
    rows = []
    for number in range(4):
        write_audio(root / f"{number}.wav", 0.1 * rng.standard_normal(8000 + 900 * number), 16000)
        rows.append(
            CorpusUtterance(
                f"s{number % 2}-{number}", f"s{number % 2}-{number}", root / f"{number}.wav", f"s{number % 2}"
            )
        )
    write_data_dir(rows, root / "data")
    for name, cls in (("xvector", XVector), ("fbank", FBank)):
        encoder = cls(cls.Config.tiny())
        if hasattr(encoder, "calibrate"):
            encoder.calibrate([(0.1 * torch.randn(1, 8000), torch.tensor([8000]))])
        weights = {f"encoder.{key}": value for key, value in encoder.state_dict().items()}
        save_checkpoint(root / name, 1, weights, {}, keep=1)
        write_toml(root / name / "config.toml", {"encoder": {"name": name, **to_table(cls.Config.tiny())}})
    return root


def run(words, capsys):
    with pytest.raises(SystemExit) as stop:
        main(
            [
                "embed",
                *map(str, words),
                *([] if "--num-workers" in words else ["--num-workers", "0"]),
                "--device",
                "cpu",
            ]
        )
    return stop.value.code, *capsys.readouterr()


def test_whole_utterances_and_crops(corpus, tmp_path, capsys):
    code, out, err = run([corpus / "xvector", corpus / "data", "--out", tmp_path / "e"], capsys)
    dim = Embeddings.open(tmp_path / "e").dim
    assert (code, out) == (0, f"{tmp_path / 'e'}: 4 utterances, {dim} numbers each, 0 left out\n")
    assert "no embedding of its own" not in err
    words = ["--crops", "3", "--crop-duration", "0.2", "--json"]
    code, out, _ = run([corpus / "xvector", corpus / "data", "--out", tmp_path / "c", *words], capsys)
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


def test_an_encoder_without_embeddings_says_what_it_gives(corpus, tmp_path, capsys):
    code, _, err = run([corpus / "fbank", corpus / "data", "--out", tmp_path / "e", "--layer", "1"], capsys)
    assert code == 0
    assert f"{corpus / 'fbank'} has no embedding of its own: these are means over time of layer 1\n" in err


def test_seeds_of_random_weights(corpus, tmp_path, capsys):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        words = [f"random:{corpus / 'xvector'}", corpus / "data", "--out", tmp_path / name, "--seed", seed]
        assert run(words, capsys)[0] == 0
    a, b, c = (Embeddings.open(tmp_path / name).matrix for name in "abc")
    np.testing.assert_array_equal(a, b)
    assert np.abs(a - c).max() > 1e-3


def test_other_embeddings_are_not_replaced(corpus, tmp_path, capsys):
    words = [corpus / "xvector", corpus / "data", "--out", tmp_path / "e"]
    for _ in range(2):  # the same again
        assert run(words, capsys)[0] == 0
    crops = ["--crops", "2", "--crop-duration", "0.2"]
    for other in ([*words, *crops], [corpus / "fbank", *words[1:]], [f"random:{words[0]}", *words[1:]]):
        code, _, err = run(other, capsys)
        assert code == 1
        assert "e: holds other embeddings already (" in err
        assert err.endswith("; choose another --out, or --overwrite\n")
    assert Embeddings.open(tmp_path / "e").matrix.ndim == 2
    assert run([*words, *crops, "--overwrite"], capsys)[0] == 0
    assert Embeddings.open(tmp_path / "e").matrix.ndim == 3


def test_a_matrix_of_ones_own_is_not_replaced(corpus, tmp_path, capsys):
    words = [corpus / "xvector", corpus / "data", "--out", tmp_path]
    np.save(tmp_path / "embeddings.npy", np.ones((1, 2), np.float32))
    before = (tmp_path / "embeddings.npy").read_bytes()
    for name in ("embeddings.npy", "embeddings.ids"):
        (tmp_path / "embeddings.ids").write_text("a\n")
        (tmp_path / name).rename(tmp_path / "aside")
        code, _, err = run(words, capsys)
        assert code == 1
        assert err.endswith(
            "embeddings.npy: exists already, and no embeddings.json says what it was made of; choose another --out, or --overwrite\n"
        )
        (tmp_path / "aside").rename(tmp_path / name)
    assert (tmp_path / "embeddings.npy").read_bytes() == before
    assert run([*words, "--overwrite"], capsys)[0] == 0
    assert len(Embeddings.open(tmp_path)) == 4
    assert run(words, capsys)[0] == 0


def test_a_data_directory_keeps_its_tables(corpus, capsys):
    before = {path.name: path.read_bytes() for path in (corpus / "data").iterdir() if path.is_file()}
    code, _, err = run([corpus / "xvector", corpus / "data", "--out", corpus / "data", "--overwrite"], capsys)
    assert code == 1
    assert "is a data directory, whose utt2spk would be replaced; choose another --out" in err
    assert {path.name: path.read_bytes() for path in (corpus / "data").iterdir() if path.is_file()} == before


def test_faults_are_one_line_each(corpus, tmp_path, capsys):
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
        code, out, err = run(words, capsys)
        assert (code, out) == (status, "")
        assert message in err
        assert err.count("\n") == 1
    assert not (tmp_path / "e").exists()
