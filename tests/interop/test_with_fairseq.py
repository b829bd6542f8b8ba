"""fairseq itself on what we write, and ours on what it writes. Run by `make test-interop` where the Python that it is made for is there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from interop_models import alone, assert_same_layers, ours, waveforms, with_heads

import audiossl
from audiossl.interop.formats import get, read_model
from audiossl.interop.model import CTCHead, Model
from audiossl.nn.vocabulary import Vocabulary

PYTHON = Path(sys.prefix) / "fairseq" / "bin" / "python"
BATCHES = [alone(), alone(1), waveforms()]

if not PYTHON.exists():
    pytest.skip("needs `make test-interop FAIRSEQ_PYTHON=...`, a Python 3.8", allow_module_level=True)


def given(kind, shape, heads):
    """One of ours: its encoder, and what formats write."""
    large = shape == "large"
    encoder, model = ours(kind=kind, large=large, normalise_waveform=large, legacy_norm=not large)
    if heads == "ctc":
        vocabulary = Vocabulary("characters", ("<blank>", "<unk>", "A", "|"))
        generator = torch.Generator().manual_seed(2)
        head = CTCHead(vocabulary, torch.randn(4, 32, generator=generator), torch.randn(4, generator=generator))
        return encoder, Model(kind, model.encoder, model.weights, ctc=head)
    return encoder, with_heads(model) if heads == "heads" else model


CASES = [(k, s, h) for k in ("hubert", "wav2vec2") for s in ("base", "large") for h in ("bare", "heads", "ctc")]


@pytest.fixture(scope="module")
def exchanged(tmp_path_factory):
    """A folder with files of ours that fairseq has answered, and files that it made."""
    root = tmp_path_factory.mktemp("fairseq")
    torch.save(BATCHES, root / "waveforms.pt")
    for case in CASES:
        folder = root / "given" / "_".join(case)
        get("fairseq").write(given(*case)[1], folder / "x.pt")
    side = Path(__file__).with_name("fairseq_side.py")
    done = subprocess.run([PYTHON, "-W", "ignore", side, root], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return root


@pytest.mark.parametrize("case", CASES, ids="_".join)
def test_theirs_computes_what_ours_does(exchanged, case):
    encoder, model = given(*case)
    answer = torch.load(exchanged / "given" / "_".join(case) / "answer.pt")
    assert len(answer["found"]) == len(BATCHES)
    for batch, found in zip(BATCHES, answer["found"], strict=True):
        if model.ctc is None:
            assert_same_layers(encoder, found, *batch)
            continue
        assert answer["symbols"] == ["<s>", "<pad>", "</s>", "<unk>", "A", "|"]
        assert_same_logits(encoder, model.ctc, found[0][..., [0, 3, 4, 5]], *batch)


def assert_same_logits(encoder, head, found, waveform, lengths):
    with torch.no_grad():
        output = encoder(waveform, lengths)
    expected = output.layers[-1] @ head.weight.T + head.bias
    for row, count in enumerate(output.lengths):
        torch.testing.assert_close(found[row, :count], expected[row, :count], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shape", ["base", "large"])
@pytest.mark.parametrize(("kind", "heads"), [("hubert", 6), ("wav2vec2", 8)])
def test_ours_computes_what_theirs_does(exchanged, kind, heads, shape):
    folder = exchanged / "made" / f"{kind}_{shape}"
    name, read = read_model(folder / "x.pt")
    assert (name, read.kind, len(read.heads)) == ("fairseq", kind, heads)
    encoder = audiossl.load(folder / "x.pt")
    for batch, found in zip(BATCHES, torch.load(folder / "answer.pt"), strict=True):
        assert_same_layers(encoder, found, *batch)


@pytest.mark.parametrize("case", [case for case in CASES if case[-1] != "ctc"], ids="_".join)
def test_its_recipes_start_from_ours(exchanged, case):
    encoder, _ = given(*case)
    answer = torch.load(exchanged / "tuned" / "_".join(case) / "answer.pt")
    for batch, found in zip(BATCHES, answer["found"], strict=True):
        assert_same_layers(encoder, found, *batch)
    assert answer["masks"] == (0.3, 0.2)


@pytest.mark.parametrize("shape", ["base", "large"])
@pytest.mark.parametrize("kind", ["hubert", "wav2vec2"])
def test_recognisers_are_read(exchanged, kind, shape):
    folder = exchanged / "made" / f"{kind}_ctc_{shape}"
    _, read = read_model(folder / "x.pt")
    tokens = read.ctc.vocabulary.tokens
    assert set(tokens) == {"<blank>", "<pad>", "</s>", "<unk>", "ltr0"}
    order = [["<blank>", "<pad>", "</s>", "<unk>", "ltr0"].index(token) for token in tokens]
    encoder = audiossl.load(folder / "x.pt")
    for batch, found in zip(BATCHES, torch.load(folder / "answer.pt"), strict=True):
        assert_same_logits(encoder, read.ctc, found[0][..., order], *batch)


def test_moved_files_are_found(exchanged, tmp_path):
    (exchanged / "given" / "hubert_base_heads").rename(tmp_path / "moved")
    code = (
        "import sys\nfrom fairseq import checkpoint_utils\n"
        "places = dict.fromkeys(('data', 'label_dir'), sys.argv[1])\n"
        "_, _, task = checkpoint_utils.load_model_ensemble_and_task([sys.argv[1] + '/x.pt'], places)\n"
        "print([len(words) for words in task.dictionaries])"
    )
    done = subprocess.run(
        [PYTHON, "-W", "ignore", "-c", code, tmp_path / "moved"], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "[9, 6]", done.stderr
