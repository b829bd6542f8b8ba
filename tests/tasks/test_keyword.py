"""Keyword and speaker: the task side of fine-tuning, and the settings that the probe takes from it."""

from __future__ import annotations

import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from audiossl import registry
from audiossl.config import build
from audiossl.contracts import EncoderOutput, Utterance
from audiossl.diagnostics.linear_probe import ProbeConfig
from audiossl.nn.vocabulary import Vocabulary

WORDS = ["yes", "no", "left"]


def make(name="keyword"):
    torch.manual_seed(0)
    cls = registry.get("tasks", name)
    return cls(8, 2, cls.Config.tiny(), Vocabulary.from_texts(WORDS, cls.Config.tokens))


def output(batch=3):
    return EncoderOutput([torch.randn(batch, 5, 8) for _ in range(3)], torch.tensor([5, 3, 1][:batch]))


def utterance(text, column="utt2keyword"):
    return Utterance("u1", np.zeros(10, np.float32), 16_000, {column: text})


@pytest.mark.parametrize(("name", "column"), [("keyword", "utt2keyword"), ("speaker", "utt2spk")])
def test_column_classes_and_probe_settings(name, column):
    task = make(name)
    assert task.needs == (column,)
    assert task.classes == ("left", "no", "yes")
    assert task.metric == ("accuracy", "max")
    assert build(ProbeConfig, dict(task.probe), "probe").steps >= 1000


def test_labels_number_the_classes_and_travel_to_workers():
    labels = pickle.loads(pickle.dumps(make().labels))
    assert labels(utterance("left")) == {"label": 0, "text": "left"}
    assert labels(utterance("yes"))["label"] == 2
    assert labels(utterance("never"))["label"] == -100
    with pytest.raises(ValueError, match="u1: utt2keyword says 'two words'"):
        labels(utterance("two words"))


def test_classes_of_an_experiment_are_those_of_its_data(tmp_path):
    class Words:
        path = tmp_path

        def __len__(self):
            return 4

        def column(self, name):
            assert name == "utt2keyword"
            return ["up", "down", "up", "on"]

    encoder = SimpleNamespace(dim=8, num_layers=2)
    cls = registry.get("tasks", "keyword")
    task = cls.from_data(encoder, cls.Config.tiny(), Words())
    task.save_labels(tmp_path)
    again = cls.from_experiment(encoder, cls.Config.tiny(), tmp_path)
    assert task.classes == again.classes == ("down", "on", "up")
    again.load_state_dict(task.state_dict())


def test_loss_is_the_sum_of_cross_entropies_and_unknown_classes_add_none():
    task, frames = make(), output()
    step = task.loss(frames, {"label": torch.tensor([2, -100, 0])})
    logits = task.head(frames)
    wanted = F.cross_entropy(logits[0], torch.tensor(2)) + F.cross_entropy(logits[2], torch.tensor(0))
    torch.testing.assert_close(step.loss_sum, wanted)
    assert step.count == 3
    assert step.metrics["unknown"][0] == 1
    step.loss_sum.backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in task.parameters())


def test_predictions_are_class_names_and_scored_in_percent():
    task = make()
    with torch.no_grad():
        task.head.classifier.bias[1] = 1e3
    assert task.predict(output()) == ["no"] * 3
    assert task.score(["no", "no"], ["no", "yes"]) == {"accuracy": 50.0}


def test_it_learns_to_tell_constant_features_apart():
    task = make()
    layers = [torch.eye(3, 8)[:, None].expand(3, 4, 8) for _ in range(3)]
    frames, batch = EncoderOutput(layers, torch.tensor([4, 4, 4])), {"label": torch.tensor([2, 0, 1])}
    optimiser = torch.optim.Adam(task.parameters(), lr=0.1)
    for _ in range(60):
        optimiser.zero_grad()
        task.loss(frames, batch).loss_sum.backward()
        optimiser.step()
    assert task.predict(frames) == ["yes", "left", "no"]
