"""Intent: three labels of one head, right only together."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from audiossl import registry
from audiossl.contracts import EncoderOutput, Utterance
from audiossl.nn.vocabulary import Vocabulary

Intent = registry.get("tasks", "intent")
CLASSES = (("activate", "bring"), ("heat", "lamp", "shoes"), ("kitchen", "none"))
COLUMNS = ("utt2action", "utt2object", "utt2location")


def make(seed=0):
    torch.manual_seed(seed)
    return Intent(8, 2, Intent.Config.tiny(), *(Vocabulary.from_texts(names, "words") for names in CLASSES))


def frames(batch=3):
    rows = torch.randn(3, batch, 5, 8, generator=torch.Generator().manual_seed(0))
    return EncoderOutput(list(rows), torch.tensor([5, 3, 1][:batch]))


def test_columns_classes_and_files(tmp_path):
    task = make()
    assert task.needs == Intent.Config().columns == COLUMNS
    assert task.sizes == (2, 3, 2)
    assert task.classes == tuple(name for names in CLASSES for name in names)
    task.save_labels(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {f"classes_{name[4:]}.json" for name in COLUMNS}
    encoder = type("Shape", (), {"dim": 8, "num_layers": 2})
    again = Intent.from_experiment(encoder, Intent.Config.tiny(), tmp_path)
    assert again.classes == task.classes
    again.load_state_dict(task.state_dict())


def test_labels_number_each_class_and_travel_to_workers():
    labels = pickle.loads(pickle.dumps(make().labels))

    def said(*words):
        return labels(Utterance("u1", np.zeros(10, np.float32), 16_000, dict(zip(COLUMNS, words, strict=True))))

    found = said("bring", "shoes", "none")
    assert found["label"].tolist() == [1, 2, 1]
    assert found["text"] == "bring shoes none"
    assert said("bring", "never", "kitchen")["label"].tolist() == [1, -100, 0]
    with pytest.raises(ValueError, match="u1: utt2object says 'two words'"):
        said("bring", "two words", "none")


def test_loss_logits_and_hits_are_those_of_numpy():
    task, output = make(), frames()
    labels = torch.tensor([[1, 2, 0], [0, 0, 1], [0, -100, 1]])
    state = {name: value.numpy() for name, value in task.head.state_dict().items()}
    weights = np.exp(state["weighted.layer_logits"]) / np.exp(state["weighted.layer_logits"]).sum()
    total, logits = 0.0, np.empty((3, 7))
    for row, length in enumerate(output.lengths.tolist()):
        x = sum(
            w * layer[row, :length].numpy().astype(np.float64) for w, layer in zip(weights, output.layers, strict=True)
        )
        x = (x @ state["projector.weight"].T + state["projector.bias"]).mean(axis=0)
        logits[row] = x @ state["classifier.weight"].T + state["classifier.bias"]
        for part, label in zip(np.split(logits[row], [2, 5]), labels[row].tolist(), strict=True):
            total += np.log(np.exp(part).sum()) - part[label] if label >= 0 else 0.0
    np.testing.assert_allclose(task.head(output).detach().numpy(), logits, atol=1e-5)
    step = task.loss(output, {"label": labels})
    assert float(step.loss_sum.detach()) == pytest.approx(total, abs=1e-5)
    best = np.stack([part.argmax(1) for part in np.split(logits, [2, 5], axis=1)], axis=1)
    assert step.metrics["accuracy"][0] == (best == labels.numpy()).all(axis=1).sum()
    assert step.metrics["unknown"][0] == 1
    assert step.count == 3
    names = [" ".join(CLASSES[slot][index] for slot, index in enumerate(row)) for row in best]
    assert task.predict(output) == names
    step.loss_sum.backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in task.parameters())
    right = torch.from_numpy(best)
    assert task.loss(output, {"label": right}).metrics["accuracy"][0] == 3
    right[:, 1] = (right[:, 1] + 1) % 3
    assert task.loss(output, {"label": right}).metrics["accuracy"][0] == 0
    torch.testing.assert_close(F.softmax(task.head.weighted.layer_logits, 0), task.layer_shares())


def test_all_three_must_be_right_and_each_is_counted():
    found = make().score(["a b c", "a b d", "x b d", "x y z"], ["a b c", "a b c", "a b c", "a b c"])
    assert found == {"accuracy": 25.0, "accuracy_action": 50.0, "accuracy_object": 75.0, "accuracy_location": 25.0}


def test_evaluate_joins_the_columns_by_utterance(tmp_path):
    class Said:
        path, ids = tmp_path, ["u1", "u2"]

        def column(self, name):
            return {
                "utt2action": ["bring", "bring "],
                "utt2object": ["lamp", "heat"],
                "utt2location": ["none", "none"],
            }[name]

    found = make().evaluate({"u2": "bring heat none", "u1": "bring heat none"}, Said())
    assert (found["accuracy"], found["accuracy_object"], found["accuracy_action"]) == (50.0, 50.0, 100.0)


def test_config_refuses_what_are_not_several_columns():
    for columns in (("utt2action",), ("utt2action", "utt2action")):
        with pytest.raises(ValueError, match="task.columns"):
            Intent.Config(columns=columns)
