from __future__ import annotations

import math
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from audiossl.contracts import Utterance
from audiossl.data.collate import collate, to_tensors
from audiossl.encoders.fbank import FBank
from audiossl.encoders.wav2vec2 import Wav2Vec2
from audiossl.nn.features import fbank, mfcc39
from audiossl.objectives.continuous_bert import ContinuousBERT

RATE = 16000
KINDS = {"log_mel": fbank, "mfcc": mfcc39}


def utterance(seed, seconds=0.6):
    rng = np.random.default_rng(seed)
    return Utterance(f"utt{seed}", 0.1 * rng.standard_normal(round(seconds * RATE)).astype(np.float32), RATE)


def objective(encoder=FBank, strides=(2, 2), frozen=False, **options):
    torch.manual_seed(0)
    config = replace(encoder.Config.tiny(), feature_grad_mult=0.0 if frozen else 1.0, strides=strides)
    return ContinuousBERT(encoder(config), replace(ContinuousBERT.Config.tiny(), crop_duration=2.0, **options))


def make_batch(module, items, seed=0):
    views = [module.views(item, np.random.default_rng([seed, k])) for k, item in enumerate(items)]
    return to_tensors(module.batch_views(collate(views, [item.id for item in items]), np.random.default_rng(0)))


def heard(features, waveform, frame, each):
    """The normalised frames of 10 ms under one frame of the encoder, from one recording without padding."""
    found = features(waveform[None], torch.tensor([len(waveform)]))[0][0]
    normal = (found - found.mean(0)) / (found.var(0, correction=0) + 1e-5).sqrt()
    return torch.cat([normal[min(frame * each + k, len(found) - 1)] for k in range(each)])


@pytest.mark.parametrize("target", ["log_mel", "mfcc", "features"])
def test_loss_is_that_of_each_masked_frame(target):
    module = objective(target=target, frozen=target == "features", clamp=3.0).eval()
    items = [utterance(1, 0.9), utterance(2, 0.43)]
    batch = make_batch(module, items)
    local = module.encoder.local_features(batch["waveform"], batch["waveform_lengths"])
    top = module.encoder.contextualise(local.z, local.lengths, masked=batch["masked"]).layers[-1]
    loss, count = 0.0, 0
    for b, item in enumerate(items):
        view = module.views(item, np.random.default_rng([0, b]))
        frames = np.flatnonzero(view["masked"])
        assert len(frames) > 2
        wanted = [
            local.z[b, t] if target == "features" else heard(KINDS[target], torch.from_numpy(item.waveform), t, 4)
            for t in frames
        ]
        wanted = [module.project_target(y) for y in wanted]
        for m, t in enumerate(frames):
            c = module.project_context(top[b, t])

            def score(y, c=c):
                return 3.0 * torch.tanh(c @ y / math.sqrt(8) / 3.0)

            others = [score(wanted[n]) for n in view["negatives"][m]]
            assert m not in view["negatives"][m]
            loss += torch.logsumexp(torch.stack([score(wanted[m]), *others]), 0) - score(wanted[m])
            count += 1
    result = module(batch)
    assert result.count == count
    torch.testing.assert_close(result.loss_sum, loss, rtol=1e-4, atol=1e-4)
    assert result.metrics["live_negatives"][0] == 4 * count


def test_views_are_light_and_fit_the_encoder():
    module = objective()
    view = module.views(utterance(1, 3.0), np.random.default_rng(0))
    assert view["waveform"].shape == (2 * RATE,)
    assert view["masked"].shape == (module.encoder.num_frames(2 * RATE),)
    assert len(pickle.dumps((module.views, module.batch_views))) < 2000


def test_a_frame_that_is_masked_alone_has_no_negatives():
    module = objective(mask_prob=0.0, mask_length=1, mask_std=0.0)
    result = module(make_batch(module, [utterance(1), utterance(2)]))
    result.loss_sum.backward()
    assert result.count == 2
    assert result.loss_sum == 0
    assert result.metrics["live_negatives"][0] == 0


def test_features_stand_still_while_the_model_learns():
    module = objective(target="features", frozen=True).train()
    batch = make_batch(module, [utterance(1), utterance(2)])
    optimizer = torch.optim.AdamW(p for p in module.parameters() if p.requires_grad)
    before = module.encoder.local_features(batch["waveform"], batch["waveform_lengths"]).z
    for _ in range(2):
        optimizer.zero_grad()
        module(batch).loss_sum.backward()
        optimizer.step()
    assert torch.equal(module.encoder.local_features(batch["waveform"], batch["waveform_lengths"]).z, before)


@pytest.mark.parametrize("target", ["log_mel", "mfcc"])
@pytest.mark.parametrize("mask_input", [False, True])
def test_what_is_masked_may_be_kept_from_visible_frames(mask_input, target, monkeypatch):
    module = objective(target=target, mask_input=mask_input).eval()
    given = []
    module.encoder.transformer.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    batch = make_batch(module, [utterance(1), utterance(2)])
    inputs, frames = module.encoder.frontend.features(batch["waveform"], batch["waveform_lengths"])
    under = batch["masked"].repeat_interleave(4, 1)[:, : inputs.shape[1]]
    for change in (0.0, 3.0):
        values = inputs + change * under.unsqueeze(-1)
        monkeypatch.setattr(module.encoder.frontend, "features", lambda *_, values=values: (values, frames))
        module(batch)
    visible = ~batch["masked"]
    assert torch.equal(given[0][visible], given[1][visible]) is mask_input


def test_moving_features_are_no_targets():
    with pytest.raises(ValueError, match="objective.target: 'features' move while encoder.feature_grad_mult is 1"):
        objective(target="features")


def test_inputs_that_cannot_be_hidden():
    with pytest.raises(ValueError, match="objective.mask_input: true, but Wav2Vec2 as configured has no filterbank"):
        ContinuousBERT(Wav2Vec2(Wav2Vec2.Config.tiny()), ContinuousBERT.Config(mask_input=True))
    with pytest.raises(ValueError, match="objective.mask_input: true would hide what target = 'features' is made of"):
        objective(target="features", frozen=True, mask_input=True)


@pytest.mark.parametrize("options", [{"num_negatives": 0}, {"clamp": 0.0}, {"final_dim": 0}])
def test_options_that_make_no_sense(options):
    with pytest.raises(ValueError, match=f"objective.{next(iter(options))}: 0"):
        replace(ContinuousBERT.Config.tiny(), **options)
