"""s3prl's own upstreams on what we write, and as encoders of ours. Run by `make test-interop`; elsewhere s3prl is absent and these are skipped."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from interop_models import alone, assert_same_layers, ours, waveforms

import audiossl
from audiossl.interop.formats import get, read_model
from audiossl.interop.heads import read_codewords
from audiossl.interop.model import Model
from audiossl.interop.s3prl_upstream import import_hub

pytest.importorskip("s3prl", reason="needs the environment of `make test-interop`", exc_type=ImportError)

pytestmark = pytest.mark.filterwarnings("ignore")


def upstream_layers(upstream, waveform, lengths):
    with torch.no_grad():
        return upstream.eval()([row[:n] for row, n in zip(waveform, lengths, strict=True)])["hidden_states"]


def with_codewords(model):
    """The model with HuBERT's heads for two label sets."""
    projection = torch.randn(16, model.encoder["dim"]), torch.randn(16)
    heads, objective = read_codewords(projection, torch.randn(15, 8), [9, 6], {"label_rate": 50.0})
    return Model(model.kind, model.encoder, model.weights, heads, objective)


@pytest.mark.parametrize("heads", [False, True])
@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("kind", ["hubert", "wav2vec2"])
def test_local_upstreams(tmp_path, kind, large, heads):
    if heads and kind == "wav2vec2":
        pytest.skip("the quantiser is tested against transformers")
    encoder, model = ours(kind=kind, large=large, normalise_waveform=large, legacy_norm=not large)
    get("s3prl").write(with_codewords(model) if heads else model, tmp_path / "x.pt")
    upstream = getattr(import_hub(), f"{kind}_local")(ckpt=str(tmp_path / "x.pt"))
    assert_same_layers(encoder, upstream_layers(upstream, *alone()), *alone())
    assert_same_layers(encoder, upstream_layers(upstream, *waveforms()), *waveforms())


@pytest.mark.parametrize("large", [False, True])
def test_wavlm_local(tmp_path, large):
    encoder, model = ours("wavlm", kind="wavlm", large=large, normalise_waveform=large, legacy_norm=not large)
    get("fairseq").write(model, tmp_path / "x.pt")
    upstream = import_hub().wavlm_local(ckpt=str(tmp_path / "x.pt"))
    assert_same_layers(encoder, upstream_layers(upstream, *alone()), *alone())
    assert_same_layers(encoder, upstream_layers(upstream, *waveforms()), *waveforms())


@pytest.mark.parametrize("kind", ["hubert", "wav2vec2"])
def test_folders_of_transformers(tmp_path, kind):
    encoder, model = ours(kind=kind)
    get("transformers").write(model, tmp_path / "hf")
    upstream = getattr(import_hub(), f"hf_{kind}_custom")(ckpt=str(tmp_path / "hf"))
    assert_same_layers(encoder, upstream_layers(upstream, *alone()), *alone())


def test_what_s3prl_wrote_is_read(tmp_path):
    from s3prl.upstream.hubert.hubert_model import HubertConfig, HubertModel, HubertPretrainingConfig

    settings = {
        "label_rate": 50.0, "encoder_layers": 2, "encoder_embed_dim": 32, "encoder_ffn_embed_dim": 64, "encoder_attention_heads": 4,
        "conv_feature_layers": "[(16,10,5)] + [(16,3,2)] * 4 + [(16,2,2)] * 2", "final_dim": 8, "conv_pos": 16, "conv_pos_groups": 4,
        "untie_final_proj": True,
    }  # fmt: skip
    model = HubertModel(HubertConfig(**settings), HubertPretrainingConfig(), [["a"] * 9, ["b"] * 6]).eval()
    content = {"task_cfg": {"normalize": False}, "model_cfg": settings, "model_weight": model.state_dict()}
    torch.save({**content, "dictionaries_symbols": [["a"] * 9, ["b"] * 6]}, tmp_path / "x.pt")
    name, read = read_model(tmp_path / "x.pt")
    assert (name, read.kind, len(read.heads)) == ("s3prl", "hubert", 6)
    waveform, lengths = alone()
    with torch.no_grad():
        expected, _ = model.extract_features(waveform, padding_mask=torch.zeros_like(waveform, dtype=torch.bool))
        found = audiossl.load(tmp_path / "x.pt")(waveform, lengths).layers[-1]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_upstreams_are_encoders(tmp_path):
    encoder, model = ours(legacy_norm=True)
    get("s3prl").write(model, tmp_path / "x.pt")
    upstream = audiossl.load(f"s3prl:hubert_local:{tmp_path / 'x.pt'}")
    assert (upstream.dim, upstream.stride, upstream.num_layers) == (encoder.dim, encoder.stride, encoder.num_layers)
    waveform, lengths = alone()
    output = upstream(waveform, lengths)
    assert output.lengths.tolist() == [upstream.num_frames(int(lengths[0]))] == [25]
    expected = encoder(waveform, lengths).layers
    torch.testing.assert_close(output.layers[1][:, :24], expected[1], atol=1e-5, rtol=1e-5)


def test_filterbanks_are_an_encoder():
    upstream = audiossl.load("s3prl:fbank")
    output = upstream(*waveforms())
    assert upstream.stride == 160
    assert {tuple(layer.shape) for layer in output.layers} == {(2, 50, upstream.dim)}


def test_unknown_upstreams_are_one_line():
    with pytest.raises(ValueError, match="did you mean 'hubert_local'"):
        audiossl.load("s3prl:hubert_locall")


@pytest.mark.parametrize(
    "broken", ["sys.modules['torchaudio'] = None", "import torchaudio; del torchaudio.set_audio_backend"]
)
def test_the_hub_is_imported_whichever_torchaudio_is_there(broken):
    code = (
        f"import sys, warnings; warnings.simplefilter('ignore')\n{broken}\n"
        "from audiossl.interop.s3prl_upstream import import_hub\nprint(len(dir(import_hub())) > 100)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "True", done.stderr
