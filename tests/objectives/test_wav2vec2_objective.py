"""wav2vec 2.0 against its loss written out frame by frame, its negatives, what shows a collapse, and that it learns."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
import torch
from contrastive_batches import RATE, make_batch, masked_frames, nats_by_frame, objective, utterance

from audiossl.contracts import Utterance
from audiossl.data.collate import collate, to_tensors
from audiossl.encoders.fbank import FBank
from audiossl.objectives._contrastive import draw_negatives
from audiossl.objectives.wav2vec2 import Wav2Vec2

SECONDS = (0.9, 1.3)


def items():
    return [utterance(k, seconds) for k, seconds in enumerate(SECONDS)]


def test_loss_is_that_of_each_masked_frame():
    module = objective(Wav2Vec2, same_count=False, diversity_weight=0.3, penalty_weight=2.0).eval()
    batch = make_batch(module, items())
    result = module(batch)
    places = [place for row in masked_frames(batch) for place in row]
    local = module.encoder.local_features(batch["waveform"], batch["waveform_lengths"])
    top = module.encoder.contextualise(local.z, local.lengths, masked=batch["masked"]).layers[-1]
    q, codes, soft = module.quantiser(torch.stack([local.z[place] for place in places]), 1.0)
    context = module.project_context(torch.stack([top[place] for place in places]))
    nats = nats_by_frame(context, module.project_target(q), codes, batch, 0.1)
    used = sum(math.exp(-sum(p * math.log(p) for p in group)) for group in soft.mean(0).tolist())
    diversity = (8 - used) / 8
    assert result.count == len(places) > 20
    wanted = nats.sum() + len(places) * (0.3 * diversity + 2.0 * local.penalty)
    torch.testing.assert_close(result.loss_sum, wanted, rtol=1e-5, atol=1e-4)
    told = {name: float(total / count) for name, (total, count) in result.metrics.items()}
    assert told["diversity"] == pytest.approx(diversity, abs=1e-5)
    assert told["contrastive_bits"] == pytest.approx(nats.mean().item() / math.log(2), rel=1e-4)
    live = [
        sum(not torch.equal(codes[first + int(k)], codes[first + slot]) for k in batch["negatives"][u, slot])
        for u, (row, first) in enumerate(zip(masked_frames(batch), (0, len(masked_frames(batch)[0])), strict=True))
        for slot in range(len(row))
    ]
    assert told["live_negatives"] == pytest.approx(np.mean(live))


def test_negatives_are_uniform_over_the_other_masked_frames():
    counts = np.array([4, 1, 3])
    drawn = draw_negatives(counts, 6000, np.random.default_rng(0))
    assert drawn.shape == (3, 4, 6000)
    for u, count in enumerate(counts):
        for slot in range(count):
            others = [k for k in range(count) if k != slot] or [slot]  # the only one gets itself: losses leave it out
            share = np.bincount(drawn[u, slot], minlength=4) / 6000
            np.testing.assert_allclose(share, [(k in others) / len(others) for k in range(4)], atol=0.03)
    assert draw_negatives(np.array([0, 0]), 5, np.random.default_rng(0)).shape == (2, 0, 5)


def test_slots_are_places_among_the_masked_frames_of_an_utterance():
    module = objective(Wav2Vec2, same_count=False)
    batch = make_batch(module, items())
    rows = [len(row) for row in masked_frames(batch)]
    assert rows[0] != rows[1]
    assert batch["slots"].tolist() == [max(rows) * u + slot for u in (0, 1) for slot in range(rows[u])]
    assert batch["negatives"].shape == (2, max(rows), 5)


def test_gradients_reach_every_parameter():
    module = objective(Wav2Vec2).train()
    module(make_batch(module, items())).loss_sum.backward()
    without = [name for name, p in module.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert without == []
    assert sum(bool(p.grad.any()) for p in module.parameters()) > 0.9 * len(list(module.parameters()))


def test_padding_and_batch_mates_change_nothing_but_the_diversity():
    module = objective(Wav2Vec2, same_count=False, diversity_weight=0.0, penalty_weight=0.0).eval()
    views = [module.views(item, np.random.default_rng(0)) for item in items()]
    single = [module.batch_views(collate([view], ["u"]), np.random.default_rng(k)) for k, view in enumerate(views)]
    both = module.batch_views(collate(views, ["u", "v"]), np.random.default_rng(0))
    both["masked"][:] = False
    counts = [len(one["slots"]) for one in single]
    both["negatives"] = np.zeros((2, max(counts), 5), dtype=np.int64)
    for u, one in enumerate(single):
        both["masked"][u, : one["masked"].shape[1]] = one["masked"][0]
        both["negatives"][u, : counts[u]] = one["negatives"][0]
    both["masked_frames"] = np.flatnonzero(both["masked"])
    both["slots"] = np.concatenate([u * max(counts) + np.arange(count) for u, count in enumerate(counts)])
    together = module(to_tensors(both)).loss_sum
    torch.testing.assert_close(together, sum(module(to_tensors(one)).loss_sum for one in single), rtol=1e-5, atol=1e-4)


def test_temperature_cools_and_is_part_of_the_state():
    module = objective(Wav2Vec2, gumbel_decay=0.9)
    module.after_step(3)
    assert float(module.gumbel_temperature) == pytest.approx(2 * 0.9**3)
    other = objective(Wav2Vec2)
    other.load_state_dict(module.state_dict())
    assert other.gumbel_temperature == module.gumbel_temperature
    module.after_step(1000)
    assert module.gumbel_temperature == 0.5


def test_a_collapsed_codebook_shows_although_the_loss_is_perfect():
    module = objective(Wav2Vec2, penalty_weight=0.0, diversity_weight=0.0)
    with torch.no_grad():
        module.quantiser.logits.bias[::4] += 1e4
    result = module(make_batch(module, items()))
    told = {name: float(total / count) for name, (total, count) in result.metrics.items()}
    assert result.loss_sum == told["live_negatives"] == told["masked_accuracy"] == 0
    assert told["target_perplexity"] == pytest.approx(1)
    assert told["target_std"] < 1e-6


def test_views_are_light_to_send():
    module = objective(Wav2Vec2)
    assert len(pickle.dumps((module.views, module.batch_views))) < 2000


def test_a_batch_without_masked_frames_is_finite():
    module = objective(Wav2Vec2)
    batch = make_batch(module, [utterance(1, 0.03)])  # one frame, which cannot be masked
    result = module(batch)
    result.loss_sum.backward()
    assert result.loss_sum == result.count == 0
    assert all(total == count == 0 for total, count in result.metrics.values())


@pytest.mark.parametrize(
    "values",
    [{"temperature": 0.0}, {"penalty_weight": -1.0}, {"gumbel_decay": 1.1}, {"num_negatives": 0}, {"final_dim": 9}],
)
def test_configurations_that_make_no_sense_are_refused(values):
    with pytest.raises(ValueError, match=f"objective.{next(iter(values))}"):
        Wav2Vec2.Config(**values)


def tones(seed):
    """Two seconds of tones of a quarter of a second: what is masked sounds like what is beside it."""
    rng = np.random.default_rng(seed)
    pitch = np.repeat(rng.choice([200, 400, 700, 1100, 1800, 2800], 8), RATE // 4)
    waveform = np.sin(2 * np.pi * np.cumsum(pitch) / RATE) + 0.01 * rng.standard_normal(len(pitch))
    return Utterance(f"u{seed}", (0.1 * waveform).astype(np.float32), RATE)


@pytest.mark.slow
def test_it_learns_tones_and_keeps_several_codes():
    torch.manual_seed(0)
    encoder = FBank(FBank.Config.tiny())
    corpus = [tones(k) for k in range(8)]
    encoder.calibrate([(torch.from_numpy(np.stack([u.waveform for u in corpus])), torch.full((8,), 2 * RATE))])
    config = Wav2Vec2.Config(
        mask_length=3, final_dim=16, num_negatives=10, entries=8, penalty_weight=0.0, gumbel_decay=0.97
    )
    module = Wav2Vec2(encoder, config).train()
    optimizer = torch.optim.AdamW(module.parameters(), lr=3e-3)
    told = []
    for step in range(100):
        result = module(make_batch(module, corpus, seed=step))
        (result.loss_sum / result.count).backward()
        optimizer.step()
        optimizer.zero_grad()
        module.after_step(step + 1)
        told.append({name: float(total / count) for name, (total, count) in result.metrics.items()})
    chance = math.log2(11)
    assert told[0]["contrastive_bits"] > 0.8 * chance
    assert np.mean([t["contrastive_bits"] for t in told[-10:]]) < 0.6 * chance
    assert np.mean([t["target_perplexity"] for t in told[-10:]]) > 3
    assert np.mean([t["live_negatives"] for t in told[-10:]]) > 5
