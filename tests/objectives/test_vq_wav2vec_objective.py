from __future__ import annotations

import math
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import audiossl.data.manifest
from audiossl.config import find_recipe, load_toml
from audiossl.contracts import Utterance
from audiossl.data.audio import write_audio
from audiossl.data.augment import AugmentConfig
from audiossl.data.collate import collate, to_tensors
from audiossl.data.loader import LoaderConfig, make_loader
from audiossl.data.manifest import Manifest
from audiossl.encoders.vq_wav2vec import VQWav2Vec as Encoder
from audiossl.interop.encoder import build_encoder
from audiossl.objectives.vq_wav2vec import VQWav2Vec, live_negatives
from audiossl.train.distributed import World
from audiossl.train.loop import TrainConfig, train
from audiossl.train.optim import OptimConfig

RATE = 16000


def utterance(seed, seconds=0.6):
    rng = np.random.default_rng(seed)
    return Utterance(f"utt{seed}", 0.1 * rng.standard_normal(round(seconds * RATE)).astype(np.float32), RATE)


def objective(quantiser="gumbel", **options):
    torch.manual_seed(0)
    encoder = Encoder(replace(Encoder.Config.tiny(), quantiser=quantiser))
    return VQWav2Vec(encoder, replace(VQWav2Vec.Config.tiny(), **options))


def make_batch(module, items):
    views = [module.views(item, np.random.default_rng(k)) for k, item in enumerate(items)]
    return to_tensors(module.batch_views(collate(views, [item.id for item in items]), np.random.default_rng(0)))


@pytest.mark.parametrize(("quantiser", "weight"), [("gumbel", 1.0), ("kmeans", 1.0), ("kmeans", 0.5)])
def test_loss_is_that_of_each_step_of_each_frame(quantiser, weight):
    module = objective(quantiser, codebook_weight=weight, crop_duration=1.0).double().eval().requires_grad_(False)
    batch = make_batch(module, [utterance(1, 0.3), utterance(2, 0.2)])
    batch["waveform"] = batch["waveform"].double()
    result = module(batch)
    z, lengths = module.encoder.features(batch["waveform"], batch["waveform_lengths"])
    found = module.encoder.quantise(z, lengths)
    context = module.encoder.aggregate(found.q, lengths)
    weights, biases = module.predictors.weight.view(3, 16, 16), module.predictors.bias.view(3, 16)
    loss, count = 0.0, 0
    for b, frames in enumerate(lengths.tolist()):
        decisions = foreseen = 0
        for t in range(frames):
            for k in range(3):
                i = t + 3 + k  # a frame hears 465 samples, not quite 3 frames of 160
                if i >= frames:
                    continue
                h = weights[k] @ context[b, t] + biases[k]
                loss += F.softplus(-h @ found.q[b, i], threshold=100)
                for n in batch["negatives"][b, i]:
                    assert n != i
                    loss += F.softplus(h @ found.q[b, n], threshold=100)
                decisions, foreseen = decisions + 3, foreseen + 1
        loss += weight * float(found.loss[b]) * foreseen
        count += foreseen
    assert result.count == count > 50
    assert float(result.loss_sum) == pytest.approx(float(loss), rel=1e-9)


@pytest.mark.parametrize("quantiser", ["gumbel", "kmeans"])
def test_gradients_reach_every_parameter(quantiser):
    module = objective(quantiser).train()
    module(make_batch(module, [utterance(1), utterance(2)])).loss_sum.backward()
    assert [name for name, p in module.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
    assert sum(bool(p.grad.any()) for p in module.parameters()) == len(list(module.parameters()))


def test_noise_cools_and_the_temperature_is_saved():
    module = objective(gumbel_decay=0.9)
    module.after_step(3)
    assert float(module.temperature) == pytest.approx(2 * 0.9**3)
    other = objective(gumbel_decay=0.9)
    other.load_state_dict(module.state_dict())
    assert other.temperature == module.temperature
    module.after_step(100)
    assert float(module.temperature) == 0.5


def test_views_crop_and_draw_other_frames():
    module = objective(crop_duration=0.5, num_negatives=40)
    item = utterance(3, 2.0)
    view = module.views(item, np.random.default_rng(5))
    frames = module.encoder.num_frames(8000)
    assert view["waveform"].shape == (8000,)
    assert view["negatives"].shape == (frames, 40)
    for t in range(frames):
        assert t not in view["negatives"][t]
    assert set(view["negatives"].flat) == set(range(frames))
    assert len(pickle.dumps((module.views, module.batch_views))) < 2000


@pytest.fixture
def read(tmp_path, monkeypatch):
    """A function that gives the batch of one recording, from disk, and how many samples were decoded at a time."""
    decoded, whole = [], audiossl.data.manifest.read_audio

    def counted(*args, **options):
        decoded.append(whole(*args, **options))
        return decoded[-1]

    def batch(waveform, **settings):
        write_audio(tmp_path / "a.wav", waveform, RATE)
        (tmp_path / "wav.scp").write_text(f"a {tmp_path / 'a.wav'}\n")
        config, module = LoaderConfig(num_workers=0, **settings), objective(crop_duration=0.5)
        return next(make_loader(Manifest.open(tmp_path), module, config, sample_rate=RATE, seed=3, positions=[0]))

    monkeypatch.setattr(audiossl.data.manifest, "read_audio", counted)
    return batch, lambda: [len(each) for each in decoded]


def test_a_crop_decodes_no_more_than_the_crop(read):
    batch, decoded = read
    waveform = utterance(3, 10.0).waveform
    made = batch(waveform)
    assert sum(decoded()) <= 1.01 * 8000
    start = int(np.random.default_rng([3, 0, 0]).integers(0, 10 * RATE - 8000 + 1))
    np.testing.assert_allclose(made["waveform"][0], waveform[start : start + 8000], atol=1e-4)
    assert made["negatives"].shape[1] == objective().encoder.num_frames(8000)


def test_what_is_augmented_as_a_whole_is_decoded_once(read):
    batch, decoded = read
    made = batch(utterance(3, 10.0).waveform, augment=AugmentConfig(gain_probability=1.0))
    assert made["waveform"].shape == (1, 8000)
    assert decoded() == [10 * RATE]


def test_a_short_utterance_draws_its_negatives_alone():
    view = objective(num_negatives=4).views(utterance(2, 0.3), np.random.default_rng(5))
    frames = len(view["negatives"])
    drawn = np.random.default_rng(5).integers(0, frames - 1, (frames, 4))
    np.testing.assert_array_equal(view["negatives"], drawn + (drawn >= np.arange(frames)[:, None]))


def test_a_silent_piece_is_kept(read):
    waveform = np.zeros(10 * RATE, dtype=np.float32)
    waveform[0] = 0.5
    assert read[0](waveform)["utt_ids"] == ["a"]


def test_an_utterance_of_too_few_frames_is_refused():
    module = objective()
    assert len(module.views(utterance(1, (465 + 3 * 160) / RATE), np.random.default_rng(0))["negatives"]) == 4
    with pytest.raises(ValueError, match="944 samples give 3 frames, which foresee nothing 3 frames ahead"):
        module.views(utterance(1, (464 + 3 * 160) / RATE), np.random.default_rng(0))


@pytest.mark.parametrize(
    ("quantiser", "options", "message"),
    [
        ("gumbel", {"codebook_weight": 2.0}, "objective.codebook_weight: encoder.quantiser = 'gumbel' does not use it"),
        ("kmeans", {"gumbel_end": 0.4}, "objective.gumbel_end: encoder.quantiser = 'kmeans'"),
        ("gumbel", {"steps": 0}, "objective.steps: 0 is not positive"),
        ("gumbel", {"hold_steps": -1}, "objective.hold_steps: -1 is negative"),
        ("gumbel", {"gumbel_end": math.nan}, "objective.gumbel_end: nan is not positive"),
        ("gumbel", {"gumbel_decay": 1.1}, "objective.gumbel_decay: 1.1 is not above 0 and at most 1"),
        ("kmeans", {"codebook_weight": math.nan}, "objective.codebook_weight: nan is negative, or no number"),
    ],
)
def test_options_that_make_no_sense(quantiser, options, message):
    with pytest.raises(ValueError, match=message):
        objective(quantiser, **options)


@pytest.mark.parametrize("quantiser", ["gumbel", "kmeans"])
def test_features_and_codes_stand_still_at_first(quantiser):
    module, free = (objective(quantiser, hold_steps=steps).train() for steps in (2, 0))
    assert not module.predictors.weight.any()
    module.predictors.load_state_dict(free.predictors.state_dict())
    batch = make_batch(module, [utterance(1), utterance(2)])

    def moved():
        module.zero_grad()
        torch.manual_seed(0)
        module(batch).loss_sum.backward()
        return {
            name.split(".")[1] if name.startswith("encoder") else name
            for name, p in module.named_parameters()
            if p.grad.any()
        }

    late = {"aggregator", "predictors.weight", "predictors.bias"}
    assert moved() == late
    module.after_step(1)
    assert moved() == late
    resumed = objective(quantiser, hold_steps=2)
    resumed.load_state_dict(module.state_dict())
    assert resumed.moving == 0
    module.after_step(2)
    assert moved() == late | {"convs", "quantiser"}
    torch.manual_seed(0)
    loss = free(batch).loss_sum
    module.temperature.copy_(free.temperature)
    torch.manual_seed(0)
    torch.testing.assert_close(module(batch).loss_sum, loss, rtol=0, atol=0)


def sounds(rng, seconds=2.4):
    """Noises of three levels and two colours for 190 to 400 ms each: what comes next is most often what is there."""
    pieces, total = [], round(seconds * RATE)
    while sum(map(len, pieces)) < total:
        noise, level = rng.standard_normal(rng.integers(3000, 6400)), 10.0 ** -rng.integers(1, 4)
        pieces.append(level * (np.convolve(noise, np.ones(8) / 3, "same") if rng.integers(2) else noise))
    return np.concatenate(pieces)[:total].astype(np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("quantiser", ["gumbel", "kmeans"])
def test_nano_recipe_learns_and_keeps_its_codes(quantiser):
    tables = load_toml(find_recipe(f"vq_wav2vec_{quantiser}_nano"))
    table = {name: value for name, value in tables["objective"].items() if name != "name"} | {"hold_steps": 40}
    torch.manual_seed(0)
    module = VQWav2Vec(build_encoder(tables["encoder"]), VQWav2Vec.Config(**table)).train()
    rng = np.random.default_rng(0)

    def drawn():
        return make_batch(module, [Utterance(str(k), sounds(rng), RATE) for k in range(2)])

    first = [drawn() for _ in range(10)]
    module.encoder.calibrate((batch["waveform"], batch["waveform_lengths"]) for batch in first)
    optimizer = torch.optim.AdamW(module.parameters(), lr=tables["optim"]["peak_lr"], betas=(0.9, 0.98), weight_decay=0)
    told = []
    for step in range(1, 91):
        output = module(drawn())
        (output.loss_sum / output.count).backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), tables["train"]["clip_norm"])
        optimizer.step()
        optimizer.zero_grad()
        module.after_step(step)
        told.append({name: float(total / count) for name, (total, count) in output.metrics.items()})
    bits = [row["decision_bits"] for row in told]
    chance = -sum(p * np.log2(p) for p in (1 / 11, 10 / 11))
    assert np.mean(bits[-20:]) < min(np.mean(bits[:10]), chance)
    assert np.mean([row["code_perplexity"] for row in told[-20:]]) > 2.5


def test_negatives_live_where_a_code_differs():
    rng = np.random.default_rng(0)
    codes, drawn = rng.integers(0, 2, (2, 7, 2)), rng.integers(0, 7, (2, 7, 4))
    drawn[1, 5:] = -1  # padding
    found = live_negatives(torch.from_numpy(codes), torch.from_numpy(drawn))
    for u, t in [(0, t) for t in range(7)] + [(1, t) for t in range(5)]:
        assert found[u, t] == sum((codes[u, n] != codes[u, t]).any() for n in drawn[u, t])


@pytest.mark.parametrize("quantiser", ["gumbel", "kmeans"])
def test_a_dead_quantiser_leaves_no_negative_alive(quantiser):
    module = objective(quantiser, num_negatives=10).eval()
    batch = make_batch(module, [utterance(1), utterance(2)])
    live, count = module(batch).metrics["live_negatives"]
    assert 1 < live / count <= 10
    with torch.no_grad():
        for parameter in module.encoder.quantiser.parameters():
            parameter.zero_()
    assert module(batch).metrics["live_negatives"][0] == 0


def test_the_loop_logs_the_gradient_of_its_convolutions(tmp_path):
    module = objective()
    batch = make_batch(module, [utterance(1), utterance(2)])
    last = train(
        module, lambda positions: (dict(batch) for _ in positions), experiment=tmp_path,
        config=TrainConfig(max_steps=1, precision="fp32", tensorboard=False), optim=OptimConfig(),
        world=World(0, 1, torch.device("cpu")), sample_rate=RATE,
    )  # fmt: skip
    assert 0 < last["frontend_grad_norm"] < last["grad_norm"]
