import dataclasses
import pickle

import numpy as np
import pytest
import torch
from command import succeed
from corpora import noises, write_corpus

from audiossl.contracts import Utterance
from audiossl.data.collate import collate, to_tensors
from audiossl.encoders.wav2vec2 import Wav2Vec2
from audiossl.interop.checkpoint import chosen_checkpoint, load_weights
from audiossl.objectives.hubert import HuBERT
from audiossl.objectives.mert import MERT

RATE = 24000
LABELS, CODES = ("rvq_0", "rvq_1", "rvq_2"), (5, 9, 6)
BASE = {
    "labels": LABELS,
    "crop_duration": 1.0,
    "mask_length": 3,
    "final_dim": 8,
    "cqt_bins": 24,
    "cqt_bins_per_octave": 12,
    "cqt_fmin": 220.0,
    "mix_seconds": (0.05, 0.2),
}


def utterance(seed, seconds=1.0):
    rng = np.random.default_rng(seed)
    samples = round(seconds * RATE)
    columns = {
        f"units/{name}": rng.integers(0, size, 1 + samples // 320) for name, size in zip(LABELS, CODES, strict=True)
    }
    return Utterance(f"utt{seed}", rng.standard_normal(samples).astype(np.float32), RATE, columns)


def objective(**options):
    torch.manual_seed(0)
    encoder = Wav2Vec2(dataclasses.replace(Wav2Vec2.Config.tiny(), sample_rate=RATE))
    return MERT(encoder, MERT.Config(**(BASE | options)), CODES)


def collated(module, items):
    views = [module.views(item, np.random.default_rng(k)) for k, item in enumerate(items)]
    return collate(views, [item.id for item in items])


def make_batch(module, items, seed=0):
    return to_tensors(module.batch_views(collated(module, items), np.random.default_rng(seed)))


def tone_strength(waveform, frame, hertz):
    """Magnitude by the definition of the transform, a sum over one window, in float64."""
    ratio = 2 ** (2 / 12)
    length = (ratio + 1) / (ratio - 1) * RATE / hertz
    n = np.arange(-int(length / 2), int(length / 2) + 1)
    window = np.cos(np.pi * n / length) ** 2
    places = frame * 320 + n
    inside = (places >= 0) & (places < len(waveform))
    heard = np.where(inside, waveform[np.clip(places, 0, len(waveform) - 1)], 0.0)
    return np.sqrt(length) * abs((heard * window * np.exp(-2j * np.pi * hertz * n / RATE)).sum()) / window.sum()


def test_loss_is_that_of_all_codebooks_and_of_the_unmixed_spectrum():
    module = objective(cqt_weight=0.3, mix_probability=1.0).eval()
    items = [utterance(1), utterance(2, 0.8)]
    plain, batch = collated(module, items), make_batch(module, items)
    assert (plain["waveform"] != batch["waveform"].numpy()).any()
    with torch.no_grad():
        found = module(batch)
    options = {name: BASE[name] for name in ("labels", "crop_duration", "mask_length", "final_dim")}
    hubert = HuBERT(module.encoder, HuBERT.Config(**options, label_rate=75.0), CODES).eval()
    hubert.projections, hubert.codewords = module.projections, module.codewords
    local = module.encoder.local_features(batch["waveform"], batch["waveform_lengths"])
    top = module.encoder.contextualise(local.z, local.lengths, masked=batch["masked"]).layers[-1]
    squares = 0.0
    for place in batch["masked_frames"].tolist():
        b, t = divmod(place, top.shape[1])
        predicted = module.cqt_head(top[b, t]).detach().double().numpy()
        wanted = [tone_strength(plain["waveform"][b].astype(np.float64), t, 220 * 2 ** (k / 12)) for k in range(24)]
        squares += np.square(predicted - wanted).mean()
    assert found.count == len(batch["masked_frames"]) > 20
    assert found.loss_sum.item() == pytest.approx(float(hubert(batch).loss_sum.detach()) + 0.3 * squares, rel=1e-4)
    assert found.metrics["cqt_error"][0].item() == pytest.approx(squares, rel=1e-4)


@pytest.mark.parametrize("unmasked_weight", [0.0, 1.0])
def test_the_spectrum_weighs_as_much_beside_unmasked_frames(unmasked_weight):
    once, twice = (objective(cqt_weight=weight, unmasked_weight=unmasked_weight).eval() for weight in (1.0, 2.0))
    batch = make_batch(once, [utterance(1), utterance(2, 0.8)])
    with torch.no_grad():
        found, more = once(batch), twice(batch)
    total, count = found.metrics["cqt_error"]
    assert ((more.loss_sum - found.loss_sum) / found.count).item() == pytest.approx(float(total / count), rel=1e-3)


def test_gradients_reach_every_parameter_and_constants_are_not_saved():
    module = objective().train()
    module(make_batch(module, [utterance(1), utterance(2)])).loss_sum.backward()
    assert [name for name, p in module.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
    assert not any("octave" in name for name in module.state_dict())


def test_without_the_spectrum_nothing_of_it_is_there():
    module = objective(cqt_weight=0.0)
    batch = make_batch(module, [utterance(1), utterance(2)])
    assert module.cqt_head is None
    assert "clean" not in batch
    assert "cqt_error" not in module(batch).metrics


def test_clips_are_mixed_in_and_labels_stay():
    module = objective(mix_probability=1.0, mix_clips=(1, 1), mix_seconds=(0.1, 0.1))
    plain = collated(module, [utterance(k) for k in range(3)])
    made = module.batch_views(plain, np.random.default_rng(0))
    changed = made["waveform"] != plain["waveform"]
    assert changed.sum(axis=1).tolist() == [2400] * 3
    assert np.array_equal(made["clean"], plain["waveform"])
    labels = plain["labels"].reshape(-1, 3)
    assert (made["masked_targets"] == labels[made["masked_frames"]]).all()


def test_half_of_the_utterances_are_mixed():
    module = objective()
    plain = collated(module, [utterance(k, 0.3) for k in range(8)])
    rows = [
        (module.batch_views(plain, np.random.default_rng(seed))["waveform"] != plain["waveform"]).any(axis=1)
        for seed in range(100)
    ]
    assert np.mean(rows) == pytest.approx(0.5, abs=0.07)


def test_the_head_learns_where_a_tone_is():
    module = objective(mix_probability=0.0, mask_length=2)
    items = [utterance(k) for k in range(2)]
    for k, item in enumerate(items):  # there or not
        item.waveform = np.sin(np.arange(RATE) * 2 * np.pi * 440 / RATE).astype(np.float32) * k + 1e-3
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2)
    shares = []
    for step in range(60):
        result = module(make_batch(module, items, seed=step))
        (result.loss_sum / result.count).backward()
        optimizer.step()
        optimizer.zero_grad()
        shares.append(float(result.metrics["cqt_error"][0] / result.metrics["cqt_variance"][0]))
    assert shares[0] > 1
    assert np.median(shares[-9:]) < 0.3  # a step without its layers has a worse one


def test_views_are_light_to_send():
    module = objective()
    assert len(pickle.dumps((module.views, module.batch_views))) < 2000


@pytest.mark.parametrize(
    "values",
    [{"cqt_weight": -1.0}, {"mix_probability": 1.1}, {"mix_clips": (3, 1)}, {"mix_seconds": (-1.0, 1.0)}],
)
def test_configurations_that_make_no_sense_are_refused(values):
    with pytest.raises(ValueError, match=f"objective.{next(iter(values))}"):
        MERT.Config(**values)


def test_units_of_two_features_are_its_labels(tmp_path):
    """The k-means variant of the recipe: log-mels and chroma, clustered apart."""
    data = write_corpus(tmp_path, noises([RATE] * 4), rate=RATE)
    for feature, clusters in (("logmel", 5), ("chroma", 4)):
        fit = ("units", "fit", "--data", data, "--out", tmp_path / feature, "--feature", feature, "--num-workers", 0)
        succeed(*fit, "--clusters", clusters)
        succeed(
            "units", "apply", "--data", data, "--codebook", tmp_path / feature, "--name", feature, "--num-workers", 0
        )
    encoder = {"num_layers": 1, "dim": 32, "num_heads": 4, "ffn_dim": 64, "conv_dim": 16, "position_kernel": 16}
    options = {f"encoder.{key}": value for key, value in encoder.items()}
    options |= {"objective.labels": '["logmel", "chroma"]', "objective.crop_duration": 0.8, "data.crop_duration": 0.8}
    options |= {"data.min_duration": 0.5, "data.batch_seconds": 2, "data.num_workers": 0, "train.accumulate": 1}
    options |= {"train.max_steps": 2, "optim.warmup_steps": 1, "train.precision": "fp32", "train.tensorboard": "false"}
    words = [word for key, value in options.items() for word in (f"--{key}", value)]
    succeed("pretrain", "mert_95m", "--data", data, "--out", tmp_path / "exp", "--device", "cpu", *words)
    state = load_weights(chosen_checkpoint(tmp_path / "exp"))
    assert [len(state[f"codewords.{k}"]) for k in range(2)] == [4 + 5, 4 + 4]  # four rows of specials before each
    assert "codewords.2" not in state
