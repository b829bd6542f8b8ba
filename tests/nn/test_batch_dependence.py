"""What is taken for dependence on the batch: padding that shows in any layer, and no rounding."""

from __future__ import annotations

import pytest
import torch

from audiossl.contracts import EncoderOutput
from audiossl.nn.batch_dependence import minds_batch_mates


def extractor(minding, *, by=1.0, rounding=torch.float32):
    """Three layers of frames of 100 samples; layer `minding` is scaled by as much of the mean over padding and samples as `by` says."""

    def extract(waveform, lengths):
        frames = waveform[:, : waveform.shape[1] // 100 * 100].unflatten(1, (-1, 100))[..., :4]
        mean = waveform.abs().mean(dim=1)[:, None, None]
        layers = [frames * (1 + by * mean) if layer == minding else frames for layer in range(3)]
        return EncoderOutput([layer.to(rounding).float() for layer in layers], lengths // 100)

    return extract


@pytest.mark.parametrize("layer", [0, 1, 2])
@pytest.mark.parametrize("by", [1.0, 0.2])
def test_padding_that_shows_in_one_layer(layer, by):
    assert minds_batch_mates(extractor(layer, by=by), sample_rate=1000, min_samples=100)


@pytest.mark.parametrize("rounding", [torch.float32, torch.float16])
def test_rounding_is_no_dependence(rounding):
    assert not minds_batch_mates(extractor(None, rounding=rounding), sample_rate=1000, min_samples=100)
    assert not minds_batch_mates(extractor(1, by=1e-2, rounding=rounding), sample_rate=1000, min_samples=100)


def test_tolerance_of_what_is_rounded_more():
    found = [
        minds_batch_mates(extractor(1, by=0.2), sample_rate=1000, min_samples=100, tolerance=t) for t in (4e-3, 1e-2)
    ]
    assert found == [True, False]
