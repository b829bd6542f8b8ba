from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from audiossl.adapters.houlsby import Houlsby
from audiossl.encoders.conformer import Conformer

TINY = Conformer.Config.tiny()


def test_conformer_l_has_the_parameters_of_the_paper():
    """118.8 million with its recogniser (table 1): here without the relative positions, 17 x 512 x 512, and the decoder."""
    with torch.device("meta"):
        layers = Conformer(Conformer.Config()).transformer.layers
    per_block = (
        2 * (2 * 512 * 2048 + 2048 + 512) + 4 * (512 * 512 + 512) + 3 * 512 * 512 + 3 * 512 + 32 * 512 + 6 * 1024
    )
    assert sum(p.numel() for p in layers.parameters()) == 17 * per_block == 103_029_248


@pytest.mark.parametrize("frontend", ["fbank", "conv"])
def test_frontends(frontend):
    torch.manual_seed(0)
    encoder = Conformer(replace(TINY, frontend=frontend)).eval()
    waveform, lengths = 0.1 * torch.randn(2, 16017), torch.tensor([16017, 7003])
    encoder.calibrate([(waveform, lengths)])
    assert (encoder.stride, encoder.num_frames(16017)) == (320, 49)
    output = encoder(waveform, lengths)
    alone = encoder(waveform[1:, :7003], lengths[1:])
    assert len(output.layers) == 3
    for together, single in zip(output.layers, alone.layers, strict=True):
        torch.testing.assert_close(together[1, : single.shape[1]], single[0], atol=1e-5, rtol=1e-5)


def test_strides_belong_to_the_filterbank():
    with pytest.raises(ValueError, match="encoder.strides"):
        replace(TINY, frontend="conv", strides=(2, 2))
    assert Conformer(replace(TINY, strides=(2, 2))).stride == 640


def test_adapters_fill_the_slots():
    encoder = Conformer(TINY)
    Houlsby(Houlsby.Config(bottleneck=4, num_top_layers=1, train_norms=True)).insert(encoder)
    names = {name for name, p in encoder.named_parameters() if p.requires_grad}
    assert {name.split(".")[3] for name in names} == {"attention_adapter", "ffn_adapter", "attention_norm", "ffn_norm"}
    assert {name.split(".")[2] for name in names} == {"1"} or all(
        name.startswith("transformer.layers.1.") for name in names
    )
