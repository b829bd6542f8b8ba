"""CPC's objective against a GRU and a softmax written out, and which parameters it trains."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from two_crops import SAMPLES, encoder, make, mean_of, noise

from audiossl.config import to_table, write_toml
from audiossl.encoders.fast_resnet34 import FastResNet34
from audiossl.encoders.mhfa_speaker import MHFASpeaker
from audiossl.encoders.xvector import XVector
from audiossl.interop.checkpoint import save_checkpoint
from audiossl.interop.encoder import copy_weights, load_encoder
from audiossl.objectives.cpc import CPC
from audiossl.verification.extract import open_embedder


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def states(gru, frames):
    """Cho et al. (2014) as torch writes it: reset gate inside the candidate."""
    weights = {name: value.detach().double().numpy() for name, value in gru.named_parameters()}
    state = np.zeros(gru.hidden_size)
    for frame in frames:
        given = np.split(weights["weight_ih_l0"] @ frame + weights["bias_ih_l0"], 3)
        kept = np.split(weights["weight_hh_l0"] @ state + weights["bias_hh_l0"], 3)
        reset, update = sigmoid(given[0] + kept[0]), sigmoid(given[1] + kept[1])
        state = (1 - update) * np.tanh(given[2] + reset * kept[2]) + update * state
        yield state


def frames_of(module, waveform):
    with torch.no_grad():
        return module.encoder(waveform[None], torch.tensor([SAMPLES])).layers[-1][0].double().numpy()


def by_loops(module, batch, steps, temperature):
    """Mean loss and share of right picks; the last `steps` frames of crop 2, from crop 1 without its last."""
    pairs = [(frames_of(module, row[:SAMPLES]), frames_of(module, row[SAMPLES:])) for row in batch["waveform"]]
    losses, right = [], []
    for n, (context, _) in enumerate(pairs):
        *_, state = states(module.context, context[:-steps])
        for k in range(steps):
            linear = module.predictors[k]
            predicted = linear.weight.detach().double().numpy() @ state + linear.bias.detach().double().numpy()
            scores = np.array([predicted @ other[len(other) - steps + k] for _, other in pairs])
            logits = scores / temperature
            losses.append(np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[n])
            right.append(scores.argmax() == n)
    return np.mean(losses), np.mean(right)


def test_forward_equals_loops():
    module, batch = make(CPC, steps=3, context_dim=5, temperature=0.7), noise(5)
    loss, accuracy = by_loops(module, batch, 3, 0.7)
    output = module(batch)
    assert output.loss_sum.item() == pytest.approx(5 * loss, rel=1e-4)
    assert output.count == 5
    assert mean_of(output, "accuracy") == pytest.approx(accuracy)


def test_the_future_of_the_context_is_not_seen():
    """Neither the last frames of crop 1 nor the first ones of crop 2 enter."""
    module = make(CPC, steps=8)
    frames = torch.randn(2, 4, 20, module.encoder.dim)
    module._frames = lambda pieces: frames
    before = module(noise(4)).loss_sum
    frames[0, :, -8:] += 1
    frames[1, :, :-8] += 1
    assert module(noise(4)).loss_sum == before
    frames[0, :, -9] += 1
    assert module(noise(4)).loss_sum != before


def test_what_lies_above_the_frames_is_frozen():
    config = FastResNet34.Config.tiny()
    torch.manual_seed(0)
    network = FastResNet34(config).train()
    norms = {name: value.clone() for name, value in network.named_buffers()}
    module = CPC(network, CPC.Config(crop_duration=0.5))
    frozen = {name.split(".")[1] for name, p in network.named_parameters() if not p.requires_grad}
    assert frozen == {"pooling", "embedding"}
    assert network.training
    assert all(torch.equal(value, norms[name]) for name, value in network.named_buffers())
    module(noise_of(0.5)).loss_sum.backward()
    assert all((p.grad is not None) == p.requires_grad for p in module.parameters())


@pytest.fixture
def experiment(tmp_path):
    module = make(CPC, steps=3, context_dim=5)
    inside = {"name": "xvector", **to_table(XVector.Config.tiny())}
    write_toml(tmp_path / "config.toml", {"encoder": inside, "objective": {"name": "cpc", **to_table(module.config)}})
    save_checkpoint(tmp_path, 1, module.state_dict(), {}, keep=1)
    return tmp_path, module


def test_the_embedding_of_an_experiment_is_the_mean_state(experiment):
    """Of a batch with padding, against the recurrence written out."""
    folder, module = experiment
    embedder = open_embedder(str(folder))
    waveform, lengths = noise(2)["waveform"][:, :SAMPLES], torch.tensor([SAMPLES, 3333])
    found = embedder.embed(waveform.masked_fill(torch.arange(SAMPLES) >= lengths[:, None], 0.0), lengths)
    assert (embedder.what, embedder.dim) == ("embeddings", 5)
    for row, length, embedding in zip(waveform, lengths, found, strict=True):
        with torch.no_grad():
            frames = module.encoder(row[None, :length], length[None]).layers[-1][0].double().numpy()
        assert embedding.numpy() == pytest.approx(np.mean(list(states(module.context, frames)), axis=0), abs=1e-5)


def test_random_weights_have_the_same_shape_and_others_start_from_the_encoder_alone(experiment):
    folder, module = experiment
    trained, drawn = load_encoder(folder), load_encoder(f"random:{folder}")
    assert drawn.state_dict().keys() == trained.state_dict().keys()
    assert not torch.equal(drawn.context.weight_hh_l0, trained.context.weight_hh_l0)
    with pytest.raises(ValueError, match="0 samples give no frame"):
        trained.embed(torch.zeros(1, SAMPLES), torch.tensor([0]))
    other = XVector(XVector.Config.tiny())
    copy_weights(folder, other)
    assert all(torch.equal(value, module.encoder.state_dict()[name]) for name, value in other.state_dict().items())


def noise_of(seconds):
    waveform = torch.randn(3, 2 * round(16000 * seconds), generator=torch.Generator().manual_seed(0))
    return {"waveform": waveform, "waveform_lengths": torch.full((3,), waveform.shape[1])}


def test_settings_that_do_not_fit():
    with pytest.raises(
        ValueError, match="steps: 28 of the 28 frames of a crop leave none as context; lower it or raise"
    ):
        CPC(encoder(), CPC.Config(crop_duration=0.3, steps=28))
    with pytest.raises(ValueError, match="steps 0 and context_dim 256 must be at least 1"):
        CPC.Config(steps=0)


def test_an_encoder_whose_frames_are_frozen_is_refused():
    frozen = MHFASpeaker(replace(MHFASpeaker.Config.tiny(), adapter={"name": "frozen"}))
    with pytest.raises(
        ValueError, match=r"^encoder.adapter: freezes all that the frames depend on, .* another objective$"
    ):
        CPC(frozen, CPC.Config(crop_duration=0.3, steps=1))
