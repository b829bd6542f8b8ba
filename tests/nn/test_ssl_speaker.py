from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from audiossl.adapters.houlsby import Houlsby
from audiossl.contracts import SpeakerEncoder
from audiossl.encoders.conformer import Conformer
from audiossl.encoders.fbank import FBank
from audiossl.encoders.wav2vec2 import Wav2Vec2
from audiossl.nn.mhfa import MHFA, EcapaHead
from audiossl.nn.ssl_speaker import SSLSpeaker

HEADS = {
    "mhfa": lambda encoder: MHFA(encoder.dim, encoder.num_layers, num_heads=3, compression_dim=4, embedding_dim=7),
    "ecapa": lambda encoder: EcapaHead(encoder.dim, encoder.num_layers, channels=16, pooled_dim=8, embedding_dim=7),
}


def make(head, cls=FBank):
    torch.manual_seed(0)
    encoder = cls(cls.Config.tiny())
    return SSLSpeaker(encoder, HEADS[head](encoder)).eval()


def recordings():
    lengths = torch.tensor([9000, 6001])
    waveform = 0.1 * torch.randn(2, 9000, generator=torch.Generator().manual_seed(0))
    waveform[1, 6001:] = 0
    return waveform, lengths


@pytest.mark.parametrize("cls", [FBank, Wav2Vec2])
@pytest.mark.parametrize("head", HEADS)
def test_padding_changes_nothing(head, cls):
    speaker, (waveform, lengths) = make(head, cls), recordings()
    assert isinstance(speaker, SpeakerEncoder)
    with torch.no_grad():
        together = speaker.embed(waveform, lengths)
        alone = speaker.embed(waveform[1:, :6001], lengths[1:])
    assert together.shape == (2, 7)
    torch.testing.assert_close(together[1:], alone, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(together[0], together[1], atol=1e-3)


def test_it_answers_for_its_encoder():
    speaker, (waveform, lengths) = make("mhfa"), recordings()
    encoder = speaker.encoder
    assert (speaker.dim, speaker.stride, speaker.sample_rate) == (encoder.dim, encoder.stride, encoder.sample_rate)
    assert speaker.num_frames(9000) == encoder.num_frames(9000)
    assert torch.equal(speaker(waveform, lengths).layers[-1], encoder(waveform, lengths).layers[-1])


def test_gradients_reach_encoder_and_head():
    speaker, (waveform, lengths) = make("mhfa"), recordings()
    speaker.embed(waveform, lengths).square().sum().backward()
    assert [key for key, p in speaker.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_its_encoder_keeps_the_names_of_its_state():
    assert make("mhfa").encoder.state_dict().keys() == FBank(FBank.Config.tiny()).state_dict().keys()


def test_what_is_frozen_never_sees_dropout():
    speaker = make("mhfa", Wav2Vec2).train()
    assert speaker.encoder.training
    speaker.encoder.requires_grad_(False)
    assert speaker.train().head.training
    assert not any(part.training for part in speaker.encoder.modules())


def test_frozen_batch_norms_stay_as_they_were():
    torch.manual_seed(0)
    encoder = Conformer(replace(Conformer.Config.tiny(), conv_norm="batch"))
    Houlsby(Houlsby.Config.tiny()).insert(encoder)
    speaker = SSLSpeaker(encoder, HEADS["mhfa"](encoder)).train()
    norms = [m for m in encoder.modules() if isinstance(m, torch.nn.BatchNorm1d)]
    before = [norm.running_mean.clone() for norm in norms]
    speaker.embed(*recordings())
    assert norms
    assert all(torch.equal(norm.running_mean, mean) for norm, mean in zip(norms, before, strict=True))


def test_errors():
    encoder = FBank(FBank.Config.tiny())
    with pytest.raises(ValueError, match="head for 5 layers of 32: the encoder has 2 of 32"):
        SSLSpeaker(encoder, MHFA(32, 5))
    with pytest.raises(ValueError, match="utterance 1 of the batch: 100 samples"):
        make("mhfa").embed(torch.zeros(2, 9000), torch.tensor([9000, 100]))
