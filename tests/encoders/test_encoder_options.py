"""Options that mean nothing are one line that names them, for every encoder."""

import math
from dataclasses import fields, replace

import pytest

from audiossl import registry
from audiossl.encoders._ssl_speaker import tiny_table

SIZES = {
    "num_layers", "dim", "ffn_dim", "num_heads", "position_kernel", "position_groups", "position_depth", "conv_dim", "num_mels", "num_codes",
    "rate", "max_distance", "num_buckets", "groups", "entries", "channels", "pooled_dim", "scale", "bottleneck", "embedding_dim", "compression_dim",
    "sample_rate", "base_channels",
}  # fmt: skip
DROPOUTS = {"dropout", "attention_dropout", "activation_dropout", "layer_drop", "dropout_input", "dropout_features"}
CASES = [
    *((name, value, f"{value} is too small; give at least ") for name in sorted(SIZES) for value in (0, -1)),
    *(("num_buckets", value, f"{value} is too small; give at least 4") for value in (2, 3)),
    ("max_distance", 4, "4 is too small; give at least 5"),  # 16 buckets have 4 for distances up to 3
    *((name, value, f"{value} is not between 0 and 1") for name in sorted(DROPOUTS) for value in (-0.1, 1.5, math.nan)),
    *(("feature_grad_mult", value, f"{value} is negative, or not finite; give 0") for value in (-1.0, math.nan)),
    *(("attention_relax", value, f"{value} is negative, or not finite; give 0") for value in (-1.0, math.nan, math.inf)),
    ("context_kernels", (2, 0), r"\[2, 0\] are not all convolutions; give numbers from 1 on"),
]  # fmt: skip
OPTIONS = {name: {item.name for item in fields(registry.get("encoders", name).Config)} for name in registry.names("encoders")}  # fmt: skip


@pytest.mark.parametrize(("option", "value", "message"), CASES)
def test_options_that_mean_nothing_are_named(option, value, message):
    having = [name for name, options in OPTIONS.items() if option in options]
    assert having
    for name in having:
        cls = registry.get("encoders", name)
        with pytest.raises(ValueError, match=rf"^encoder\.{option}: {message}.*$"):
            cls(replace(cls.Config.tiny(), **{option: value}))


@pytest.mark.parametrize("name", OPTIONS)
def test_the_least_is_allowed(name):
    tiny = registry.get("encoders", name).Config.tiny()
    least = {"layer_drop": 1.0, "dropout": 0.0, "feature_grad_mult": 0.0, "bottleneck": 1, "ffn_dim": 1, "entries": 1}
    replace(tiny, **{option: value for option, value in least.items() if option in OPTIONS[name]})


@pytest.mark.parametrize("inner", ["fbank", "wav2vec2"])
def test_an_encoder_inside_another_is_named_as_such(inner):
    cls = registry.get("encoders", "mhfa_speaker")
    config = replace(cls.Config.tiny(), encoder=tiny_table(inner) | {"num_heads": 0})
    with pytest.raises(ValueError, match=r"^encoder\.encoder\.num_heads: 0 is too small; give at least 1$"):
        cls(config)
    for option, said in (("bottleneck", r": bottleneck 0"), ("kernel", r"\.kernel: 0")):
        config = replace(cls.Config.tiny(), adapter={"name": "houlsby", option: 0})
        with pytest.raises(ValueError, match=rf"^encoder\.adapter{said}"):
            cls(config)
