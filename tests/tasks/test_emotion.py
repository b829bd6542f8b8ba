"""Emotion: the classifier of utterances on `utt2emotion`, and its two accuracies."""

from __future__ import annotations

import pytest
import torch

from audiossl import registry
from audiossl.config import build
from audiossl.contracts import EncoderOutput
from audiossl.diagnostics.linear_probe import ProbeConfig
from audiossl.nn.vocabulary import Vocabulary

Emotion = registry.get("tasks", "emotion")


def make():
    torch.manual_seed(0)
    return Emotion(8, 2, Emotion.Config.tiny(), Vocabulary.from_texts(["sad", "neu", "ang", "hap"], "words"))


def test_column_classes_and_probe_settings():
    task = make()
    assert task.needs == ("utt2emotion",)
    assert task.classes == ("ang", "hap", "neu", "sad")
    assert task.metric == ("accuracy", "max")
    assert task.runner == "pooled"
    assert build(ProbeConfig, dict(task.probe), "probe").steps >= 1000


def test_predictions_are_names():
    task = make()
    with torch.no_grad():
        task.head.classifier.bias[3] = 1e3
    output = EncoderOutput([torch.randn(2, 4, 8) for _ in range(3)], torch.tensor([4, 2]))
    assert task.predict(output) == ["sad", "sad"]


def test_accuracy_counts_utterances_and_recall_classes():
    found = make().score(["neu"] * 4, ["neu", "neu", "neu", "sad"])
    assert found == {"accuracy": 75.0, "unweighted_average_recall": pytest.approx(50.0)}
