"""Models of transformers as fairseq's files hold them, by rules that share nothing with the package's table."""

from __future__ import annotations

import re

from audiossl.interop.keys import old_weight_norm

RULES = (
    (r"feature_extractor\.conv_layers\.(\d)\.conv\.", r"feature_extractor.conv_layers.\1.0."),
    (r"feature_projection\.layer_norm", "layer_norm"),
    (r"feature_projection\.projection", "post_extract_proj"),
    (r"masked_spec_embed", "mask_emb"),
    (r"pos_conv_embed\.conv\.", "pos_conv.0."),
    (r"(layers\.\d+)\.layer_norm", r"\1.self_attn_layer_norm"),
    (r"\.attention\.(.*)_proj", r".self_attn.\1_proj"),
    (r"attention\.gru_rel_pos_const", "self_attn.grep_a"),
    (r"attention\.gru_rel_pos_linear", "self_attn.grep_linear"),
    (r"attention\.rel_attn_embed", "self_attn.relative_attention_bias"),
    (r"feed_forward\.intermediate_dense", "fc1"),
    (r"feed_forward\.output_dense", "fc2"),
)
CONV = "[(16,10,5)] + [(16,3,2)] * 4 + [(16,2,2)] * 2"
CONFIG = {
    "encoder_layers": 2, "encoder_embed_dim": 32, "encoder_ffn_embed_dim": 64, "encoder_attention_heads": 4, "layer_norm_first": False,
    "activation_fn": "gelu",
    "conv_feature_layers": CONV, "dropout": 0.1, "final_dim": 8, "logit_temp": 0.2, "label_rate": 50.0,
}  # fmt: skip


def as_fairseq(model, kind, *, large=False):
    """Rename the weights of a model of transformers by rules that share nothing with the package's table."""
    renamed = {}
    for name, value in old_weight_norm(model.state_dict()).items():
        name = name.removeprefix("encoder.layer_norm") and name
        norm = re.fullmatch(r"feature_extractor\.conv_layers\.(\d)\.layer_norm\.(\w+)", name)
        if norm:
            name = f"feature_extractor.conv_layers.{norm[1]}.2.{'1.' if large or kind == 'data2vec-audio' else ''}{norm[2]}"
        for pattern, new in RULES:
            name = re.sub(pattern, new, name)
        name = re.sub(r"pos_conv_embed\.layers\.(\d)\.conv\.", r"pos_conv.\1.0.", name)
        name = name.replace("pos_conv_embed.batch_norm", "pos_conv.0")
        if "pos_conv_embed.batch_norm.weight" in "".join(model.state_dict()):
            name = re.sub(r"pos_conv\.0\.(weight|bias)$", r"pos_conv.1.\1", name) if ".conv." in name else name
        renamed[name] = value
    return renamed
