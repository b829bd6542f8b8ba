"""Each way in which training dies is injected into a real objective, and the run is stopped with its diagnosis."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from audiossl.contracts import Utterance
from audiossl.data.collate import collate, to_tensors
from audiossl.encoders.vq_wav2vec import VQWav2Vec as VQEncoder
from audiossl.encoders.wav2vec2 import Wav2Vec2
from audiossl.objectives.best_rq import BestRQ
from audiossl.objectives.data2vec2 import Data2Vec2
from audiossl.objectives.dinosr import DinoSR
from audiossl.objectives.hubert import HuBERT
from audiossl.objectives.sela import SeLa
from audiossl.objectives.spidr import SpidR
from audiossl.objectives.unispeech_sat import UniSpeechSAT
from audiossl.objectives.vq_wav2vec import VQWav2Vec
from audiossl.objectives.wav2vec2 import Wav2Vec2 as Contrastive
from audiossl.train.monitor import CollapseConfig, CollapseError, CollapseMonitor

CODES = 7


def metrics_of(module, labels=None):
    """What a step of the objective logs, on two utterances of noise."""
    rng = np.random.default_rng(0)
    count = round(getattr(module.config, "label_rate", 100))
    views = []
    for number in range(2):
        waveform = rng.standard_normal(16000).astype(np.float32)
        units = {name: rng.integers(0, CODES, count) for name in module.needs}
        if labels is not None:
            units[module.needs[0]] = np.full(count, labels)
        views.append(module.views(Utterance(str(number), waveform, 16000, units), rng))
    batch = to_tensors(module.batch_views(collate(views, ["0", "1"]), rng))
    torch.manual_seed(0)
    output = module(batch)
    logged = {name: float(total / count) for name, (total, count) in output.metrics.items()}
    return logged | {"loss": float(output.loss_sum.detach() / output.count)}


def made(cls, *extra, **changes):
    torch.manual_seed(0)
    if cls is VQWav2Vec:
        return cls(VQEncoder(replace(VQEncoder.Config.tiny(), **changes)), cls.Config.tiny())
    return cls(Wav2Vec2(Wav2Vec2.Config.tiny()), replace(cls.Config.tiny(), **changes), *extra)


def constant_encoder(module):
    torch.nn.init.zeros_(module.encoder.transformer.layers[-1].ffn_norm.weight)


def one_dimension(module):
    norm = module.encoder.transformer.layers[-1].ffn_norm
    with torch.no_grad():
        norm.weight[1:] = 0.0


def dead_quantiser(module):
    for parameter in module.quantiser.logits.parameters():
        torch.nn.init.zeros_(parameter)


def one_dead_group(module):
    """Of the quantiser's two groups the second has equal logits everywhere, the first lives on."""
    entries = module.quantiser.entries
    with torch.no_grad():
        module.quantiser.logits.weight[entries:] = 0.0
        module.quantiser.logits.bias[entries:] = 0.0


def one_constant_group(module):
    """Of the features that are quantised the second half is 0 everywhere."""
    with torch.no_grad():
        module.encoder.quantiser.projection.weight[module.encoder.dim // 2 :] = 0.0


def one_dead_book(module):
    """All but one of the entries of the second book are far from everything."""
    module.codebooks.sums[1, 1:] = 1e3


def one_dead_projection(module):
    """The second book sees nothing of its input."""
    module.quantiser.projection[1] = 0.0


def one_dead_head(module):
    with torch.no_grad():
        module.head.weight[module.config.clusters :] = 0.0
        module.head.bias[module.config.clusters :] = 0.0


def dead_predictions(module):
    for projection in module.projections:
        torch.nn.init.zeros_(projection.weight)


def dead_decoder(module):
    torch.nn.init.zeros_(module.head.weight)


INJECTED = {
    "embedding_std": (HuBERT, ((CODES,),), constant_encoder, None),
    "effective_rank": (HuBERT, ((CODES,),), one_dimension, None),
    "prediction_perplexity": (HuBERT, ((CODES,),), dead_predictions, None),
    "target_perplexity": (HuBERT, ((CODES,),), None, 3),
    "code_perplexity": (UniSpeechSAT, ((CODES,),), dead_quantiser, None),
    "live_negatives": (Contrastive, (), dead_quantiser, None),
    "prediction_std": (Data2Vec2, (), dead_decoder, None),
}


# One of two codebooks, groups or label sets, beside a live one.
HIDDEN = {
    UniSpeechSAT: ("code_perplexity", ((CODES,),), {}, one_dead_group, None),
    VQWav2Vec: ("code_perplexity", (), {"quantiser": "kmeans"}, one_constant_group, None),
    Contrastive: ("target_perplexity", (), {}, one_dead_group, None),
    DinoSR: ("target_perplexity", (), {}, one_dead_book, None),
    SpidR: ("target_perplexity", (), {}, one_dead_book, None),
    BestRQ: ("target_perplexity", (), {}, one_dead_projection, None),
    SeLa: ("target_perplexity", (), {}, one_dead_head, None),
    HuBERT: ("target_perplexity", ((CODES, CODES),), {"labels": ("a", "b")}, None, 3),
}


@pytest.mark.parametrize("cls", HIDDEN)
def test_a_dead_codebook_does_not_hide_behind_a_live_one(cls):
    name, extra, changes, inject, labels = HIDDEN[cls]
    healthy = metrics_of(made(cls, *extra, **changes).eval())
    module = made(cls, *extra, **changes).eval()
    if inject is not None:
        inject(module)
    sick = metrics_of(module, labels)
    assert sick[name] == pytest.approx(1.0)
    assert healthy[name] > 1.5
    config = CollapseConfig(grace_steps=0, patience=1)
    CollapseMonitor(config).watch(1, {name: healthy[name]})
    with pytest.raises(CollapseError, match=f"{name} = 1 < 1.5"):
        CollapseMonitor(config).watch(1, {name: sick[name]})


@pytest.mark.parametrize("name", INJECTED)
def test_injected_collapse_stops_the_run(name):
    cls, extra, inject, labels = INJECTED[name]
    config = CollapseConfig(grace_steps=0)
    assert config.patience < 200

    healthy = metrics_of(made(cls, *extra).eval())
    assert healthy[name] >= getattr(config, name)

    module = made(cls, *extra).eval()
    if inject is not None:
        inject(module)
    sick = metrics_of(module, labels)
    monitor = CollapseMonitor(config)
    for step in range(1, config.patience):
        monitor.watch(step, {name: sick[name]})
    with pytest.raises(CollapseError, match=rf"{name} = .* < "):
        monitor.watch(config.patience, {name: sick[name]})


def test_a_loss_of_zero_from_dead_negatives_is_no_success():
    module = made(Contrastive).eval()
    dead_quantiser(module)
    metrics = metrics_of(module)
    assert metrics["contrastive_bits"] == 0.0  # looks perfect
    assert metrics["live_negatives"] == 0.0


def test_a_short_dip_is_forgiven_and_the_start_is_not_looked_at():
    monitor = CollapseMonitor(CollapseConfig(grace_steps=10, patience=5))
    for step in range(1, 15):
        monitor.watch(step, {"target_std": 0.0})
    monitor.watch(15, {"target_std": 1.0})
    for step in range(16, 20):
        monitor.watch(step, {"target_std": 0.0})
    with pytest.raises(CollapseError, match="target_std = 0 < 0.001 for 5 steps: the targets are the same everywhere"):
        monitor.watch(20, {"target_std": 0.0})


def test_it_can_be_switched_off():
    monitor = CollapseMonitor(CollapseConfig(enabled=False))
    for step in range(1000):
        monitor.watch(step, {"target_std": 0.0})
