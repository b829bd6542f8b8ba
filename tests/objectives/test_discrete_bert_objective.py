from __future__ import annotations

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from audiossl.contracts import Utterance
from audiossl.data.collate import collate, to_tensors
from audiossl.encoders.codes import Codes
from audiossl.objectives._bert import SpanConfig, span_frames
from audiossl.objectives.discrete_bert import DiscreteBERT, DiscreteViews

TINY = DiscreteBERT.Config.tiny()


class Silent(Utterance):
    """It has no audio that could be decoded."""

    def __init__(self, name, units):
        self.id, self.columns = name, {"units/vq_wav2vec": np.asarray(units)}


def objective(num_codes=9, **options):
    torch.manual_seed(0)
    return DiscreteBERT(Codes(Codes.Config.tiny()), replace(TINY, **options), num_codes)


def make_batch(module, items, seed=0):
    views = [module.views(item, np.random.default_rng([seed, k])) for k, item in enumerate(items)]
    return to_tensors(module.batch_views(collate(views, [item.id for item in items]), np.random.default_rng(0)))


def test_loss_is_the_cross_entropy_of_each_masked_unit():
    module = objective(crop_duration=5.0).eval()
    items = [Silent("a", np.arange(40) % 9), Silent("b", np.arange(25) % 7)]
    batch = make_batch(module, items)
    views = [module.views(item, np.random.default_rng([0, k])) for k, item in enumerate(items)]
    top = module.encoder(batch["waveform"], batch["waveform_lengths"], masked=batch["masked"]).layers[-1]
    loss, count = 0.0, 0
    for b, view in enumerate(views):
        for t, unit in enumerate(view["targets"]):
            if unit >= 0:
                assert unit == items[b].columns["units/vq_wav2vec"][t]
                logits = module.encoder.embedding.weight @ module.head(top[b, t]) + module.bias
                loss -= torch.log_softmax(logits, dim=0)[unit]
                count += 1
    result = module(batch)
    assert result.count == count > 10
    torch.testing.assert_close(result.loss_sum, loss, rtol=1e-5, atol=1e-5)


def test_masked_units_are_replaced_kept_or_random():
    views = DiscreteViews(replace(TINY, crop_duration=100.0, mask_prob=0.8, keep_prob=0.2, random_prob=0.3), 1000)
    units = np.arange(10000) % 1000
    view = views.views(Silent("a", units), np.random.default_rng(0))
    chosen, masked = view["targets"] >= 0, view["masked"]
    assert (view["targets"][chosen] == units[chosen]).all()
    assert (view["waveform"][~chosen] == units[~chosen]).all()
    assert not (masked & ~chosen).any()
    assert masked.sum() / chosen.sum() == pytest.approx(0.5, abs=0.05)
    other = view["waveform"] != units
    assert (other & ~masked).sum() / chosen.sum() == pytest.approx(0.3, abs=0.05)
    assert not (other & masked).any()


def test_spans():
    rng = np.random.default_rng(0)
    fixed = SpanConfig(mask_length=10, mask_std=0.0)
    masks = np.stack([span_frames(1000, fixed, rng) for _ in range(200)])
    # 50 starts that may overlap: a frame far from the start is free if none of the 10 places before it is a start.
    assert masks[:, 10:].mean() == pytest.approx(1 - 0.95**10, abs=0.01)
    runs = np.diff(np.flatnonzero(np.diff(np.r_[0, masks[0], 0])))[::2]
    assert runs[:-1].min() == 10
    free = np.stack([span_frames(1000, SpanConfig(), rng) for _ in range(200)])
    assert 0.3 < free.mean() < 0.45
    assert span_frames(0, fixed, rng).shape == (0,)
    assert span_frames(1, SpanConfig(mask_prob=0.0), rng).tolist() == [True]


def test_a_model_learns_what_repeats():
    module = objective(crop_duration=1.0, keep_prob=0.0, random_prob=0.0)
    items = [Silent(f"u{k}", np.full(60, k)) for k in range(8)]
    optimizer = torch.optim.AdamW(module.parameters(), lr=3e-3)
    for step in range(40):
        result = module(make_batch(module, items, seed=step))
        (result.loss_sum / result.count).backward()
        optimizer.step()
        optimizer.zero_grad()
    right, count = result.metrics["masked_accuracy"]
    assert right / count > 0.9


def test_crops_are_pieces_of_the_units():
    module = objective(crop_duration=0.2, mask_prob=0.0, keep_prob=1.0, random_prob=0.0)
    view = module.views(Silent("a", np.arange(9)), np.random.default_rng(0))
    assert view["waveform"].tolist() == list(range(9))
    units = np.arange(200) // 23
    view = module.views(Silent("a", units), np.random.default_rng(3))
    assert any(view["waveform"].tolist() == units[s : s + 20].tolist() for s in range(181))
    assert len(pickle.dumps((module.views, module.batch_views))) < 2000


@pytest.mark.parametrize("units", [[], [1, 9], [-1, 2]])
def test_units_that_cannot_be_are_refused(units):
    with pytest.raises(ValueError, match=r"^a: units/vq_wav2vec has no labels or others than its 9 codes"):
        objective().views(Silent("a", np.array(units, dtype=np.int64)), np.random.default_rng(0))


def test_from_data_reads_the_card(tmp_path):
    (tmp_path / "units").mkdir()
    card = tmp_path / "units" / "vq_wav2vec.json"
    encoder = Codes(Codes.Config.tiny())
    card.write_text(json.dumps({"codebook_size": 9, "rate": 100.0}))
    assert DiscreteBERT.from_data(encoder, TINY, tmp_path).needs == ("units/vq_wav2vec",)
    card.write_text(json.dumps({"codebook_size": 10, "rate": 100.0}))
    with pytest.raises(ValueError, match="encoder.num_codes: 9, but units/vq_wav2vec has 10 codes"):
        DiscreteBERT.from_data(encoder, TINY, tmp_path)
    card.write_text(json.dumps({"codebook_size": 9, "rate": 50.0}))
    with pytest.raises(ValueError, match="encoder.labels: 'vq_wav2vec', but objective.labels is 'km'; make them agree"):
        DiscreteBERT(encoder, replace(TINY, labels=("km",)), 9)
    with pytest.raises(ValueError, match="encoder.rate: 100 Hz, objective.label_rate is 50"):
        DiscreteBERT.from_data(encoder, replace(TINY, label_rate=50.0), tmp_path)
    with pytest.raises(ValueError, match="the units have 50 Hz, objective.label_rate is 100"):
        DiscreteBERT.from_data(encoder, TINY, tmp_path)
    card.unlink()
    with pytest.raises(ValueError, match="missing: rate and codebook"):
        DiscreteBERT.from_data(encoder, TINY, tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"labels": ("a", "b")}, "objective.labels"), ({"keep_prob": 0.9, "random_prob": 0.2}, "keep_prob 0.9"),
     ({"same_count": True}, "objective.same_count"), ({"mask_std": -1.0}, "objective.mask_std")],
)  # fmt: skip
def test_options_that_make_no_sense(options, message):
    with pytest.raises(ValueError, match=message):
        replace(TINY, **options)
