"""Pseudo-labels: which utterances the gate lets through, and when it closes."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from two_crops import SAMPLES, encoder, noise

from audiossl.config import build, find_recipe, load_toml
from audiossl.data.audio import write_audio
from audiossl.data.manifest import Manifest
from audiossl.data.writer import CorpusUtterance, write_data_dir
from audiossl.objectives._classes import Classes
from audiossl.objectives._speaker import MarginConfig
from audiossl.objectives.pseudo_label import PseudoLabel
from audiossl.objectives.supervised_speaker import SupervisedSpeaker

LABELS = [2, 0, -1, 1, 1, 0]


def made(**options):
    own = encoder()
    torch.manual_seed(1)
    config = PseudoLabel.Config(crop_duration=0.3, margin=MarginConfig(), scale=5.0, **options)
    module = PseudoLabel(own, config, Classes("utt2cluster", 0, ("c0", "c1", "c2"), (2**64 - 1,) * 3)).train()
    module.encoder.eval()
    return module


def batch_of(labels):
    waveform = noise(len(LABELS))["waveform"][: len(labels), :SAMPLES]
    return {
        "waveform": waveform,
        "waveform_lengths": torch.full((len(labels),), SAMPLES),
        "label": torch.tensor(labels),
    }


def losses_of(module):
    """Of each row by itself, nan without a label."""
    module.eval()
    rows = [module(batch_of(LABELS[: k + 1])) for k in range(len(LABELS))]
    module.train()
    sums = [0.0, *(row.loss_sum.item() for row in rows)]
    return [after - before for before, after in pairwise(sums)]


def test_labels_are_those_of_clusters():
    assert made().needs == ("utt2cluster",)


def test_only_cheap_labels_are_learnt_from_once_the_gate_closes():
    losses = [loss for loss, label in zip(losses_of(made()), LABELS, strict=True) if label >= 0]
    gate = sorted(losses)[2] + 1e-3
    module = made(gate=gate, gate_after=2)
    for step in (1, 2):
        output = module(batch_of(LABELS))
        assert output.count == 5
        assert output.loss_sum.item() == pytest.approx(sum(losses), rel=1e-4)
        module.after_step(step)
    output = module(batch_of(LABELS))
    assert output.count == 3
    assert output.loss_sum.item() == pytest.approx(sum(sorted(losses)[:3]), rel=1e-4)
    assert output.metrics["kept"] == (3.0, 5.0)
    assert output.metrics["accuracy"][1] == 5.0
    assert module.eval()(batch_of(LABELS)).count == 5


def test_a_closed_gate_is_part_of_the_state():
    module, other = made(gate=1e-6, gate_after=1), made(gate=1e-6, gate_after=1)
    module.after_step(1)
    other.load_state_dict(module.state_dict())
    output = other(batch_of(LABELS))
    assert (output.count, output.loss_sum) == (0.0, 0.0)
    output.loss_sum.backward()
    assert not other.vectors.grad.any()
    assert made(gate=1e-6, gate_after=0)(batch_of(LABELS)).count == 0


def test_gate_that_lets_nothing_through():
    with pytest.raises(ValueError, match="gate 0 must be positive and gate_after 5 at least 0"):
        PseudoLabel.Config(gate=0, gate_after=5)


def test_utterances_without_a_line_are_left_out(tmp_path):
    """As `audiossl cluster` leaves them, of recordings that could not be embedded; a missing speaker is a fault."""
    write_audio(tmp_path / "a.wav", 0.1 * np.ones(160), 16000)
    names = [f"u{number}" for number in range(6)]
    rows = [CorpusUtterance(name, name, tmp_path / "a.wav", name) for name in names]
    write_data_dir(rows, tmp_path / "data")
    (tmp_path / "data" / "utt2cluster").write_text("u0 c1\nu1 c0\nu3 c1\nu5 c2\n")
    manifest = Manifest.open(tmp_path / "data")
    module = PseudoLabel.from_data(encoder(), PseudoLabel.Config(crop_duration=0.3), manifest.path)
    assert module.classes.names == ("c0", "c1", "c2")
    assert list(module.labelled(manifest).ids) == ["u0", "u1", "u3", "u5"]
    with pytest.raises(ValueError, match="utt2cluster: no line for utterance 'u2'"):
        SupervisedSpeaker.from_data(encoder(), SupervisedSpeaker.Config("utt2cluster"), manifest.path)


def test_the_recipe_is_the_published_one():
    table = {key: value for key, value in load_toml(find_recipe("pseudo_label"))["objective"].items() if key != "name"}
    config = build(PseudoLabel.Config, table, "pseudo_label")
    assert (config.crop_duration, config.scale, config.gate) == (3.0, 30.0, 1.0)
    assert config.margin == MarginConfig("additive_angular", 0.2)
