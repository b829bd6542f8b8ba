from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from audiossl.encoders.wav2vec2 import Wav2Vec2


@pytest.mark.parametrize(
    ("name", "millions", "tolerance"), [("base", 94.4, 0.05), ("large", 315.4, 0.05), ("xlarge", 962.5, 0.05)]
)
def test_parameter_counts_are_the_published_ones(name, millions, tolerance):
    with torch.device("meta"):
        encoder = Wav2Vec2(getattr(Wav2Vec2.Config, name)())
    assert sum(p.numel() for p in encoder.parameters()) / 1e6 == pytest.approx(millions, abs=tolerance)


def test_default_is_base():
    assert Wav2Vec2.Config() == Wav2Vec2.Config.base()


def from_transformers(state):
    """Rename a transformers state dict and fuse its query, key and value."""
    renamed = {}
    for key, value in state.items():
        for old, new in (
            ("feature_extractor.conv_layers.0.layer_norm.", "frontend.layer_norms.0."),
            ("feature_extractor.conv_layers.", "frontend.convs."),
            ("feature_projection.layer_norm.", "feature_norm."),
            ("feature_projection.projection.", "projection."),
            ("masked_spec_embed", "mask_emb"),
            ("encoder.pos_conv_embed.conv.", "transformer.positions.conv."),
            ("encoder.layer_norm.", "transformer.norm."),
            ("encoder.layers.", "transformer.layers."),
            (".attention.out_proj.", ".attention.out."),
            (".feed_forward.intermediate_dense.", ".ffn_in."),
            (".feed_forward.output_dense.", ".ffn_out."),
            (".final_layer_norm.", ".ffn_norm."),
        ):
            key = key.replace(old, new)
        if key.startswith("transformer.layers."):
            key = key.replace(".layer_norm.", ".attention_norm.")
        if key.startswith("frontend.convs.") and ".layer_norm." in key:
            key = key.replace("convs.", "layer_norms.").replace(".layer_norm.", ".")
        renamed[key.replace(".conv.weight", ".weight").replace(".conv.bias", ".bias") if "frontend" in key else key] = (
            value
        )
    for key in [key for key in renamed if ".q_proj." in key]:
        parts = [renamed.pop(key.replace(".q_proj.", f".{part}_proj.")) for part in "qkv"]
        renamed[key.replace(".q_proj.", ".qkv.")] = torch.cat(parts)
    return renamed


@pytest.mark.slow
@pytest.mark.parametrize("model_name", ["Hubert", "Wav2Vec2"])
@pytest.mark.parametrize("large", [False, True])
def test_every_layer_equals_transformers(model_name, large):
    import transformers

    norm = "layer" if large else "group"
    torch.manual_seed(0)
    theirs = getattr(transformers, f"{model_name}Model")(
        getattr(transformers, f"{model_name}Config")(
            hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=64, conv_dim=(16,) * 7,
            feat_extract_norm=norm, do_stable_layer_norm=large, conv_bias=large, num_conv_pos_embeddings=16,
            num_conv_pos_embedding_groups=4,
        )
    ).eval()  # fmt: skip
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)  # biases and norms too must be in their places
    config = replace(
        Wav2Vec2.Config.tiny(), num_layers=3, pre_norm=large, conv_norm=norm, conv_bias=large, legacy_norm=not large
    )
    ours = Wav2Vec2(config).eval()
    state = from_transformers(theirs.state_dict())
    if not large:
        state = {key.replace("frontend.layer_norms.0.", "frontend.group_norm."): value for key, value in state.items()}
    ours.load_state_dict(state)
    wave, lengths = torch.randn(3, 16000), torch.tensor([16000, 9000, 12345])
    mask = torch.arange(16000) < lengths[:, None]
    with torch.no_grad():
        found = ours(wave * mask, lengths)
        expected = theirs(wave * mask, attention_mask=mask.long(), output_hidden_states=True)
    assert len(found.layers) == len(expected.hidden_states) == 4
    # Where blocks normalise their input, transformers lists the last block's output before the final norm.
    for layer, other in zip(found.layers, (*expected.hidden_states[:-1], expected.last_hidden_state), strict=True):
        for row, count in enumerate(found.lengths):
            torch.testing.assert_close(layer[row, :count], other[row, :count], atol=1e-5, rtol=1e-5)


def test_music_at_24_khz_has_75_frames_per_second():
    encoder = Wav2Vec2(replace(Wav2Vec2.Config.tiny(), sample_rate=24000))
    assert (encoder.sample_rate, encoder.stride) == (24000, 320)
    assert encoder.num_frames(24000 * 5) == 5 * 75 - 1


def test_relaxed_attention_changes_no_frame():
    encoders = [Wav2Vec2(replace(Wav2Vec2.Config.tiny(), attention_relax=relax)).eval() for relax in (0.0, 32.0)]
    encoders[1].load_state_dict(encoders[0].state_dict())
    wave, lengths = torch.randn(2, 8000), torch.tensor([8000, 5000])
    plain, relaxed = (encoder(wave, lengths) for encoder in encoders)
    assert [layer.attention.relax for layer in encoders[1].transformer.layers] == [32.0, 32.0]
    assert encoders[1].transformer.packed is False
    for one, other in zip(plain.layers, relaxed.layers, strict=True):
        for row, count in enumerate(plain.lengths):
            torch.testing.assert_close(one[row, :count], other[row, :count], atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="attention_relax: -1"):
        Wav2Vec2(replace(Wav2Vec2.Config.tiny(), attention_relax=-1.0))
