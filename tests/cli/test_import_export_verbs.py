"""`audiossl import` and `export`: what other verbs make of the result, words and errors; the formats themselves are tested beside them."""

from __future__ import annotations

import json

import pytest
import torch
from command import audiossl, succeed
from corpora import noises, write_corpus

from audiossl.config import to_table
from audiossl.encoders.wav2vec2 import Wav2Vec2
from audiossl.interop.formats import get
from audiossl.interop.model import CTCHead, Model
from audiossl.nn.vocabulary import Vocabulary
from audiossl.verification.embeddings import Embeddings


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A corpus, and a tiny model in some formats."""
    root = tmp_path_factory.mktemp("interop")
    write_corpus(root, noises(range(8000, 11600, 900)), speakers=("s0", "s1"), columns={"text": ("A B", "B A")})
    torch.manual_seed(0)
    table = {"name": "wav2vec2", **to_table(Wav2Vec2.Config.tiny())}
    model = Model("wav2vec2", table, Wav2Vec2(Wav2Vec2.Config.tiny()).state_dict())
    head = CTCHead(Vocabulary("characters", ("<blank>", "<unk>", "A", "B", "|")), torch.randn(5, 32), torch.randn(5))
    get("fairseq").write(model, root / "x.pt")
    get("transformers").write(Model(model.kind, table, model.weights, ctc=head), root / "hf")
    return root


def complaint(*words):
    status, _, error = audiossl(*words)
    assert status in {1, 2}
    assert error.count("\n") == 1, error
    return error


def test_an_import_is_embedded_and_fine_tuned(place, tmp_path):
    said = succeed("import", place / "x.pt", "--out", tmp_path / "exp", "--json")[0]
    assert json.loads(said) == {
        "experiment": str(tmp_path / "exp"), "format": "fairseq", "kind": "wav2vec2", "heads": "none", "output_layer": 0,
        "notes": [],
    }  # fmt: skip
    succeed("embed", tmp_path / "exp", place / "data", "--out", tmp_path / "e", "--num-workers", 0)
    assert Embeddings.open(tmp_path / "e").matrix.shape == (4, 32)
    small = [
        "--train.max_steps",
        1,
        "--train.precision",
        "fp32",
        "--train.tensorboard",
        "false",
        "--data.num_workers",
        0,
    ]
    small += ["--finetune.channel_mask_length", 4, "--train.accumulate", 1, "--device", "cpu"]
    words = ["finetune", "ctc_full", "--init", tmp_path / "exp", "--data", place / "data", "--out", tmp_path / "asr"]
    succeed(*words, *small)
    succeed("export", tmp_path / "asr", "--to", "transformers", "--out", tmp_path / "hf")
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["architectures"] == ["Wav2Vec2ForCTC"]


def test_an_imported_recogniser_transcribes_wherever_it_is_moved(place, tmp_path):
    succeed("import", place / "hf", "--out", tmp_path / "exp")
    succeed("transcribe", tmp_path / "exp", place / "data", "--num-workers", 0)
    (tmp_path / "exp").rename(tmp_path / "moved")
    before, _ = succeed("transcribe", tmp_path / "moved", place / "data", "--num-workers", 0)
    assert len(before.splitlines()) == 4


def test_errors_are_one_line(place, tmp_path):
    assert "no such file" in complaint("import", tmp_path / "none", "--out", tmp_path / "e")
    assert "known:" in complaint("import", place / "x.pt", "--out", tmp_path / "e", "--format", "zip")
    assert "write --encoder.key" in complaint("import", place / "x.pt", "--out", tmp_path / "e", "--train.x", "1")
    assert "num_heads 5" in complaint("import", place / "x.pt", "--out", tmp_path / "e", "--encoder.num_heads", "5")
    assert "none of the formats" in complaint("import", place / "data", "--out", tmp_path / "e")
    assert not list(tmp_path.iterdir())
    succeed("import", place / "x.pt", "--out", tmp_path / "exp")
    assert "exists already" in complaint("import", place / "x.pt", "--out", tmp_path / "exp")
    words = ["export", tmp_path / "exp", "--out", tmp_path / "o", "--to"]
    assert "did you mean 'hubert'" in complaint(*words, "transformers", "--kind", "huberd")
    assert "cannot hold" in complaint(*words, "transformers", "--kind", "wavlm")
    assert not (tmp_path / "o").exists()
