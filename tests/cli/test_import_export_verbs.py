"""`audiossl import` and `export`: what other verbs make of the result, words and errors; the formats themselves are tested beside them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from audiossl.cli.main import main
from audiossl.config import to_table
from audiossl.data.audio import write_audio
from audiossl.data.writer import CorpusUtterance, write_data_dir
from audiossl.encoders.wav2vec2 import Wav2Vec2
from audiossl.interop.formats import get
from audiossl.interop.model import CTCHead, Model
from audiossl.nn.vocabulary import Vocabulary
from audiossl.verification.embeddings import Embeddings


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A corpus, and a tiny model in some formats."""
    root = tmp_path_factory.mktemp("interop")
    rng = np.random.default_rng(0)
    rows = []
    for number in range(4):
        write_audio(root / f"{number}.wav", 0.1 * rng.standard_normal(8000 + 900 * number), 16000)
        name = f"s{number % 2}-{number}"
        columns = {"text": ("A B", "B A")[number % 2]}
        rows.append(CorpusUtterance(name, name, root / f"{number}.wav", name[:2], columns=columns))
    write_data_dir(rows, root / "data")
    torch.manual_seed(0)
    table = {"name": "wav2vec2", **to_table(Wav2Vec2.Config.tiny())}
    model = Model("wav2vec2", table, Wav2Vec2(Wav2Vec2.Config.tiny()).state_dict())
    head = CTCHead(Vocabulary("characters", ("<blank>", "<unk>", "A", "B", "|")), torch.randn(5, 32), torch.randn(5))
    get("fairseq").write(model, root / "x.pt")
    get("transformers").write(Model(model.kind, table, model.weights, ctc=head), root / "hf")
    return root


def run(capsys, *words):
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    captured = capsys.readouterr()
    assert stop.value.code == 0, captured.err
    return captured


def complaint(capsys, *words):
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    error = capsys.readouterr().err
    assert stop.value.code in {1, 2}
    assert error.count("\n") == 1, error
    return error


def test_an_import_is_embedded_and_fine_tuned(place, tmp_path, capsys):
    said = run(capsys, "import", place / "x.pt", "--out", tmp_path / "exp", "--json").out
    assert json.loads(said) == {
        "experiment": str(tmp_path / "exp"), "format": "fairseq", "kind": "wav2vec2", "heads": "none", "output_layer": 0,
        "notes": [],
    }  # fmt: skip
    run(capsys, "embed", tmp_path / "exp", place / "data", "--out", tmp_path / "e", "--num-workers", 0)
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
    run(capsys, *words, *small)
    run(capsys, "export", tmp_path / "asr", "--to", "transformers", "--out", tmp_path / "hf")
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["architectures"] == ["Wav2Vec2ForCTC"]


def test_an_imported_recogniser_transcribes_wherever_it_is_moved(place, tmp_path, capsys):
    run(capsys, "import", place / "hf", "--out", tmp_path / "exp")
    run(capsys, "transcribe", tmp_path / "exp", place / "data", "--num-workers", 0)
    (tmp_path / "exp").rename(tmp_path / "moved")
    before = run(capsys, "transcribe", tmp_path / "moved", place / "data", "--num-workers", 0)
    assert len(before.out.splitlines()) == 4


def test_errors_are_one_line(place, tmp_path, capsys):
    assert "no such file" in complaint(capsys, "import", tmp_path / "none", "--out", tmp_path / "e")
    assert "known:" in complaint(capsys, "import", place / "x.pt", "--out", tmp_path / "e", "--format", "zip")
    assert "write --encoder.key" in complaint(
        capsys, "import", place / "x.pt", "--out", tmp_path / "e", "--train.x", "1"
    )
    assert "num_heads 5" in complaint(
        capsys, "import", place / "x.pt", "--out", tmp_path / "e", "--encoder.num_heads", "5"
    )
    assert "none of the formats" in complaint(capsys, "import", place / "data", "--out", tmp_path / "e")
    assert not list(tmp_path.iterdir())
    run(capsys, "import", place / "x.pt", "--out", tmp_path / "exp")
    assert "exists already" in complaint(capsys, "import", place / "x.pt", "--out", tmp_path / "exp")
    words = ["export", tmp_path / "exp", "--out", tmp_path / "o", "--to"]
    assert "did you mean 'hubert'" in complaint(capsys, *words, "transformers", "--kind", "huberd")
    assert "cannot hold" in complaint(capsys, *words, "transformers", "--kind", "wavlm")
    assert not (tmp_path / "o").exists()
