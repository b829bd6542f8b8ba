import json

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from audiossl.contracts import Utterance
from audiossl.data.collate import collate, to_tensors
from audiossl.encoders.fbank import FBank
from audiossl.objectives.fast_hubert import FastHuBERT

RATE = 16000
CODES = (7, 5)
NAMES = ("a", "b")


def objective(config, strides=(2, 2), codes=CODES):
    torch.manual_seed(0)
    tiny = FBank.Config.tiny()
    return FastHuBERT(FBank(FBank.Config(**{**vars(tiny), "strides": strides})), config, codes)


def utterance(seed, seconds=1.2):
    rng = np.random.default_rng(seed)
    samples = round(seconds * RATE)
    columns = {f"units/{n}": rng.integers(0, c, 1 + (samples - 400) // 320) for n, c in zip(NAMES, CODES, strict=True)}
    return Utterance(f"utt{seed}", rng.standard_normal(samples).astype(np.float32), RATE, columns)


def make_batch(module, items, seed=0):
    views = [module.views(item, np.random.default_rng([seed, k])) for k, item in enumerate(items)]
    batch = collate(views, [item.id for item in items])
    return to_tensors(module.batch_views(batch, np.random.default_rng(seed)))


def oracle(module, batch, labels, config):
    """The loss layer by layer and frame by frame, from the encoder's outputs: published means over frames and layers."""
    local = module.encoder.local_features(batch["waveform"], batch["waveform_lengths"])
    layers = module.encoder.contextualise(local.z, local.lengths, masked=batch["masked"]).layers
    loss, count = 0.0, 0
    for b, t in np.ndindex(labels.shape[:2]):
        weight = config.masked_weight if batch["masked"][b, t] else config.unmasked_weight
        if (labels[b, t] < 0).any() or not weight:
            continue
        count += 1
        for head, layer in enumerate(config.layers):
            for k in range(labels.shape[2]):
                logits = module.heads[head][k](layers[layer][b, t]) / config.temperature
                loss += weight * F.cross_entropy(logits, labels[b, t, k] + config.special_rows) / len(config.layers)
    return loss + config.penalty_weight * count * local.penalty, count


@pytest.mark.parametrize(("unmasked_weight", "special_rows"), [(0.0, 0), (0.5, 2)])
def test_loss_is_that_of_each_layer_and_frame(unmasked_weight, special_rows):
    config = FastHuBERT.Config(
        labels=NAMES, layers=(1, 2), mask_length=3, same_count=False, unmasked_weight=unmasked_weight,
        penalty_weight=0.3, special_rows=special_rows,
    )  # fmt: skip
    module = objective(config).eval()
    items = [utterance(1), utterance(2, 2.0)]
    batch = make_batch(module, items)
    views = [module.views(item, np.random.default_rng([0, k])) for k, item in enumerate(items)]
    labels = to_tensors(collate(views, ["1", "2"]))["labels"]
    result = module(batch)
    loss, count = oracle(module, batch, labels, config)
    assert result.count == count > 10
    torch.testing.assert_close(result.loss_sum, loss, rtol=1e-5, atol=1e-4)
    assert {"masked_accuracy", "masked_0_accuracy"} <= set(result.metrics)


def test_every_second_label_at_25_hz():
    module = objective(FastHuBERT.Config(labels=NAMES, layers=(2,)))
    item = utterance(1)
    view = module.views(item, np.random.default_rng(0))
    assert view["labels"][:, 0].tolist() == item.columns["units/a"][::2].tolist()


def test_each_layer_and_label_set_has_its_classifier():
    module = objective(FastHuBERT.Config(labels=NAMES, layers=(1, 2), mask_length=3))
    assert [[head.out_features for head in heads] for heads in module.heads] == [[7, 5], [7, 5]]
    module(make_batch(module, [utterance(1), utterance(2)])).loss_sum.backward()
    assert all(p.grad is not None and p.grad.any() for p in module.heads.parameters())


@pytest.mark.parametrize("layers", [(), (0, 2), (2, 1), (1, 1)])
def test_layers_that_are_none_are_refused(layers):
    with pytest.raises(ValueError, match=r"objective.layers"):
        FastHuBERT.Config(layers=layers)


def test_layers_beyond_the_encoder_are_refused():
    with pytest.raises(ValueError, match=r"objective.layers: \[4, 12\], but the encoder has 2; name those"):
        objective(FastHuBERT.Config(labels=NAMES))


def test_blocks_above_the_last_layer_are_refused():
    with pytest.raises(
        ValueError, match=r"objective.layers: \[1\] end below the encoder's 2 blocks.*set encoder.num_layers to 1"
    ):
        objective(FastHuBERT.Config(labels=NAMES, layers=(1,)))


def test_from_data_reads_the_codebook(tmp_path):
    (tmp_path / "units").mkdir()
    (tmp_path / "units" / "km.json").write_text(json.dumps({"codebook_size": 9, "rate": 50.0}))
    config = FastHuBERT.Config(labels=("km",), layers=(1, 2))
    module = FastHuBERT.from_data(FBank(FBank.Config.tiny()), config, tmp_path)
    assert module.heads[1][0].out_features == 9
    assert module.needs == ("units/km",)
