"""The x-vector head against NumPy on the same weights, its loss, and its score against the metrics on all trials."""

from __future__ import annotations

import math
import pickle
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ctc_oracles import Texts

from audiossl.contracts import EncoderOutput, Utterance
from audiossl.diagnostics.sources import FeatureShape
from audiossl.metrics.equal_error_rate import equal_error_rate
from audiossl.metrics.min_dcf import min_dcf
from audiossl.nn.vocabulary import Vocabulary
from audiossl.tasks.speaker_verification import SpeakerVerification

SPEAKERS = ["ann", "bob", "cid"]
CONTEXT = ((5, 1), (3, 2), (3, 3), (1, 1), (1, 1))


def make():
    torch.manual_seed(0)
    task = SpeakerVerification(6, 2, SpeakerVerification.Config.tiny(), Vocabulary.from_texts(SPEAKERS, "words"))
    torch.nn.init.normal_(task.weighted.layer_logits)
    return task


def output(lengths=(40, 23, 16)):
    torch.manual_seed(1)
    return EncoderOutput([torch.randn(len(lengths), max(lengths), 6) for _ in range(3)], torch.tensor(lengths))


def array(tensor):
    return tensor.detach().double().numpy()


def linear(x, layer):
    return x @ array(layer.weight).T + array(layer.bias)


def hidden_by_hand(task, layers):
    """layers: (layer, frame, dim) of one utterance. Frame t of a layer sees t, t + dilation ... of the one below."""
    logits = array(task.weighted.layer_logits)
    x = np.einsum("l,ltd->td", np.exp(logits) / np.exp(logits).sum(), layers)
    x = linear(x, task.projector)
    for conv, (kernel, dilation) in zip(task.convs, CONTEXT, strict=True):
        weight, bias = array(conv.weight), array(conv.bias)
        frames = len(x) - (kernel - 1) * dilation
        x = np.stack([bias + sum(weight[:, :, k] @ x[t + k * dilation] for k in range(kernel)) for t in range(frames)])
        x = np.maximum(x, 0)
    count = len(x)
    deviation = np.sqrt(np.maximum(((x - x.mean(0)) ** 2).sum(0) / count, 1e-5) * count / (count - 1))
    return np.maximum(linear(np.concatenate([x.mean(0), deviation]), task.first), 0)


def test_embeddings_equal_a_forward_pass_by_hand():
    task, frames = make().eval(), output()
    with torch.no_grad():
        found = task.predict(frames)
    for row, length in enumerate(frames.lengths.tolist()):
        wanted = hidden_by_hand(task, np.stack([array(layer[row, :length]) for layer in frames.layers]))
        assert (wanted > 0).sum() > 1
        np.testing.assert_allclose(found[row], wanted / np.linalg.norm(wanted), atol=1e-5)
        assert found[row].dtype == np.float32


def test_deviation_is_that_of_the_published_code():
    task, frames = make().eval(), output((40,))
    seen = []
    task.first.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0].detach()))
    x = task.projector(task.weighted(frames)).transpose(1, 2)
    for conv in task.convs:
        x = torch.relu(conv(x))
    task.hidden(frames)
    lively = x.std(dim=2) > 0.01
    torch.testing.assert_close(seen[0][:, 12:][lively], x.std(dim=2)[lively], rtol=1e-5, atol=1e-6)
    assert lively.any()


def test_loss_equals_am_softmax_by_hand():
    task, frames = make(), output()
    target = torch.tensor([2, 0, 1])
    step = task.loss(frames, {"label": target})
    total = 0.0
    for row, length in enumerate(frames.lengths.tolist()):
        hidden = hidden_by_hand(task, np.stack([array(layer[row, :length]) for layer in frames.layers]))
        embedding = np.maximum(linear(hidden, task.second), 0)
        cosines = [
            embedding @ w / np.linalg.norm(embedding) / np.linalg.norm(w) - 0.4 * (c == target[row])
            for c, w in enumerate(array(task.speakers))
        ]
        total -= math.log(math.exp(30 * cosines[target[row]]) / sum(math.exp(30 * c) for c in cosines))
    assert step.loss_sum.item() == pytest.approx(total, rel=1e-5)
    assert step.count == 3
    step.loss_sum.backward()
    assert [name for name, p in task.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_the_size_that_is_published():
    task = SpeakerVerification(
        768, 12, SpeakerVerification.Config(), Vocabulary.from_texts(map(str, range(1211)), "words")
    )
    tdnn = 512 * 512 * (5 + 3 + 3 + 1) + 512 * 1500 + 4 * 512 + 1500
    rest = 13 + 768 * 512 + 512 + 3000 * 512 + 512 + 512 * 512 + 512 + 1211 * 512
    assert sum(p.numel() for p in task.parameters()) == tdnn + rest
    assert (task.config.crop_seconds, task.config.min_seconds) == (8.0, 2.0)
    assert (task.config.gain_db, task.config.trim_silence) == (-3.0, True)
    assert task.selects_on_test
    assert task.metric == ("eer", "min")


def test_labels_and_experiments(tmp_path):
    task = make()
    labels = pickle.loads(pickle.dumps(task.labels))
    assert labels(Utterance("u", np.zeros(1), 16_000, {"utt2spk": "cid"}))["label"] == 2
    task.save_labels(tmp_path)
    again = SpeakerVerification.from_experiment(SimpleNamespace(dim=6, num_layers=2), task.config, tmp_path)
    again.load_state_dict(task.state_dict())


def test_one_speaker_is_refused():
    one = Texts("utt2spk", ["ann", "ann"], Path("data/train"))
    with pytest.raises(ValueError, match="train/utt2spk: has one speaker; give recordings of at least two"):
        SpeakerVerification.from_data(FeatureShape(6, 2, 320, 16_000), SpeakerVerification.Config.tiny(), one)


def test_a_recording_without_enough_frames_is_refused():
    with pytest.raises(ValueError, match=r"of 15 frames is too short for the speaker network \(16\)"):
        make().predict(output((40, 15)))


@pytest.mark.parametrize("form", ["{e} {t} {word}", "{digit} {e} {t}"])
def test_score_is_that_of_all_trials(tmp_path, form):
    rng = np.random.default_rng(0)
    names = [f"u{k}" for k in range(12)]
    embeddings = {name: rng.normal(size=8) + 1.5 * np.eye(8)[k % 3] for k, name in enumerate(names)}
    embeddings = {name: (v / np.linalg.norm(v)).astype(np.float32) for name, v in embeddings.items()}
    lines, scores, labels = [], [], []
    for k, enrol in enumerate(names):
        for j, test in enumerate(names[:k]):
            same = k % 3 == j % 3
            lines.append(form.format(e=enrol, t=test, word="target" if same else "nontarget", digit=int(same)))
            scores.append(float(embeddings[enrol].astype(float) @ embeddings[test].astype(float)))
            labels.append(same)
    (tmp_path / "trials").write_text("\n".join(lines) + "\n")
    found = make().evaluate(embeddings, SimpleNamespace(path=tmp_path))
    scores, labels = np.array(scores), np.array(labels)
    assert found == pytest.approx(
        {"eer": equal_error_rate(scores, labels), "min_dcf": min_dcf(scores, labels)}, abs=1e-6
    )
    assert 1 < found["eer"] < 49


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (None, "trials: no such file; write"),
        ("a b target\na c target\n", "trials:2: 'c' has no embedding; mend its recording"),
        ("a b\n", "trials:1: not `enrol test target|nontarget`"),
    ],
)
def test_faults_of_trials_are_named(tmp_path, lines, message):
    if lines is not None:
        (tmp_path / "trials").write_text(lines)
    with pytest.raises(ValueError) as error:
        make().evaluate(dict.fromkeys("ab", np.ones(2, np.float32)), SimpleNamespace(path=tmp_path))
    assert message in str(error.value)
