"""ASR: the recurrent head against NumPy, SpecAugment in training only, and characters."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from ctc_oracles import (
    DIM,
    LAYERS,
    Texts,
    array,
    batch_of,
    ctc_loss,
    frames,
    recurrent_logits,
    unsettle,
)  # fmt: skip

from audiossl.contracts import EncoderOutput, Utterance
from audiossl.diagnostics.sources import FeatureShape
from audiossl.tasks.speech_recognition import SpeechRecognition

SHAPE = FeatureShape(DIM, LAYERS, 320, 16_000)
TEXTS = ["AB BA", "C", "A"]


def make(**changed):
    torch.manual_seed(0)
    settings = {
        "vocabulary": "training",
        "projector_dim": 4,
        "hidden_dim": 3,
        "time_warp": 1,
        "time_width": 3,
        "frequency_width": 3,
    } | changed
    config = SpeechRecognition.Config(**settings)
    return unsettle(SpeechRecognition.from_data(SHAPE, config, Texts("text", TEXTS)))


def test_the_published_head_is_the_default():
    task = SpeechRecognition.from_data(
        FeatureShape(768, 12, 320, 16_000), SpeechRecognition.Config(), Texts("text", TEXTS)
    )
    assert task.projector.out_features == 1024
    lstm = task.blstm.layers
    assert (lstm.hidden_size, lstm.num_layers, lstm.bidirectional, lstm.dropout) == (1024, 2, True, 0.2)
    assert task.blstm.dropout.p == 0.2
    assert task.classifier.in_features == 2048
    assert task.classifier.out_features == len(task.vocabulary) == 32
    assert set("ABCDEFGHIJKLMNOPQRSTUVWXYZ'|") < set(task.vocabulary.tokens)


def test_a_word_ends_before_the_end():
    task = SpeechRecognition.from_data(SHAPE, SpeechRecognition.Config(), Texts("text", TEXTS))
    labels = pickle.loads(pickle.dumps(task.labels))
    found = labels(Utterance("u", np.zeros(1, np.float32), 16_000, {"text": " AB  BA"}))
    assert [task.vocabulary.tokens[index] for index in found["tokens"]] == [*"AB|BA|", "<eos>"]
    assert task.vocabulary.decode(found["tokens"]) == found["text"] == "AB BA"
    assert task.vocabulary.decode([3, *found["tokens"]]) == "AB BA"  # `<pad>` writes nothing
    with pytest.raises(ValueError, match=r"text: 'b' is not in the published list of characters; .* training$"):
        SpeechRecognition.from_data(SHAPE, SpeechRecognition.Config(), Texts("text", ["AB", "Ab"]))


def test_characters_of_other_texts():
    task = make()
    assert task.vocabulary.tokens == ("<blank>", "<unk>", "<eos>", "A", "B", "C", "|")
    found = task.labels(Utterance("u", np.zeros(1, np.float32), 16_000, {"text": "AB BA"}))
    assert [task.vocabulary.tokens[index] for index in found["tokens"]] == [*"AB|BA", "<eos>"]


def test_logits_equal_a_forward_pass_in_numpy():
    task, output = make().eval(), frames()
    logits = task.logits(output)
    for k, length in enumerate(output.lengths.tolist()):
        np.testing.assert_allclose(array(logits[k, :length]), recurrent_logits(task, output, k), atol=1e-5)


def test_loss_is_ctc_per_token():
    task, output = make().eval(), frames()
    batch = batch_of(task, TEXTS)
    assert batch["tokens_lengths"].tolist() == [6, 2, 2]
    step = task.loss(output, batch)
    wanted = sum(
        ctc_loss(recurrent_logits(task, output, k), task.vocabulary.encode(text).tolist()) / (len(text) + 1)
        for k, text in enumerate(TEXTS)
    )
    assert step.loss_sum.item() == pytest.approx(wanted, rel=1e-5)


def test_training_masks_warps_and_drops_by_the_seed_alone():
    task, output = make(dropout=0.0).train(), frames()

    def logits(seed, **changed):
        torch.manual_seed(seed)
        other = make(dropout=0.0, **changed).train()
        torch.manual_seed(seed)
        return other.logits(output)

    torch.manual_seed(1)
    first = task.logits(output)
    assert torch.equal(first, logits(1))
    assert not torch.equal(first, logits(2))
    assert not torch.equal(first, logits(1, time_warp=0))
    plain = logits(1, time_warp=0, num_time_masks=0, num_frequency_masks=0)
    torch.testing.assert_close(plain[0], make().eval().logits(output)[0])
    torch.manual_seed(1)
    dropped = make(dropout=0.5, time_warp=0, num_time_masks=0, num_frequency_masks=0).train()
    assert not torch.allclose(dropped.logits(output)[0], plain[0])


def test_gradients_reach_the_layer_weights_through_the_warp():
    task = make().train()
    torch.manual_seed(5)
    task.loss(frames(), batch_of(task, TEXTS)).loss_sum.backward()
    assert [name for name, p in task.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_padding_and_batch_mates_change_nothing():
    task, output = make().eval(), frames()
    alone = EncoderOutput([layer[1:2, :4] for layer in output.layers], torch.tensor([4]))
    torch.testing.assert_close(task.logits(output)[1, :4], task.logits(alone)[0])


def test_scores_are_error_rates_of_words_and_characters():
    scores = make().evaluate({"u0": "AB B", "u1": "C"}, Texts("text", TEXTS))
    assert scores == {"wer": pytest.approx(100 / 3), "cer": pytest.approx(100 / 6)}
    assert make().metric == ("wer", "min")


@pytest.mark.parametrize("changed", [{"hidden_dim": 0}, {"dropout": 1.0}, {"time_width": -1}, {"time_warp": -1}])
def test_bad_settings_are_named(changed):
    with pytest.raises(ValueError, match="^task: "):
        make(**changed)
