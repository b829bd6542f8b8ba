import json
import math
import pickle
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import audiossl.data.manifest
from audiossl.contracts import Utterance
from audiossl.data.audio import write_audio
from audiossl.data.augment import AugmentConfig
from audiossl.data.collate import collate, to_tensors
from audiossl.data.frame_grid import FrameGrid
from audiossl.data.loader import LoaderConfig, make_loader
from audiossl.data.manifest import Manifest
from audiossl.encoders.wav2vec2 import Wav2Vec2
from audiossl.objectives._units import UnitViews, histogram_perplexity
from audiossl.objectives.hubert import HuBERT

RATE = 16000
GRID = FrameGrid(sample_rate=RATE, stride=320, first=400)


def utterance(seed, seconds=1.2, codes=(7,), names=("mfcc_km100",), label_rate=100):
    rng = np.random.default_rng(seed)
    samples = round(seconds * RATE)
    columns = {
        f"units/{name}": rng.integers(0, size, 1 + (samples - 400) * label_rate // RATE)
        for name, size in zip(names, codes, strict=True)
    }
    return Utterance(f"utt{seed}", rng.standard_normal(samples).astype(np.float32), RATE, columns)


def objective(config, codes=(7,)):
    torch.manual_seed(0)
    return HuBERT(Wav2Vec2(Wav2Vec2.Config.tiny()), config, codes)


def make_batch(module, utterances, seed=0):
    views = [module.views(item, np.random.default_rng([seed, k])) for k, item in enumerate(utterances)]
    batch = collate(views, [item.id for item in utterances])
    return to_tensors(module.batch_views(batch, np.random.default_rng(seed)))


def light(codes=(7,), normalise=False, **options):
    return UnitViews(HuBERT.Config(**options), GRID, normalise, codes)


def oracle(module, batch, labels, config):
    """The loss frame by frame, from the encoder's output."""
    local = module.encoder.local_features(batch["waveform"], batch["waveform_lengths"])
    top = module.encoder.contextualise(local.z, local.lengths, masked=batch["masked"]).layers[-1]
    loss, count = 0.0, 0
    for b, t in np.ndindex(labels.shape[:2]):
        weight = config.masked_weight if batch["masked"][b, t] else config.unmasked_weight
        if (labels[b, t] < 0).any() or not weight:
            continue
        count += 1
        for k in range(labels.shape[2]):
            cosine = F.cosine_similarity(module.projections[k](top[b, t]), module.codewords[k], dim=-1)
            loss += weight * F.cross_entropy(cosine / config.temperature, labels[b, t, k] + config.special_rows)
    return loss + config.penalty_weight * count * local.penalty, count


@pytest.mark.parametrize(("masked_weight", "unmasked_weight"), [(1.0, 0.0), (1.0, 0.5), (0.0, 0.5)])
def test_loss_is_that_of_each_labelled_frame(masked_weight, unmasked_weight):
    names, codes = ("a", "b"), (5, 9)
    config = HuBERT.Config(
        labels=names, crop_duration=4.0, mask_length=3, final_dim=8, masked_weight=masked_weight, unmasked_weight=unmasked_weight,
        same_count=False,
    )  # fmt: skip
    module = objective(config, codes).eval()
    items = [utterance(1, 1.2, codes, names), utterance(2, 4.0, codes, names)]
    items[1].columns["units/b"] = items[1].columns["units/b"][:-2]  # the last frame has no label in this set
    batch = make_batch(module, items)
    views = [module.views(item, np.random.default_rng([0, k])) for k, item in enumerate(items)]
    labels = to_tensors(collate(views, ["1", "2"]))["labels"]
    assert (labels[1, : views[1]["labels"].shape[0]] < 0).any()
    result = module(batch)
    loss, count = oracle(module, batch, labels, config)
    assert result.count == count > 10
    torch.testing.assert_close(result.loss_sum, loss, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(result.metrics["loss_bits"][0], loss.detach() / math.log(2), rtol=1e-5, atol=1e-4)
    assert {"masked_accuracy", "unmasked_accuracy"} <= result.metrics.keys()
    assert ("unmasked_bits" in result.metrics) is bool(unmasked_weight)


def test_gradients_reach_every_parameter():
    module = objective(HuBERT.Config.tiny()).train()
    module(make_batch(module, [utterance(1), utterance(2)])).loss_sum.backward()
    without = [name for name, p in module.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert without == []
    assert sum(bool(p.grad.any()) for p in module.parameters()) > 0.9 * len(list(module.parameters()))


def test_position_noise_is_of_training_alone_and_none_is_the_plain_model_bit_for_bit():
    plain, noisy = (objective(replace(HuBERT.Config.tiny(), position_noise=variance)) for variance in (0.0, 0.5))
    batch = make_batch(plain, [utterance(1), utterance(2)])
    losses = []
    for module, training in ((plain, False), (noisy, False), (plain, True), (noisy, True)):
        torch.manual_seed(3)
        losses.append(module.train(training)(batch).loss_sum)
    assert torch.equal(losses[0], losses[1])
    assert not torch.equal(losses[2], losses[3])
    losses[3].backward()
    assert noisy.encoder.projection.weight.grad.isfinite().all()


def test_unmasked_frames_cost_next_to_nothing_at_weight_zero():
    module = objective(HuBERT.Config(crop_duration=9.0, mask_length=3, mask_prob=0.1, final_dim=8))
    seen = []
    module.projections[0].register_forward_hook(lambda _, inputs, output: seen.append(output))
    batch = make_batch(module, [utterance(1, 9.0), utterance(2, 9.0)])
    module(batch)
    masked, others = int(batch["masked"].sum()), len(batch["unmasked_frames"])
    assert others > 600
    assert [(len(output), output.requires_grad) for output in seen] == [(masked, True), (-(-others // 4), False)]
    seen.clear()
    module.eval()(batch)
    assert [len(output) for output in seen] == [masked, others]


def test_unmasked_accuracy_is_the_same_with_and_without_weight():
    metrics = []
    for weight in (0.0, 1.0):
        module = objective(HuBERT.Config(crop_duration=2.0, mask_length=3, final_dim=8, unmasked_weight=weight)).eval()
        metrics.append(module(make_batch(module, [utterance(1), utterance(2)])).metrics["unmasked_accuracy"])
    (right, count), (wanted, labels) = metrics
    assert count == labels > 20
    assert right == pytest.approx(wanted.item())


def test_padding_and_batch_mates_change_nothing():
    module = objective(HuBERT.Config(mask_length=3, final_dim=8, same_count=False, penalty_weight=0.0)).eval()
    items = [utterance(1, 1.2), utterance(2, 0.7)]
    views = [module.views(item, np.random.default_rng(0)) for item in items]
    single = [module.batch_views(collate([view], ["u"]), np.random.default_rng(k)) for k, view in enumerate(views)]
    both = collate(views, ["u", "v"])
    both = module.batch_views(both, np.random.default_rng(0))
    both["masked"][:] = False
    for row, one in zip(both["masked"], single, strict=True):
        row[: one["masked"].shape[1]] = one["masked"][0]
    both["masked_frames"] = np.flatnonzero(both["masked"])
    both["masked_targets"] = np.concatenate([one["masked_targets"] for one in single])
    together = module(to_tensors(both)).loss_sum
    alone = sum(module(to_tensors(one)).loss_sum for one in single)
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-4)


def test_a_model_learns_labels_that_can_be_heard():
    module = objective(HuBERT.Config(crop_duration=1.0, mask_length=2, final_dim=8, special_rows=0), (2,))
    items = []
    for k in range(8):  # a tone that is there or not through the whole utterance
        tone = np.sin(np.arange(RATE) * 0.3).astype(np.float32) * (k % 2) + 1e-3
        items.append(Utterance(f"u{k}", tone, RATE, {"units/mfcc_km100": np.full(98, k % 2)}))
    optimizer = torch.optim.AdamW(module.parameters(), lr=3e-3)
    accuracies = []
    for step in range(30):
        result = module(make_batch(module, items, seed=step))
        (result.loss_sum / result.count).backward()
        optimizer.step()
        optimizer.zero_grad()
        hits, count = result.metrics["masked_accuracy"]
        accuracies.append(float(hits / count))
    assert np.mean(accuracies[-5:]) > 0.95


def test_crop_keeps_waveform_and_labels_together():
    item = utterance(3, 3.0)
    view = light(crop_duration=1.0).views(item, np.random.default_rng(5))
    assert len(view["waveform"]) == RATE
    start = next(s for s in range(2 * RATE + 1) if np.array_equal(item.waveform[s : s + RATE], view["waveform"]))
    assert start % 160
    first = round(start / 160)
    assert view["labels"][:, 0].tolist() == item.columns["units/mfcc_km100"][first : first + 2 * 49 : 2].tolist()


@pytest.fixture
def long_recording(tmp_path, monkeypatch):
    """A function that writes a directory of one recording of 10 s, and a list of how many samples were decoded at a time."""

    def make(rate=RATE, waveform=None):
        knots = np.random.default_rng(0).uniform(-0.5, 0.5, 1000)
        slow = np.interp(np.arange(10 * rate) / rate, np.arange(1000) / 100, knots)
        write_audio(tmp_path / "a.wav", slow if waveform is None else waveform, rate)
        (tmp_path / "units").mkdir()
        tables = {"wav.scp": f"a {tmp_path / 'a.wav'}", "units/mfcc_km100": f"a {' '.join(map(str, range(998)))}"}
        for name, content in tables.items():
            (tmp_path / name).write_text(f"{content}\n")
        return Manifest.open(tmp_path)

    decoded = []
    read = audiossl.data.manifest.read_audio

    def counted(*args, **options):
        decoded.append(read(*args, **options))
        return decoded[-1]

    monkeypatch.setattr(audiossl.data.manifest, "read_audio", counted)
    return make, decoded


def from_disk(manifest, views, seed=3, **settings):
    """What a loader gives of the one recording, before masks are drawn."""
    module = SimpleNamespace(needs=("units/mfcc_km100",), views=views.views, batch_views=lambda batch, _: batch)
    config = LoaderConfig(num_workers=0, **settings)
    return next(make_loader(manifest, module, config, sample_rate=RATE, seed=seed, positions=[0]))


@pytest.mark.parametrize("rate", [RATE, 44_100, 8_000])
def test_a_crop_decodes_no_more_than_the_crop(long_recording, rate):
    make, decoded = long_recording
    manifest = make(rate)
    batch = from_disk(manifest, light((998,), crop_duration=1.0))
    assert batch["waveform"].shape == (1, RATE)
    assert sum(map(len, decoded)) <= 1.01 * RATE
    whole = manifest.audio(0, sample_rate=RATE)
    start = int(np.random.default_rng([3, 0, 0]).integers(0, 9 * RATE + 1))
    crop = whole[start : start + RATE]
    if rate == RATE:
        assert batch["waveform"][0].tolist() == crop.tolist()
    assert np.abs(batch["waveform"][0].numpy() - crop)[100:-100].max() < 0.02
    assert batch["labels"][0, 0, 0] == round(start / 160)


@pytest.mark.parametrize("change", [{"normalise": True}, {"augment": AugmentConfig(gain_probability=1.0)}])
def test_what_is_normalised_or_augmented_as_a_whole_is_decoded_once(long_recording, change):
    make, decoded = long_recording
    settings = {"augment": change["augment"]} if "augment" in change else {}
    views = light((998,), crop_duration=1.0, normalise="normalise" in change)
    assert from_disk(make(), views, **settings)["waveform"].shape == (1, RATE)
    assert [len(each) for each in decoded] == [10 * RATE]


@pytest.mark.parametrize("peak", [0.5, 0.0])
def test_a_silent_piece_is_kept_unless_all_of_the_recording_is(long_recording, peak):
    sound = np.zeros(10 * RATE, dtype=np.float32)
    sound[0] = peak
    batch = from_disk(long_recording[0](waveform=sound), light((998,), crop_duration=1.0))
    assert batch["utt_ids"] == (["a"] if peak else [])
    assert peak or "silent" in batch["bad"][0][1]


def test_crops_are_uniform_over_the_utterance():
    item = Utterance("u", np.arange(1000, dtype=np.float32), RATE, {"units/mfcc_km100": np.zeros(7, dtype=np.int64)})
    views = light(crop_duration=0.06)  # 960 samples
    starts = {int(views.views(item, np.random.default_rng(k))["waveform"][0]) for k in range(600)}
    assert starts == set(range(41))


def test_normalisation_is_over_the_whole_utterance():
    config = Wav2Vec2.Config(
        num_layers=1, dim=32, ffn_dim=32, num_heads=4, position_kernel=16, position_groups=4, conv_dim=8,
        conv_norm="layer", normalise_waveform=True,
    )  # fmt: skip
    encoder = Wav2Vec2(config)
    module = HuBERT(encoder, HuBERT.Config(crop_duration=0.5), (7,))
    item = utterance(3, 3.0)
    item.waveform = item.waveform * np.linspace(0, 1, len(item.waveform), dtype=np.float32) + 0.5
    whole = (item.waveform - item.waveform.mean()) / item.waveform.std()
    view = module.views(item, np.random.default_rng(5))
    assert not encoder.normalise_waveform
    assert view["waveform"].dtype == np.float32
    assert any(np.allclose(whole[s : s + 8000], view["waveform"], atol=1e-3) for s in range(2 * RATE + 8001))
    assert abs(view["waveform"].std() - 1) > 0.05


def test_batch_views_find_the_masked_and_labelled_frames():
    views = light(unmasked_weight=1.0, mask_length=2)
    labels = np.arange(60).reshape(2, 30, 1).copy()
    labels[1, 20:] = -1
    batch = {"labels": labels, "labels_lengths": np.array([30, 22])}
    made = views.batch_views(batch, np.random.default_rng(0))
    flat = made["masked"].reshape(-1)
    for which, wanted in (("masked", flat), ("unmasked", ~flat)):
        places = [k for k in range(60) if wanted[k] and labels.reshape(-1)[k] >= 0]
        assert made[f"{which}_frames"].tolist() == places
        assert made[f"{which}_targets"].tolist() == [[k] for k in places]
    assert "labels" in batch
    assert "labels" not in made


def test_views_are_light_to_send():
    module = objective(HuBERT.Config.tiny())
    assert len(pickle.dumps((module.views, module.batch_views))) < 2000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda labels: labels[::2],
            r"^utt1: units/mfcc_km100 has 59 labels where 100 Hz give 120; correct objective.lab",
        ),
        (lambda labels: labels + 1, "has labels from 1 to 7, but its codebook 7 codes"),
        (lambda labels: labels - 1, "has labels from -1 to 5"),
    ],
)
def test_labels_that_cannot_be_are_refused(change, message):
    item = utterance(1)
    item.columns["units/mfcc_km100"] = change(item.columns["units/mfcc_km100"])
    with pytest.raises(ValueError, match=message):
        light().views(item, np.random.default_rng(0))


def test_an_utterance_without_frames_is_refused():
    item = Utterance("u", np.zeros(399, dtype=np.float32), RATE, {"units/mfcc_km100": np.zeros(0, dtype=np.int64)})
    with pytest.raises(ValueError, match="399 samples give no frame"):
        light().views(item, np.random.default_rng(0))


def test_from_data_reads_the_codebook_and_checks_the_rate(tmp_path):
    (tmp_path / "units").mkdir()
    card = tmp_path / "units" / "mfcc_km100.json"
    encoder = Wav2Vec2(Wav2Vec2.Config.tiny())
    with pytest.raises(ValueError, match="no such file; make the units"):
        HuBERT.from_data(encoder, HuBERT.Config(), tmp_path)
    card.write_text(json.dumps({"codebook_size": 100, "rate": 50.0}))
    with pytest.raises(ValueError, match=r"the units have 50 Hz, objective.label_rate is 100"):
        HuBERT.from_data(encoder, HuBERT.Config(), tmp_path)
    card.write_text('{"rate": 100}')
    with pytest.raises(ValueError, match=r"json: does not tell codebook_size"):
        HuBERT.from_data(encoder, HuBERT.Config(), tmp_path)
    card.write_text(json.dumps({"codebook_size": 100, "rate": 100.0}))
    module = HuBERT.from_data(encoder, HuBERT.Config(), tmp_path)
    assert module.codewords[0].shape == (104, 256)
    assert module.needs == ("units/mfcc_km100",)


def test_perplexity_of_codes():
    assert histogram_perplexity(torch.tensor([3, 3, 3]), 5) == pytest.approx(1)
    assert histogram_perplexity(torch.arange(8), 9) == pytest.approx(8)
    assert histogram_perplexity(torch.tensor([0, 0, 0, 1]), 2) == pytest.approx(
        math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
    )


def test_a_batch_without_masked_frames_is_finite():
    module = objective(HuBERT.Config.tiny())
    batch = make_batch(module, [utterance(1)])
    for name in ("masked", "unmasked"):
        batch[f"{name}_frames"] = batch[f"{name}_frames"][:0]
        batch[f"{name}_targets"] = batch[f"{name}_targets"][:0]
    result = module(batch)
    result.loss_sum.backward()
    assert result.loss_sum == result.count == 0
    assert all(total == count == 0 for total, count in result.metrics.values())


@pytest.mark.parametrize(
    "values",
    [
        {"labels": ()},
        {"labels": ("a", "a")},
        {"temperature": 0.0},
        {"penalty_weight": -1.0},
        {"masked_weight": -1.0},
        {"masked_weight": 0.0, "unmasked_weight": 0.0},
    ],
)
def test_configurations_that_make_no_sense_are_refused(values):
    with pytest.raises(ValueError, match=f"objective.{next(iter(values))}"):
        HuBERT.Config(**values)
