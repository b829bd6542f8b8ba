"""What every speaker encoder promises, whichever file it is: a new one is tested here without an edit."""

from __future__ import annotations

import copy

import pytest
import torch
from network_oracles import unsettle

from audiossl import registry
from audiossl.contracts import Encoder, SpeakerEncoder
from audiossl.data.frame_grid import FrameGrid
from audiossl.nn.speaker_encoder import SpeakerNetwork, strided, validity, zero_padding

NAMES = [name for name in registry.names("encoders") if issubclass(registry.get("encoders", name), SpeakerNetwork)]


def tiny(name, seed=0):
    cls = registry.get("encoders", name)
    torch.manual_seed(seed)
    return unsettle(cls(cls.Config.tiny()))


def recordings():
    lengths = torch.tensor([16017, 11111, 7003, 400])
    waveform = 0.1 * torch.randn(4, 16017, generator=torch.Generator().manual_seed(0))
    for row, samples in enumerate(lengths):
        waveform[row, samples:] = 0
    return waveform, lengths


def test_there_are_some():
    assert {"ecapa_tdnn", "fast_resnet34", "thin_resnet34", "xvector"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_promises(name):
    encoder, (waveform, lengths) = tiny(name), recordings()
    assert isinstance(encoder, Encoder)
    assert isinstance(encoder, SpeakerEncoder)
    grid = FrameGrid.of(encoder)
    assert (grid.first, grid.stride) == (400, encoder.stride)
    output = encoder(waveform, lengths)
    assert output.lengths.tolist() == [grid.num_frames(int(n)) for n in lengths]
    assert {layer.shape for layer in output.layers} == {(4, grid.num_frames(16017), encoder.dim)}
    assert len(output.layers) == encoder.num_layers + 1
    assert encoder.embed(waveform, lengths).shape == (4, encoder.embedding_dim)


@pytest.mark.parametrize("name", NAMES)
def test_padding_changes_nothing_in_an_embedding(name):
    encoder, (waveform, lengths) = tiny(name), recordings()
    with torch.no_grad():
        together = encoder.embed(waveform, lengths)
        alone = torch.cat(
            [encoder.embed(waveform[row : row + 1, :n], lengths[row : row + 1]) for row, n in enumerate(lengths)]
        )
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
    spread = (together - together.mean(0)).abs().max()
    assert spread > 0.01 * together.abs().max()  # else anything would be equal


@pytest.mark.parametrize("name", NAMES)
def test_gradients_reach_every_parameter(name):
    encoder, (waveform, lengths) = tiny(name).train(), recordings()
    embedding = encoder.embed(waveform, lengths)
    (embedding * torch.randn_like(embedding)).sum().backward()
    faulty = [key for key, p in encoder.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    still = [key for key, p in encoder.named_parameters() if p.grad is not None and not p.grad.any()]
    assert faulty == still == []


@pytest.mark.parametrize("name", NAMES)
def test_copies_and_states_are_whole(name):
    encoder, other, (waveform, lengths) = tiny(name), tiny(name, seed=1), recordings()
    embedding = encoder.embed(waveform, lengths)
    assert not torch.equal(other.embed(waveform, lengths), embedding)
    other.load_state_dict(encoder.state_dict())
    assert torch.equal(other.embed(waveform, lengths), embedding)
    assert torch.equal(copy.deepcopy(encoder).embed(waveform, lengths), embedding)


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_autocast_differs_by_rounding(name):
    encoder, (waveform, lengths) = tiny(name), recordings()
    with torch.no_grad():
        exact = encoder.embed(waveform, lengths)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = encoder.embed(waveform, lengths).float()
    assert torch.cosine_similarity(exact, rounded).min() > 0.99


@pytest.mark.parametrize("name", NAMES)
def test_an_utterance_without_frames_is_refused(name):
    with pytest.raises(ValueError, match="utterance 1 of the batch: 399 samples"):
        tiny(name).embed(torch.zeros(3, 800), torch.tensor([800, 399, 0]))


def test_strided_and_masks():
    assert [strided(n, 4) for n in (0, 1, 4, 5)] == strided(torch.tensor([0, 1, 4, 5]), 4).tolist() == [0, 1, 1, 2]
    assert validity(torch.tensor([3, 3]), 3) is None
    valid = validity(torch.tensor([3, 1]), 3)
    assert valid.tolist() == [[True, True, True], [True, False, False]]
    x = torch.ones(2, 3)
    assert zero_padding(x, valid).tolist() == [[1, 1, 1], [1, 0, 0]]
    assert zero_padding(x, None) is x
