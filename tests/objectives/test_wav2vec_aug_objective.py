"""Wav2Vec-Aug: what the context and the targets hear, and that without augmentation it is wav2vec 2.0."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from contrastive_batches import RATE, Augmented, make_batch, objective, utterance

from audiossl.contracts import Utterance
from audiossl.objectives.wav2vec2 import Wav2Vec2
from audiossl.objectives.wav2vec_aug import Wav2VecAug

LINEAR = {"context_hidden_layers": 0, "target_hidden_layers": 0}


def told(module, batch):
    torch.manual_seed(0)
    return module(batch)


@pytest.mark.parametrize("clean_targets", [True, False])
def test_without_augmentation_it_is_wav2vec2(clean_targets):
    plain, ours = objective(Wav2Vec2).eval(), objective(Wav2VecAug, clean_targets=clean_targets, **LINEAR).eval()
    ours.load_state_dict(plain.state_dict())
    corpus = [utterance(1), utterance(2, 1.2)]
    expected, result = told(plain, make_batch(plain, corpus)), told(ours, make_batch(ours, corpus))
    torch.testing.assert_close(result.loss_sum, expected.loss_sum)
    assert result.count == expected.count


def test_context_is_augmented_and_targets_are_clean():
    module = objective(Wav2VecAug, crop_duration=0.5)
    (item,) = items = [utterance(1, kind=Augmented)]
    batch = make_batch(module, items)
    start = next(s for s in range(len(item.waveform)) if batch["augmented"][0, 0] == item.waveform[s])
    np.testing.assert_array_equal(batch["augmented"][0], item.waveform[start : start + RATE // 2])
    np.testing.assert_array_equal(batch["waveform"][0], item.clean.waveform[start : start + RATE // 2])
    heard = {}
    module.quantiser.register_forward_hook(lambda _, inputs, __: heard.update(targets=inputs[0]))
    module.encoder.projection.register_forward_hook(lambda _, inputs, __: heard.update(context=inputs[0]))
    module.eval()(batch)
    for which, name in (("context", "augmented"), ("targets", "waveform")):
        z = module.encoder.local_features(batch[name], batch["waveform_lengths"]).z
        wanted = z if which == "context" else z.flatten(0, 1)[batch["masked_frames"]]
        torch.testing.assert_close(heard[which], wanted)


def test_augmented_targets_hear_what_the_context_does():
    """Of the augmented recording there is but one view; nothing clean is made, whose time could differ."""
    module = objective(Wav2VecAug, clean_targets=False, crop_duration=4.0).eval()
    (item,) = items = [utterance(1, kind=Augmented)]
    batch = make_batch(module, items)
    assert "augmented" not in batch
    np.testing.assert_array_equal(batch["waveform"][0], item.waveform)
    heard = {}
    module.quantiser.register_forward_hook(lambda _, inputs, __: heard.update(targets=inputs[0]))
    module.encoder.projection.register_forward_hook(lambda _, inputs, __: heard.update(context=inputs[0]))
    module(batch)
    torch.testing.assert_close(heard["targets"], heard["context"].flatten(0, 1)[batch["masked_frames"]])


def test_gradients_reach_every_parameter_of_the_deeper_heads():
    module = objective(Wav2VecAug, quantiser_hidden_layers=1, context_hidden_layers=2).train()
    assert [type(layer).__name__ for layer in module.project_context] == ["Linear", "GELU"] * 2 + ["Linear"]
    module(make_batch(module, [utterance(1, kind=Augmented), utterance(2, kind=Augmented)])).loss_sum.backward()
    assert [name for name, p in module.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


class Faster(Augmented):
    @property
    def clean(self):
        return Utterance(self.id, np.repeat(self.waveform, 2), RATE)


def test_augmentation_that_changes_the_time_is_refused():
    with pytest.raises(ValueError, match=r"utt1: 28800 samples are 14400 when augmented.*speed_probability to 0"):
        make_batch(objective(Wav2VecAug), [utterance(1, kind=Faster)])


def test_augmentation_may_change_the_time_of_targets_that_hear_it():
    module = objective(Wav2VecAug, clean_targets=False).eval()
    assert module(make_batch(module, [utterance(1, kind=Faster)])).loss_sum.isfinite()
