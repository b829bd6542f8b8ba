from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from audiossl.contracts import UnitsInput, Utterance, read_by
from audiossl.encoders.codes import Codes


def test_masked_units_are_not_seen():
    torch.manual_seed(0)
    encoder = Codes(Codes.Config.tiny()).eval()
    codes, lengths = torch.randint(9, (2, 12)), torch.tensor([12, 7])
    masked = torch.zeros(2, 12, dtype=torch.bool)
    masked[:, 3:6] = True
    other = codes.clone()
    other[masked] = (other[masked] + 1) % 9
    for a, b in zip(
        encoder(codes, lengths, masked=masked).layers, encoder(other, lengths, masked=masked).layers, strict=True
    ):
        assert torch.equal(a, b)
    assert not torch.equal(encoder(codes, lengths).layers[0], encoder(other, lengths).layers[0])
    assert len(encoder(codes, lengths, num_layers=1).layers) == 2


def test_a_waveform_is_refused():
    with pytest.raises(ValueError, match="reads units, not a waveform"):
        Codes(Codes.Config.tiny())(torch.randn(1, 100), torch.tensor([100]))


def test_masked_channels_are_zero_before_the_first_block():
    torch.manual_seed(0)
    encoder = Codes(Codes.Config.tiny()).eval()
    codes, lengths = torch.randint(9, (2, 12)), torch.tensor([12, 7])
    masked = torch.zeros(2, 12, dtype=torch.bool)
    masked[:, 3:6] = True
    channels = torch.zeros(2, encoder.dim, dtype=torch.bool)
    channels[0, 4:9] = True
    seen = []
    encoder.transformer.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    encoder(codes, lengths, masked=masked, channels_masked=channels)
    wanted = encoder.embedding.weight[codes].masked_fill(masked[..., None], 0.0)
    wanted += masked[..., None] * encoder.mask_emb
    wanted[0, :, 4:9] = 0.0
    torch.testing.assert_close(seen[0], wanted, rtol=0, atol=0)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_embedded_units_are_dropped_in_training_only(share):
    encoder = Codes(replace(Codes.Config.tiny(), dropout_input=share))
    seen = []
    encoder.transformer.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    for training in (True, False):
        encoder.train(training)(torch.arange(9)[None], torch.tensor([9]))
    assert torch.equal(seen[0], (1 - share) * seen[1])


def test_what_it_reads_is_its_configuration():
    encoder = Codes(Codes.Config(num_layers=1, dim=32, num_heads=2, labels="km", rate=50, num_codes=7))
    assert read_by(encoder) == UnitsInput("units/km", 50, 7)
    assert read_by(torch.nn.Identity()) is None


@pytest.mark.parametrize("units", [[], [0, 7], [-1, 2]])
def test_units_that_it_cannot_read_are_named(units):
    reads = UnitsInput("units/km", 50, 7)
    utterance = Utterance("a", np.zeros(10), 50, {"units/km": np.array(units, dtype=np.int64)})
    with pytest.raises(ValueError, match="^a: units/km has no units or others than 0 to 6; apply them again"):
        utterance.signal(reads)
    assert len(utterance.signal(None)) == 10
