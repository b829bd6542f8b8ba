"""The diarisation head against NumPy on the same weights, labels of pieces, and every value that is scored."""

from __future__ import annotations

import itertools
import pickle
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from audiossl.contracts import EncoderOutput, Utterance
from audiossl.data.piece import Piece
from audiossl.data.turns import UTT2TURNS, Turn, turn_labels, turn_spans, write_turns
from audiossl.metrics.diarization_error_rate import diarization_error_rate
from audiossl.tasks.diarization import MEDIANS, THRESHOLDS, Diarization

SHAPE = SimpleNamespace(dim=6, num_layers=2, stride=320, sample_rate=16_000)
LINE = write_turns([Turn("a", 0.2, 1.4), Turn("b", 0.9, 2.0)])


def make(**changed):
    torch.manual_seed(0)
    task = Diarization.from_data(SHAPE, replace(Diarization.Config.tiny(), **changed), None)
    torch.nn.init.normal_(task.weighted.layer_logits)
    torch.nn.init.normal_(task.output.weight)
    return task


def output(lengths=(30, 17, 4)):
    torch.manual_seed(1)
    return EncoderOutput([torch.randn(len(lengths), max(lengths), 6) for _ in range(3)], torch.tensor(lengths))


def array(tensor):
    return tensor.detach().double().numpy()


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def logits_by_hand(task, layers):
    """layers: (layer, frame, dim) of one recording; gates in the order input, forget, cell, output (Hochreiter and Schmidhuber, 1997)."""
    shares = np.exp(array(task.weighted.layer_logits))
    x = np.einsum("l,ltd->td", shares / shares.sum(), layers)
    net, size = task.recurrent, task.config.hidden_dim
    h, c, rows = np.zeros(size), np.zeros(size), []
    for frame in x:
        gates = (
            array(net.weight_ih_l0) @ frame
            + array(net.bias_ih_l0)
            + array(net.weight_hh_l0) @ h
            + array(net.bias_hh_l0)
        )
        i, f, g, o = gates.reshape(4, size)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        rows.append(array(task.output.weight) @ h + array(task.output.bias))
    return np.stack(rows)


def by_hand(task, frames):
    for row, length in enumerate(frames.lengths.tolist()):
        yield logits_by_hand(task, np.stack([array(layer[row, :length]) for layer in frames.layers]))


def test_probabilities_equal_a_forward_pass_by_hand():
    task, frames = make().eval(), output()
    with torch.no_grad():
        found = task.predict(frames)
    for prediction, logits in zip(found, by_hand(task, frames), strict=True):
        np.testing.assert_allclose(prediction, sigmoid(logits), atol=1e-5)
        assert prediction.dtype == np.float32


def test_loss_is_that_of_the_better_order_over_labelled_frames():
    task, frames = make(), output()
    counts = [31, 15, 4]  # one frame too few, two too many, as many
    labels = torch.rand(3, 31, 2, generator=torch.Generator().manual_seed(3)) < 0.5
    for row, count in enumerate(counts):
        labels[row, count:] = False
    step = task.loss(frames, {"turns": labels, "turns_lengths": torch.tensor(counts)})
    total, right = 0.0, 0.0
    for row, logits in enumerate(by_hand(task, frames)):
        logits = np.concatenate([logits, logits[-1:]])[: counts[row]]
        wanted = labels[row, : counts[row]].numpy()
        options = []
        for order in itertools.permutations(range(2)):
            chances = np.where(wanted[:, order], sigmoid(logits), 1 - sigmoid(logits))
            options.append((-np.log(chances).mean(1).sum(), ((logits > 0) == wanted[:, order]).mean(1).sum()))
        total, right = total + min(options)[0], right + min(options)[1]
    assert step.loss_sum.item() == pytest.approx(total, rel=1e-5)
    assert step.count == 50
    assert step.metrics["accuracy"][0].item() == pytest.approx(right)
    step.loss_sum.backward()
    assert [name for name, p in task.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_labels_are_those_of_the_piece():
    labels = pickle.loads(pickle.dumps(make().labels))
    piece = Piece("m", np.zeros(0, np.float32), 16_000, {UTT2TURNS: LINE}, start=0.5, seconds=1.01)
    turns = [Turn("a", 0.2, 1.4), Turn("b", 0.9, 2.0)]
    np.testing.assert_array_equal(labels(piece)["turns"], turn_labels(turns, start=0.5, num_frames=50, rate=50.0))
    whole = Utterance("m", np.zeros(35_000, np.float32), 16_000, {UTT2TURNS: LINE})
    assert labels(whole)["turns"].shape == (109, 2)
    alone = Utterance("m", np.zeros(16_000, np.float32), 16_000, {UTT2TURNS: "a 0 1"})
    assert labels(alone)["turns"].sum(0).tolist() == [50, 0]


@pytest.mark.parametrize(
    ("line", "message"),
    [("a 0 1 b 0 1 c 0 1", "m: 3 speakers, where the head tells 2 apart"), ("a 0", "m: utt2turns says 'a 0', not")],
)
def test_faults_of_turns_are_named(line, message):
    with pytest.raises(ValueError, match=message):
        make().labels(Utterance("m", np.zeros(16_000, np.float32), 16_000, {UTT2TURNS: line}))


def recordings():
    """Predictions that are right now and then, in either order of speakers; some have a frame less than there are labels."""
    rng = np.random.default_rng(0)
    lines, durations, predictions, references = [], [], {}, []
    for k in range(6):
        turns = [Turn(s, a, a + rng.uniform(0.3, 2)) for s in "ab" for a in rng.uniform(0, 3, 3)]
        lines.append(write_turns(turns))
        durations.append(4.0 + 0.013 * k)
        frames = int(durations[-1] * 50 + 1e-6)
        reference = turn_labels(turns, start=0.0, num_frames=frames, rate=50.0)
        heard = np.where(rng.random(reference.shape) < 0.8, reference, ~reference)[:, :: (-1) ** k]
        prediction = (0.5 + (heard - 0.5) * rng.random(heard.shape)).astype(np.float32)
        predictions[f"m{k}"] = prediction[: frames - k % 2]
        references.append(reference)
    manifest = SimpleNamespace(ids=list(predictions), durations=np.array(durations), column=lambda _name: lines)
    return predictions, manifest, references


def repeated(prediction, frames):
    return np.concatenate([prediction, prediction[-1:]])[:frames]


def in_seconds(predictions, manifest, threshold, median):
    """What tools say that read turns from files: a sweep over the time between any two of their ends, and every mapping."""
    wrong = total = 0.0
    for probabilities, line in zip(predictions, manifest.column(UTT2TURNS), strict=True):
        words = line.split()
        truth = [("ab".index(s), float(a), float(b)) for s, a, b in zip(*[iter(words)] * 3, strict=True)]
        above = np.pad(probabilities > threshold, ((median // 2, median // 2), (0, 0)))
        active = [[np.median(above[t : t + median, s]) for s in range(2)] for t in range(len(probabilities))]
        system = [(s, t / 50, (t + 1) / 50) for t, row in enumerate(active) for s in range(2) if row[s]]
        times = sorted({edge for _, *pair in [*system, *truth] for edge in pair})
        errors = [0.0, 0.0]
        for start, end in itertools.pairwise(times):
            middle = (start + end) / 2
            heard = {s for s, a, b in system if a < middle < b}
            talking = {s for s, a, b in truth if a < middle < b}
            for order in range(2):
                right = {s ^ order for s in heard} & talking
                errors[order] += (end - start) * (max(len(heard), len(talking)) - len(right))
            total += (end - start) * len(talking)
        wrong += min(errors)
    return 100 * wrong / total


def test_turns_that_reach_beyond_the_last_frame_are_missed_there():
    talking, frame, seconds = turn_spans([Turn("b", 0.05, 0.13), Turn("a", 0.0, 0.04)], num_frames=5, rate=50.0)
    np.testing.assert_allclose(seconds, [0.02, 0.02, 0.01, 0.01, 0.02, 0.02, 0.03])
    assert frame.tolist() == [0, 1, 2, 2, 3, 4, 5]
    assert talking.T.astype(int).tolist() == [[1, 1, 0, 0, 0, 0, 0], [0, 0, 0, 1, 1, 1, 1]]
    lines = ["a 0 1 b 0.5 1.01"]
    manifest = SimpleNamespace(ids=["m"], durations=np.array([1.015]), column=lambda _name: lines)
    found = make().evaluate({"m": np.stack([np.ones(50), np.arange(50) >= 25], axis=1)}, manifest)
    assert found["der_0.5_1"] == pytest.approx(100 * 0.01 / 1.51)


def test_evaluation_is_that_of_time_at_every_setting():
    predictions, manifest, references = recordings()
    found = make().evaluate(predictions, manifest)
    full = [repeated(p, len(r)) for p, r in zip(predictions.values(), references, strict=True)]
    frames = set()
    for threshold, median in itertools.product(THRESHOLDS, MEDIANS):
        wanted = in_seconds(full, manifest, threshold, median)
        assert found[f"der_{threshold}_{median}"] == pytest.approx(wanted, rel=1e-9)
        frames.add(diarization_error_rate(full, references, threshold=threshold, median=median) - wanted)
    assert max(map(abs, frames)) > 0.1  # to count frames is not the same
    accuracies = []
    for probability, wanted in zip(full, references, strict=True):
        p = probability.astype(np.float64)
        options = [
            (-np.log(np.where(wanted[:, order], p, 1 - p)).sum(), ((p > 0.5) == wanted[:, order]).mean())
            for order in itertools.permutations(range(2))
        ]
        accuracies.append(min(options)[1])
    assert found["accuracy"] == pytest.approx(100 * np.mean(accuracies))
    assert len(found) == 11
    # In chunks, each has the order that suits it.
    chunked = make(chunk_frames=37).evaluate(predictions, manifest)
    pieces = [
        (p[k : k + 37], r[k : k + 37]) for p, r in zip(full, references, strict=True) for k in range(0, len(r), 37)
    ]
    wanted = []
    for probability, truth in pieces:
        p = probability.astype(np.float64)
        options = [
            (-np.log(np.where(truth[:, order], p, 1 - p)).sum(), ((p > 0.5) == truth[:, order]).mean())
            for order in itertools.permutations(range(2))
        ]
        wanted.append(min(options)[1])
    assert chunked["accuracy"] == pytest.approx(100 * np.mean(wanted))
    assert {**chunked, "accuracy": found["accuracy"]} == found


def test_threshold_and_median_are_chosen_on_dev_and_officially_on_test():
    names = [f"der_{t}_{m}" for t in THRESHOLDS for m in MEDIANS]
    dev = {name: 20.0 - k for k, name in enumerate(names)} | {"der_0.4_11": 1.0, "accuracy": 90.0}
    test = {name: 10.0 + k for k, name in enumerate(names)} | {"accuracy": 80.0}
    values, official, settings = make().settle(dev, test)
    assert values == test | {"der": test["der_0.4_11"]}
    assert official == {"der": 10.0}
    assert settings == {"threshold": 0.4, "median": 11, "official_threshold": 0.3, "official_median": 1}


def test_an_experiment_needs_no_labels(tmp_path):
    task = make()
    task.save_labels(tmp_path)
    assert not list(tmp_path.iterdir())
    again = Diarization.from_experiment(SHAPE, task.config, tmp_path)
    again.load_state_dict(task.state_dict())
    assert again.rate == 50.0


def test_settings_that_cannot_be():
    with pytest.raises(ValueError, match=r"task\.speakers: 9 is not from 1 to 6"):
        Diarization.Config(speakers=9)
    with pytest.raises(ValueError, match=r"task\.chunk_frames: 0 is not positive"):
        Diarization.Config(chunk_frames=0)
