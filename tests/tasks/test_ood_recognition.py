"""OOD-ASR: the projected recurrent head against NumPy, and what chooses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ctc_oracles import DIM, LAYERS, Texts, array, batch_of, blstm, ctc_loss, frames, linear, mixed, unsettle

from audiossl.contracts import EncoderOutput
from audiossl.diagnostics.sources import FeatureShape
from audiossl.tasks.ood_recognition import OODRecognition

SHAPE = FeatureShape(DIM, LAYERS, 320, 16_000)
TEXTS = ["ÑU 上", "海", "A"]


def make(shape=SHAPE, **changed):
    torch.manual_seed(0)
    settings = {"projector_dim": 4, "hidden_dim": 3, "time_warp": 1, "time_width": 3, "frequency_width": 3} | changed
    return unsettle(OODRecognition.from_data(shape, OODRecognition.Config(**settings), Texts("text", TEXTS)))


def by_hand(task, output, row, step=1):
    x = linear(mixed(output, row, task.weighted.layer_logits), task.projector)
    x = x[::step][: len(x) // step]
    for layer, projection in zip(task.blstm.layers, task.blstm.projections, strict=True):
        x = np.tanh(linear(blstm(x, layer.layers), projection))
    return linear(x, task.classifier)


@pytest.mark.parametrize("num_layers", [1, 2])
def test_logits_equal_a_forward_pass_in_numpy(num_layers):
    task, output = make(num_layers=num_layers).eval(), frames()
    logits = task.logits(output)
    for k, length in enumerate(output.lengths.tolist()):
        np.testing.assert_allclose(array(logits[k, :length]), by_hand(task, output, k), atol=1e-5)


def test_every_second_frame_of_10_ms_is_read():
    task, output = make(shape=FeatureShape(DIM, LAYERS, 160, 16_000)).eval(), frames()
    logits, lengths = task.logits(output), task.num_scored(output.lengths)
    assert lengths.tolist() == [4, 2, 3]
    for k, length in enumerate(lengths.tolist()):
        np.testing.assert_allclose(array(logits[k, :length]), by_hand(task, output, k, step=2), atol=1e-5)
    batch = batch_of(task, ["ÑU", "A", "A"])
    said = [np.argmax(by_hand(task, output, k, step=2), axis=1) for k in range(3)]
    kept = [[t for t, before in zip(row, [0, *row], strict=False) if t not in {0, before}] for row in said]
    assert task.predict(output) == [task.vocabulary.decode(row) for row in kept]
    wanted = sum(
        ctc_loss(by_hand(task, output, k, step=2), row[:n].tolist()) / int(n)
        for k, (row, n) in enumerate(zip(batch["tokens"], batch["tokens_lengths"], strict=True))
    )
    assert task.loss(output, batch).loss_sum.item() == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize(("stride", "rate", "step"), [(160, 16_000, 2), (320, 16_000, 1), (640, 16_000, 1), (1, 50, 1)])
def test_how_many_frames_are_read_is_known_again(tmp_path, stride, rate, step):
    task = make(shape=FeatureShape(DIM, LAYERS, stride, rate))
    task.save_labels(tmp_path)
    again = OODRecognition.from_experiment(FeatureShape(DIM, LAYERS, stride, rate), task.config, tmp_path)
    assert (task.step, again.step) == (step, step)


def test_the_published_head_is_the_default():
    task = OODRecognition.from_data(FeatureShape(768, 12, 320, 16_000), OODRecognition.Config(), Texts("text", TEXTS))
    assert [layer.layers.input_size for layer in task.blstm.layers] == [1024, 2048]
    assert {(layer.layers.hidden_size, layer.layers.bidirectional, layer.dropout.p) for layer in task.blstm.layers} == {
        (1024, True, 0.2)
    }
    assert {(each.in_features, each.out_features) for each in task.blstm.projections} == {(2048, 2048)}
    assert task.vocabulary.tokens == ("<blank>", "<unk>", "<eos>", "A", "U", "|", "Ñ", "上", "海")


def test_padding_and_batch_mates_change_nothing():
    task, output = make().eval(), frames()
    alone = EncoderOutput([layer[1:2, :4] for layer in output.layers], torch.tensor([4]))
    torch.testing.assert_close(task.logits(output)[1, :4], task.logits(alone)[0])


def test_gradients_reach_everything_and_dropout_is_on_in_training():
    task = make(dropout=0.5, time_warp=0, num_time_masks=0, num_frequency_masks=0).train()
    torch.manual_seed(1)
    step = task.loss(frames(), batch_of(task, TEXTS))
    step.loss_sum.backward()
    assert [name for name, p in task.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert step.loss_sum.item() != task.eval().loss(frames(), batch_of(task, TEXTS)).loss_sum.item()


def test_words_or_characters_choose():
    assert make().metric == ("wer", "min")
    assert make(chooses="cer").metric == ("cer", "min")
    scores = make().evaluate({"u0": "ÑU 海", "u1": "海"}, Texts("text", TEXTS))
    assert scores == {"wer": pytest.approx(100 / 3), "cer": pytest.approx(20.0)}
