"""Pooling against a loop over utterances, and that the mean may be taken before the affine steps."""

from __future__ import annotations

import torch

from audiossl.contracts import EncoderOutput
from audiossl.nn.pooling import UtteranceHead, mean_over_frames


def test_mean_equals_a_loop_and_ignores_padding():
    torch.manual_seed(0)
    frames, lengths = torch.randn(3, 7, 4), torch.tensor([7, 1, 4])
    frames[1, 1:] = torch.nan
    frames[2, 4:] = torch.inf
    mean = mean_over_frames(frames, lengths)
    for row, length in enumerate(lengths.tolist()):
        torch.testing.assert_close(mean[row], frames[row, :length].mean(dim=0))
    assert mean_over_frames(frames.bfloat16(), lengths).dtype == torch.float32


def test_head_equals_classifying_every_frame_and_then_averaging():
    torch.manual_seed(0)
    head = UtteranceHead(6, 2, 5, projector_dim=3).double()
    with torch.no_grad():
        head.weighted.layer_logits.copy_(torch.tensor([0.5, -1.0, 2.0]))
    layers = [torch.randn(2, 9, 6, dtype=torch.float64) for _ in range(3)]
    logits = head(EncoderOutput(layers, torch.tensor([9, 4])))
    weights = torch.softmax(torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64), 0)
    framewise = head.classifier(head.projector(sum(w * layer for w, layer in zip(weights, layers, strict=True))))
    torch.testing.assert_close(logits[0], framewise[0].mean(dim=0))
    torch.testing.assert_close(logits[1], framewise[1, :4].mean(dim=0))


def test_layer_weights_start_equal():
    assert UtteranceHead(4, 3, 2).weighted.shares().tolist() == [0.25] * 4
