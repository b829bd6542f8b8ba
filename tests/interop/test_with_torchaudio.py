"""torchaudio's own models on what we write, and ours on its. Run by `make test-interop`; elsewhere torchaudio is absent and these are skipped."""

from __future__ import annotations

import json

import pytest
import torch
from interop_models import alone, assert_same_layers, ours, shaken, waveforms

import audiossl
from audiossl.interop.formats import get, read_model
from audiossl.interop.heads import read_codewords
from audiossl.interop.model import CTCHead, Model
from audiossl.nn.vocabulary import Vocabulary

torchaudio = pytest.importorskip(
    "torchaudio", reason="needs the environment of `make test-interop`", exc_type=ImportError
)

pytestmark = pytest.mark.filterwarnings("ignore")


def layers_of(model, waveform, lengths, *, pre_norm):
    """What comes after each block; before the first, ours counts one more, which torchaudio does not give."""
    with torch.no_grad():
        layers, _ = model.extract_features(waveform, lengths)
        final, _ = model.encoder.transformer.layer_norm(layers[-1]) if pre_norm else layers[-1], None
    return [*layers[:-1], final]


def assert_same(encoder, model, waveform, lengths, *, pre_norm):
    class Blocks(torch.nn.Module):
        def forward(self, waveform, lengths):
            output = encoder(waveform, lengths)
            output.layers = output.layers[1:]
            return output

    assert_same_layers(Blocks(), layers_of(model, waveform, lengths, pre_norm=pre_norm), waveform, lengths)


@pytest.mark.parametrize("options", [{}, {"large": True}, {"conv_bias": True}])
def test_theirs_computes_what_ours_does(tmp_path, options):
    large = options.get("large", False)
    encoder, model = ours(legacy_norm=not large, **options)
    get("torchaudio").write(model, tmp_path / "x.pt")
    facts = json.loads((tmp_path / "x.pt.json").read_text())
    assert facts["builder"] == "wav2vec2_model"
    built = torchaudio.models.wav2vec2_model(**facts["arguments"]).eval()
    built.load_state_dict(torch.load(tmp_path / "x.pt", weights_only=True))
    assert_same(encoder, built, *alone(), pre_norm=large)
    assert_same(encoder, built, *waveforms(), pre_norm=large)


@pytest.mark.parametrize("large", [False, True])
def test_ours_computes_what_theirs_does(tmp_path, large):
    shapes = [(16, k, s) for k, s in zip((10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2), strict=True)]
    mode = "layer_norm" if large else "group_norm"
    built = torchaudio.models.wav2vec2_model(
        mode, shapes, large, 32, 0.1, 16, 4, 2, 4, 0.1, 64, 0.1, 0.1, large, 0.1, None
    )
    torch.save(shaken(built).state_dict(), tmp_path / "x.pt")
    with pytest.raises(ValueError, match=r"add --encoder\.num_heads N"):
        read_model(tmp_path / "x.pt")
    _, read = read_model(tmp_path / "x.pt", overrides={"num_heads": 4, "normalise_waveform": False})
    from audiossl.interop.encoder import build_encoder

    encoder = build_encoder(read.encoder)
    encoder.load_state_dict(read.weights)
    assert_same(encoder.eval(), built, *waveforms(), pre_norm=large)


def test_pretraining_models_keep_their_codewords(tmp_path):
    _, model = ours()
    heads, objective = read_codewords((torch.randn(8, 32), torch.randn(8)), torch.randn(13, 8), [13], {})
    model = Model("hubert", model.encoder, model.weights, heads, objective)
    notes = get("torchaudio").write(model, tmp_path / "x.pt")
    assert any("4 codewords" in note for note in notes)
    facts = json.loads((tmp_path / "x.pt.json").read_text())
    assert (facts["builder"], facts["num_classes"], facts["final_dim"]) == ("hubert_pretrain_model", 9, 8)
    _, read = read_model(tmp_path / "x.pt")
    assert torch.equal(read.heads["codewords.0"], heads["codewords.0"][4:])
    assert torch.equal(read.weights["mask_emb"], model.weights["mask_emb"])
    assert read.objective["special_rows"] == 0


def test_recognisers(tmp_path):
    encoder, model = ours(legacy_norm=True)
    head = CTCHead(Vocabulary("characters", ("<blank>", "<unk>", "A", "|")), torch.randn(4, 32), torch.randn(4))
    get("torchaudio").write(Model("hubert", model.encoder, model.weights, ctc=head), tmp_path / "x.pt")
    facts = json.loads((tmp_path / "x.pt.json").read_text())
    built = torchaudio.models.wav2vec2_model(**facts["arguments"]).eval()
    built.load_state_dict(torch.load(tmp_path / "x.pt", weights_only=True))
    waveform, lengths = alone()
    with torch.no_grad():
        logits, _ = built(waveform, lengths)
        expected = encoder(waveform, lengths).layers[-1] @ head.weight.T + head.bias
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    assert audiossl.load(tmp_path / "x.pt").num_layers == 2
