from __future__ import annotations

import numpy as np
import pytest
import torch

from audiossl.encoders.xvector import XVector


def test_published_number_of_parameters():
    with torch.device("meta"):
        encoder = XVector()
    weights = sum(p.numel() for key, p in encoder.named_parameters() if key.endswith("weight") and p.ndim > 1)
    # Table 1 of Snyder et al. (2018), rows frame1 to segment6.
    assert weights == 120 * 512 + 1536 * 512 + 1536 * 512 + 512 * 512 + 512 * 1500 + 3000 * 512
    assert sum(p.numel() for p in encoder.parameters()) == pytest.approx(4.2e6, rel=0.01)


def convolved(x, conv, norm):
    """x: (frame, channel). Convolution with zeros beyond the ends, ReLU, batch norm."""
    weight, bias, dilation = conv.weight.double().numpy(), conv.bias.double().numpy(), conv.dilation[0]
    reach = dilation * (weight.shape[2] // 2)
    padded = np.pad(x, ((reach, reach), (0, 0)))
    y = bias + sum(padded[k * dilation :][: len(x)] @ weight[:, :, k].T for k in range(weight.shape[2]))
    y = np.maximum(y, 0) - norm.running_mean.double().numpy()
    gain = norm.weight.double().numpy() / np.sqrt(norm.running_var.double().numpy() + norm.eps)
    return y * gain + norm.bias.double().numpy()


@torch.no_grad()
def test_layers_and_embedding():
    torch.manual_seed(0)
    encoder = XVector(XVector.Config.tiny()).eval()
    for module in encoder.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            module.bias.normal_()
    waveform = 0.1 * torch.randn(1, 4000)
    features, frames = encoder.frontend(waveform, torch.tensor([4000]))
    x = features[0].double().numpy()
    output = encoder.body.frame_layers(features, frames)
    reaches = []
    for layer, found in zip(encoder.body.convs, output.layers, strict=True):
        x = convolved(x, layer.conv, layer.norm)
        reaches.append(layer.conv.dilation[0] * (layer.conv.kernel_size[0] // 2))
        np.testing.assert_allclose(found[0].numpy(), x, atol=1e-4, rtol=1e-4)
    assert reaches == [2, 2, 3, 0]  # the contexts of table 1
    x = convolved(x, encoder.body.leave.conv, encoder.body.leave.norm)
    pooled = np.concatenate([x.mean(0), np.sqrt(np.maximum(x.var(0), 1e-5))])
    expected = pooled @ encoder.body.embedding.weight.double().numpy().T + encoder.body.embedding.bias.numpy()
    np.testing.assert_allclose(encoder.embed(waveform, torch.tensor([4000]))[0].numpy(), expected, atol=1e-4, rtol=1e-4)
