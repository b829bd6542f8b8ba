import dataclasses
import math
import pickle
import re

import numpy as np
import pytest
import torch

from audiossl.contracts import Utterance
from audiossl.data.audio import write_audio
from audiossl.data.collate import collate, to_tensors
from audiossl.encoders.wav2vec2 import Wav2Vec2
from audiossl.nn.gumbel_quantiser import GumbelQuantiser
from audiossl.objectives._units import UnitViews
from audiossl.objectives.hubert import HuBERT
from audiossl.objectives.unispeech_sat import UniSpeechSAT, _others
from audiossl.objectives.wav2vec2 import Wav2Vec2 as Contrastive

RATE = 16000
BASE = {"labels": ("a",), "crop_duration": 1.0, "mask_length": 3, "final_dim": 8, "speaker_layer": 1, "candidates": 6}


def utterance(seed, seconds=1.0, codes=7):
    rng = np.random.default_rng(seed)
    samples = round(seconds * RATE)
    labels = rng.integers(0, codes, 1 + (samples - 400) // 320)
    return Utterance(f"utt{seed}", rng.standard_normal(samples).astype(np.float32), RATE, {"units/a": labels})


def objective(pre_norm=False, normalise=False, **options):
    torch.manual_seed(0)
    config = dataclasses.replace(Wav2Vec2.Config.tiny(), pre_norm=pre_norm, normalise_waveform=normalise)
    return UniSpeechSAT(Wav2Vec2(config), UniSpeechSAT.Config(**(BASE | options)), (7,))


def collated(module, items):
    views = [module.views(item, np.random.default_rng(k)) for k, item in enumerate(items)]
    return collate(views, [item.id for item in items])


def make_batch(module, items, seed=0):
    return to_tensors(module.batch_views(collated(module, items), np.random.default_rng(seed)))


@torch.no_grad()
def speaker_loss(module, batch):
    """Pair by pair, from the output of the inner layer."""
    local = module.encoder.local_features(batch["waveform"], batch["waveform_lengths"])
    inner = module.encoder.contextualise(local.z, local.lengths, masked=batch["masked"]).layers[1]
    places = [(int(p) // inner.shape[1], int(p) % inner.shape[1]) for p in batch["masked_frames"]]
    frames = [module.speaker_norm(inner[b, t]) for b, t in places]
    anchors = [module.speaker_projection(frame) for frame in frames]
    targets, diversity = anchors, 0.0
    if module.quantiser is not None:
        targets, shares = [], 0.0
        for frame in frames:
            logits = module.quantiser.logits(frame).view(2, -1)
            entries = [module.quantiser.codebook[g, int(logits[g].argmax())] for g in (0, 1)]
            targets.append(module.target_projection(torch.cat(entries)))
            shares = shares + logits.softmax(dim=1) / len(frames)
        used = sum(float(torch.exp(-(p * p.log()).sum())) for p in shares)
        diversity = 1 - used / shares.numel()
    total = 0.0
    for i, (utterance_of_i, _) in enumerate(places):
        others = [i, *batch["candidates"][i].tolist()]
        for j in others:
            probability = torch.sigmoid(torch.cosine_similarity(anchors[i], targets[j], dim=0) / 0.1)
            same = places[j][0] == utterance_of_i
            total -= float(torch.log(probability if same else 1 - probability)) / len(others)
    return total, len(places) * diversity


@pytest.mark.parametrize("pre_norm", [False, True])
@pytest.mark.parametrize("quantised", [False, True])
def test_loss_is_huberts_and_that_of_every_pair(quantised, pre_norm):
    module = objective(pre_norm, quantised=quantised, entries=5, speaker_weight=0.7, diversity_weight=0.3).eval()
    assert isinstance(module.speaker_norm, torch.nn.LayerNorm) is pre_norm
    batch = make_batch(module, [utterance(k, 1.0 - 0.1 * k) for k in range(4)])
    with torch.no_grad():
        found = module(batch)
    hubert = HuBERT(
        module.encoder,
        HuBERT.Config(labels=("a",), crop_duration=1.0, mask_length=3, final_dim=8, label_rate=50.0),
        (7,),
    ).eval()
    hubert.projections, hubert.codewords = module.projections, module.codewords
    speaker, diversity = speaker_loss(module, batch)
    expected = float(hubert(batch).loss_sum.detach()) + 0.7 * speaker + 0.3 * diversity
    assert found.count == len(batch["masked_frames"]) > 20
    assert found.loss_sum.item() == pytest.approx(expected, rel=1e-4)
    assert found.metrics["utterance_loss"][0].item() == pytest.approx(speaker, rel=1e-4)
    assert ("code_perplexity" in found.metrics) is quantised


@pytest.mark.parametrize(("masked_weight", "unmasked_weight"), [(1.0, 0.0), (1.0, 1.0), (0.0, 1.0)])
@pytest.mark.parametrize(("weight", "term"), [("speaker_weight", "utterance_loss"), ("diversity_weight", "diversity")])
def test_the_second_losses_weigh_as_much_beside_unmasked_frames(weight, term, masked_weight, unmasked_weight):
    options = {"masked_weight": masked_weight, "unmasked_weight": unmasked_weight}
    once, twice = (objective(**options, **{weight: value}).eval() for value in (1.0, 2.0))
    batch = make_batch(once, [utterance(k) for k in range(3)])
    with torch.no_grad():
        found, more = once(batch), twice(batch)
    total, count = found.metrics[term]
    assert ((more.loss_sum - found.loss_sum) / found.count).item() == pytest.approx(float(total / count), rel=1e-3)


@pytest.mark.parametrize("pre_norm", [False, True])
def test_the_last_layer_is_normalised_once(pre_norm):
    module = objective(pre_norm, speaker_layer=2)
    assert isinstance(module.speaker_norm, torch.nn.Identity)


def test_labels_stay_those_of_the_main_speaker():
    module = objective(mix_probability=1.0)
    items = [utterance(k) for k in range(3)]
    plain = collated(module, items)
    mixed = module.batch_views(plain, np.random.default_rng(0))
    labels = plain["labels"].reshape(-1, 1)
    assert (mixed["masked_targets"] == labels[mixed["masked_frames"]]).all()
    changed = [(mixed["waveform"][k] != plain["waveform"][k]).mean() for k in range(3)]
    assert all(0 < share <= 0.5 for share in changed)
    silent = objective(mix_probability=0.0).batch_views(plain, np.random.default_rng(0))
    assert np.array_equal(silent["waveform"], plain["waveform"])


def test_noise_instead_of_another_utterance(tmp_path):
    write_audio(tmp_path / "n.wav", 0.1 * np.sign(np.sin(np.arange(3 * RATE) * 0.01)), RATE)
    (tmp_path / "wav.scp").write_text(f"n {tmp_path}/n.wav\n")
    module = objective(mix_probability=1.0, noise_dirs=(tmp_path,), noise_probability=1.0, noise_snr=(0.0, 0.0))
    items = [utterance(k) for k in range(3)]
    plain = collated(module, items)
    views = pickle.loads(pickle.dumps(module.batch_views))  # as workers get it
    mixed = views(plain, np.random.default_rng(0))
    labels = plain["labels"].reshape(-1, 1)
    assert (mixed["masked_targets"] == labels[mixed["masked_frames"]]).all()
    for row in range(3):
        added = mixed["waveform"][row] - plain["waveform"][row]
        heard = np.abs(added[added != 0])
        assert 0 < len(heard) <= RATE // 2
        level = np.sqrt(np.square(plain["waveform"][row]).mean())
        assert np.median(heard) == pytest.approx(level, rel=0.02)  # a square wave, at 0 dB


def test_mixed_waveforms_are_normalised_again_where_the_encoder_wants_it():
    module = objective(normalise=True, mix_probability=1.0)
    mixed = module.batch_views(collated(module, [utterance(k) for k in range(3)]), np.random.default_rng(0))
    assert mixed["waveform"].var(axis=1) == pytest.approx(1, abs=1e-3)


def test_candidates_are_other_frames_of_the_whole_batch():
    drawn = _others(9, 4000, np.random.default_rng(0))
    for anchor, row in enumerate(drawn):
        assert set(row) == set(range(9)) - {anchor}
        assert np.bincount(row, minlength=9).max() < 600  # 500 expected
    assert _others(1, 5, np.random.default_rng(0)).shape == (1, 0)
    assert _others(0, 5, np.random.default_rng(0)).shape == (0, 0)


def test_frames_learn_who_speaks():
    module = objective(mix_probability=0.0, quantised=False, mask_length=2)
    items = [utterance(k) for k in range(2)]
    for k, item in enumerate(items):  # one hums, the other whispers
        item.waveform = np.sin(np.arange(RATE) * 0.3).astype(np.float32) * k + 1e-3
    optimizer = torch.optim.AdamW(module.parameters(), lr=3e-3)
    gaps = []
    for step in range(40):
        result = module(make_batch(module, items, seed=step))
        (result.loss_sum / result.count).backward()
        optimizer.step()
        optimizer.zero_grad()
        total, count = result.metrics["utterance_gap"]
        gaps.append(float(total / count))
    assert gaps[0] < 0.5
    assert np.mean(gaps[-5:]) > 1


def test_temperature_cools_and_is_saved():
    module, other = objective(), objective()
    module.after_step(1000)
    assert module.temperature.item() == pytest.approx(2 * 0.999995**1000)
    other.load_state_dict(module.state_dict())
    assert other.temperature == module.temperature
    module.after_step(10**7)
    assert module.temperature == 0.5


def test_batches_of_one_frame_or_none_are_finite():
    module = objective()
    for count in (0, 1):
        batch = make_batch(module, [utterance(1)])
        for name in ("masked_frames", "masked_targets"):
            batch[name] = batch[name][:count]
        batch["candidates"] = torch.zeros(count, 0, dtype=torch.long)
        result = module(batch)
        result.loss_sum.backward()
        assert math.isfinite(result.loss_sum.detach())
        assert all(p.grad is None or p.grad.isfinite().all() for p in module.parameters())


def test_views_are_light_to_send():
    module = objective()
    assert isinstance(module.views.__self__, UnitViews)
    assert len(pickle.dumps((module.views, module.batch_views))) < 2000


@pytest.mark.parametrize(
    "values",
    [
        {"speaker_layer": 0},
        {"candidates": 0},
        {"mix_probability": 1.5},
        {"mix_share": -0.1},
        {"mix_ratio_db": (5.0, -5.0)},
        {"noise_snr": (20.0, -5.0)},
        {"noise_snr": (0.0, 20.0)},
        {"noise_probability": 0.2},
    ],
)
def test_configurations_that_make_no_sense_are_refused(values):
    with pytest.raises(ValueError, match=f"objective.{next(iter(values))}"):
        UniSpeechSAT.Config(**values)


@pytest.mark.parametrize("config", [UniSpeechSAT.Config, Contrastive.Config])
@pytest.mark.parametrize(
    ("values", "message"),
    [
        *(({name: value}, f"{name}: {value} is not positive") for name in ("groups", "entries") for value in (0, -1)),
        *(
            ({name: value}, f"{name}: {value} is not positive")
            for name in ("gumbel_start", "gumbel_end")
            for value in (0.0, -1.0, math.nan)
        ),
        *(({"gumbel_decay": value}, f"gumbel_decay: {value} is not above 0 and") for value in (-1.0, 0.0, 1.1, math.nan)),
        *(({"diversity_weight": value}, f"diversity_weight: {value} is negative") for value in (-1.0, math.nan)),
        ({"final_dim": 255}, "final_dim: 255 is no multiple of the 2 groups"),
        ({"groups": 8}, "groups: 8 groups of 320 entries have 2^63 combinations or more; give fewer of either"),
        ({"groups": 16, "entries": 16}, "groups: 16 groups of 16 entries have 2^63 combinations"),
        ({"groups": 63, "entries": 2, "final_dim": 63}, "groups: 63 groups of 2 entries have 2^63 combinations"),
    ],
)  # fmt: skip
def test_quantisers_that_make_no_sense_are_refused(config, values, message):
    with pytest.raises(ValueError, match=rf"^objective\.{re.escape(message)}"):
        config(**values)


def test_without_a_quantiser_its_groups_are_free():
    assert UniSpeechSAT.Config(quantised=False, final_dim=63).final_dim == 63


def test_as_many_combinations_as_have_numbers():
    config = Contrastive.Config(groups=62, entries=2, final_dim=62)
    quantiser = GumbelQuantiser(4, groups=config.groups, entries=config.entries, code_dim=config.final_dim)
    codes = torch.stack([torch.eye(62, dtype=torch.int64)[k] for k in range(62)] + [torch.ones(62, dtype=torch.int64)])
    identities = quantiser.identity(codes)
    assert len(set(identities.tolist())) == 63
    assert (identities > 0).all()


def test_layer_that_is_not_there():
    with pytest.raises(ValueError, match="speaker_layer: 3, but the encoder has 2 blocks"):
        objective(speaker_layer=3)


@pytest.mark.parametrize(("utterances", "seen"), [(1, 0.0), (4, None)])
def test_live_negatives_are_candidates_of_other_utterances(utterances, seen):
    module = objective().eval()
    batch = make_batch(module, [utterance(k) for k in range(utterances)])
    total, count = module(batch).metrics["live_negatives"]
    owner = batch["masked_frames"] // batch["masked"].shape[1]
    expected = [int((owner[row] != owner[i]).sum()) for i, row in enumerate(batch["candidates"])]
    assert float(total / count) == pytest.approx(np.mean(expected))
    assert seen is None or float(total) == seen
