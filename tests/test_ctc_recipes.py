"""Recipes of fine-tuning train as was published, or as their headers say where nothing was."""

from __future__ import annotations

import pytest
import torch

from audiossl import registry
from audiossl.config import build, find_recipe, load_toml
from audiossl.encoders.wav2vec2 import Wav2Vec2
from audiossl.train.fine_tune import FineTuneConfig
from audiossl.train.loop import TrainConfig
from audiossl.train.optim import OptimConfig, learning_rate

# Peak of the learning rate, updates, micro-batches per update in one process, updates that the encoder rests, masked frames and channels
# (probability, length), LayerDrop.
FULL = {
    "ctc_full": (3e-5, 80_000, 8, 0, (0.65, 10), (0.5, 64), 0.1),
    "ctc_10h": (5e-5, 20_000, 8, 10_000, (0.65, 10), (0.5, 64), 0.05),
    "ctc_1h": (5e-5, 13_000, 8, 10_000, (0.65, 10), (0.25, 64), 0.1),
    "ctc_10min": (5e-5, 13_000, 8, 10_000, (0.65, 10), (0.25, 64), 0.1),
}
# Masks of full fine-tuning; the rest is a choice of ours that no later change may move unseen.
OURS = {
    "ctc_adapters": (5e-4, 40_000, 1, 0, (0.65, 10), (0.5, 64), 0.0),
    "ctc_lora": (5e-4, 40_000, 1, 0, (0.65, 10), (0.5, 64), 0.0),
    "ctc_top_layers": (5e-5, 40_000, 1, 0, (0.65, 10), (0.5, 64), 0.0),
    "ctc_mms": (1e-3, 4_000, 1, 0, (0.3, 10), (0.0, 64), 0.0),
    "ctc_frozen": (1e-3, 20_000, 1, 0, (0.0, 10), (0.0, 64), 0.0),
}
ADAPTERS = {
    **dict.fromkeys(FULL, ("full", {"freeze_frontend": True})),
    "ctc_adapters": ("houlsby", {"bottleneck": 256, "num_top_layers": 6, "train_norms": False, "kernel": 1}),
    "ctc_lora": ("lora", {"targets": ("query", "value"), "rank": 8, "alpha": 8.0, "num_top_layers": 0}),
    "ctc_mms": ("mms", {"bottleneck": 16}),
    "ctc_top_layers": ("top_layers", {"num_top_layers": 4}),
    "ctc_frozen": ("frozen", {}),
}


def adapter_of(tables):
    cls = registry.get("adapters", tables["adapter"]["name"])
    options = {key: value for key, value in tables["adapter"].items() if key != "name"}
    return cls(build(cls.Config, options, "adapter"))


@pytest.mark.parametrize(("name", "told"), (FULL | OURS).items())
def test_trains_as_published(name, told):
    tables = load_toml(find_recipe(name))
    optim, train = build(OptimConfig, tables["optim"], "optim"), build(TrainConfig, tables["train"], "train")
    masks = build(FineTuneConfig, tables["finetune"], "finetune")
    frames, channels = (masks.mask_prob, masks.mask_length), (masks.channel_mask_prob, masks.channel_mask_length)
    found = (optim.peak_lr, train.max_steps, train.accumulate, masks.freeze_steps, frames, channels, masks.layer_drop)
    assert found == told
    assert (optim.schedule, optim.tri_stage, optim.warmup_steps) == ("tri_stage", (0.1, 0.4, 0.5), 0)
    assert (optim.optimizer, optim.betas, optim.weight_decay) == ("adamw", (0.9, 0.98), 0.0)
    peak, steps = told[:2]
    rates = [learning_rate(round(share * steps), steps, optim) for share in (0.05, 0.1, 0.5, 1.0)]
    assert rates == pytest.approx([0.5 * peak, peak, peak, 0.05 * peak], rel=0.02)


@pytest.mark.parametrize("name", FULL)
def test_full_fine_tuning_is_regularised_as_published(name):
    tables = load_toml(find_recipe(name))
    names = ("dropout", "attention_dropout", "activation_dropout", "dropout_input")
    assert [tables["encoder"][part] for part in names] == [0.0, 0.0, 0.1, 0.0]
    assert (tables["optim"]["eps"], tables["train"]["clip_norm"], tables["data"]["batch_seconds"]) == (1e-8, 0.0, 200.0)


@pytest.mark.parametrize(("name", "told"), ADAPTERS.items())
def test_adapters_are_those_of_the_papers(name, told):
    tables = load_toml(find_recipe(name))
    kind, options = told
    adapter = adapter_of(tables)
    assert tables["adapter"]["name"] == kind
    assert {option: getattr(adapter.config, option) for option in options} == options
    assert tables["task"]["tokens"] == "characters"
    assert tables["task"]["layers"] == ("weighted" if kind == "frozen" else "last")


# Percent of a base encoder's parameters that train, without the output layer: 4.77 is 6 of 12 layers of 788,480 (Thomas et al., 2022).
@pytest.mark.parametrize(("name", "share"), [("ctc_adapters", 4.77), ("ctc_lora", 0.31), ("ctc_frozen", 0.0)])
def test_so_much_of_a_base_encoder_trains(name, share):
    encoder = inserted(name)
    trained = sum(p.numel() for p in encoder.parameters() if p.requires_grad)
    assert 100 * trained / sum(p.numel() for p in encoder.parameters()) == pytest.approx(share, abs=0.01)


@pytest.mark.parametrize("name", FULL | OURS)
def test_the_frontend_rests(name):
    encoder = inserted(name)
    assert not any(p.requires_grad for p in encoder.frontend.parameters())
    assert any(p.requires_grad for p in encoder.transformer.parameters()) == (name != "ctc_frozen")


def inserted(name):
    with torch.device("meta"):
        encoder = Wav2Vec2(Wav2Vec2.Config())
        adapter_of(load_toml(find_recipe(name))).insert(encoder)
    return encoder
