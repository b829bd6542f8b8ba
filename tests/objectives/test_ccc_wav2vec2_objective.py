"""ccc-wav2vec 2.0 against its three losses written out frame by frame, and its limit, wav2vec 2.0."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from contrastive_batches import Augmented, make_batch, nats_by_frame, objective, utterance

from audiossl.objectives.ccc_wav2vec2 import CCCWav2Vec2
from audiossl.objectives.wav2vec2 import Wav2Vec2


def corpus(kind=Augmented):
    return [utterance(1, 0.9, kind), utterance(2, 1.2, kind)]


def test_without_scale_and_crossing_it_is_wav2vec2():
    plain = objective(Wav2Vec2).eval()
    ours = objective(CCCWav2Vec2, scale=1.0, target_weight=0.0, context_weight=0.0).eval()
    ours.load_state_dict(plain.state_dict())
    batch = make_batch(ours, corpus())
    expected, result = plain(batch), ours(batch)
    torch.testing.assert_close(result.loss_sum, expected.loss_sum)
    assert result.count == expected.count
    for name, (total, count) in expected.metrics.items():
        torch.testing.assert_close(result.metrics[name], (total, count))


def test_loss_is_the_weighted_sum_of_three():
    options = {"scale": 1.0, "same_count": False, "diversity_weight": 0.0, "penalty_weight": 0.0}
    weights = {"clean_weight": 1.0, "target_weight": 0.5, "context_weight": 0.25}
    module = objective(CCCWav2Vec2, **options, **weights).eval()
    batch = make_batch(module, corpus())
    context, targets, codes = {}, {}, {}
    for view in ("waveform", "augmented"):
        local = module.encoder.local_features(batch[view], batch["waveform_lengths"])
        top = module.encoder.contextualise(local.z, local.lengths, masked=batch["masked"]).layers[-1]
        context[view] = module.project_context(top[batch["masked"]])
        q, codes[view], _ = module.quantiser(local.z[batch["masked"]], 1.0)
        targets[view] = module.project_target(q)
    terms = [("waveform", "waveform", 1.0), ("waveform", "augmented", 0.5), ("augmented", "waveform", 0.25)]
    wanted = 0.0
    for x, y, weight in terms:
        negatives = "negatives" if y == "waveform" else "augmented_negatives"
        wanted += weight * nats_by_frame(context[x], targets[y], codes[y], batch, 0.1, negatives).sum()
    torch.testing.assert_close(module(batch).loss_sum, wanted, rtol=1e-5, atol=1e-4)


def test_clusters_are_those_of_both_views_targets_by_cosine():
    module = objective(CCCWav2Vec2, frames_per_cluster=4).eval()
    batch = make_batch(module, corpus())
    slots = batch["negatives"].shape[1]
    assert len(batch["first"]) == max(2, slots // 4)
    assert len(set(batch["first"].tolist())) == len(batch["first"])
    assert batch["first"].max() < 2 * len(batch["slots"])
    assert not torch.equal(batch["negatives"], batch["augmented_negatives"])
    directions = torch.tensor([[1.0, 0.1], [9.0, 1.0], [0.1, 1.0], [0.2, 3.0], [5.0, 0.0]])
    found = module._clusters(directions, torch.tensor([1, 2]))
    assert found.tolist() == [0, 0, 1, 1, 0]


def test_scaling_changes_the_loss_in_every_batch():
    losses = {}
    for mode in ("paper", "positive_only", "additive"):
        module = objective(CCCWav2Vec2, scale=0.3, scale_mode=mode, frames_per_cluster=100).eval()  # 2 clusters
        losses[mode] = module(make_batch(module, corpus())).loss_sum.item()
    module = objective(CCCWav2Vec2, scale=1.0).eval()
    losses["none"] = module(make_batch(module, corpus())).loss_sum.item()
    assert len(set(losses.values())) == 4
    assert losses["additive"] < losses["none"]
    assert losses["positive_only"] < losses["none"]


def test_both_views_go_through_the_blocks_as_one_batch():
    module = objective(CCCWav2Vec2).train()
    sizes = []
    module.encoder.projection.register_forward_hook(lambda _, __, output: sizes.append(len(output)))
    module(make_batch(module, corpus())).loss_sum.backward()
    assert sizes == [4]
    assert [name for name, p in module.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


def test_penalty_and_diversity_are_the_clean_view_s():
    module = objective(CCCWav2Vec2).eval()
    batch = make_batch(module, corpus())
    clean = module.encoder.local_features(batch["waveform"], batch["waveform_lengths"]).penalty
    total, count = module(batch).metrics["penalty"]
    torch.testing.assert_close(total / count, clean)


def test_a_batch_without_masked_frames_is_finite():
    module = objective(CCCWav2Vec2)
    result = module(make_batch(module, [utterance(1, 0.03, Augmented)]))
    result.loss_sum.backward()
    assert result.loss_sum == result.count == 0


@pytest.mark.parametrize(
    "values",
    [
        {"scale": 0.0},
        {"clean_weight": 0.0, "target_weight": 0.0, "context_weight": 0.0},
        {"target_weight": -1.0},
        {"frames_per_cluster": 0},
        {"cluster_iterations": 0},
    ],
)
def test_configurations_that_make_no_sense_are_refused(values):
    with pytest.raises(ValueError, match="objective"):
        CCCWav2Vec2.Config(**values)


def test_the_same_seed_gives_the_same_batch():
    module = objective(CCCWav2Vec2)
    ones, others = make_batch(module, corpus()), make_batch(module, corpus())
    for name in ("first", "negatives", "augmented_negatives", "masked", "waveform", "augmented"):
        np.testing.assert_array_equal(ones[name], others[name])
