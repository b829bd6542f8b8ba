from __future__ import annotations

import pytest
import torch

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
