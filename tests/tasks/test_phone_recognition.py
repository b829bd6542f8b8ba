"""PR: two linear layers on the weighted layers, CTC per phone, and phones from a lexicon."""

from __future__ import annotations

import logging
import pickle
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from ctc_oracles import DIM, LAYERS, Texts, array, batch_of, ctc_loss, frames, linear, mixed, unsettle

from audiossl.contracts import EncoderOutput, Utterance
from audiossl.diagnostics.sources import FeatureShape
from audiossl.tasks.phone_recognition import PhoneRecognition

SHAPE = FeatureShape(DIM, LAYERS, 320, 16_000)
TEXTS = ["AH0 B AH1", "B B", "AH0"]


def make(config=None, manifest=None):
    torch.manual_seed(0)
    config = config or PhoneRecognition.Config(vocabulary="training", projector_dim=4)
    return unsettle(PhoneRecognition.from_data(SHAPE, config, manifest or Texts("utt2phones", TEXTS)))


def test_tokens_are_stressed_phones_and_an_end():
    assert make().vocabulary.tokens == ("<blank>", "<unk>", "<eos>", "AH0", "AH1", "B")
    assert make().runner == "frames"
    assert make().metric == ("per", "min")


def test_the_published_phones_are_the_default(tmp_path):
    task = PhoneRecognition.from_data(SHAPE, PhoneRecognition.Config(), Texts("utt2phones", TEXTS))
    # The published list, as its file has it.
    listed = """SIL SPN AA0 AA1 AA2 AE0 AE1 AE2 AH0 AH1 AH2 AO0 AO1 AO2 AW0 AW1 AW2 AY0 AY1 AY2 B CH D DH EH0 EH1 EH2 ER0 ER1 ER2 EY0 EY1 EY2 F G HH
        IH0 IH1 IH2 IY0 IY1 IY2 JH K L M N NG OW0 OW1 OW2 OY0 OY1 OY2 P R S SH T TH UH0 UH1 UH2 UW0 UW1 UW2 V W Y Z ZH"""
    assert set(task.vocabulary.tokens) == {"<blank>", "<unk>", "<eos>", *listed.split()}
    assert task.classifier.weight.shape == (74, 256)
    for text in ("AH0 P", "AH"):
        strange = Texts("utt2phones", ["B", f"{text} Q"])
        with pytest.raises(
            ValueError, match=r"utt2phones: '(Q|AH)' is not in the published list of phones; .* training$"
        ):
            PhoneRecognition.from_data(SHAPE, PhoneRecognition.Config(), strange)
    lexicon = tmp_path / "lexicon.txt"
    lexicon.write_text("A\tAH0\nBE  B AH1\nA QQ\n")
    config = PhoneRecognition.Config(column="text", lexicon=(str(lexicon),))
    assert PhoneRecognition.from_data(SHAPE, config, Texts("text", ["A BE NEW"])).classifier.out_features == 74
    lexicon.write_text("A\tQQ\n")
    with pytest.raises(ValueError, match="text: 'QQ' is not in the published list"):
        PhoneRecognition.from_data(SHAPE, config, Texts("text", ["A BE NEW"]))


def test_logits_equal_a_forward_pass_in_numpy():
    task, output = make(), frames()
    logits = task.logits(output)
    for k, length in enumerate(output.lengths.tolist()):
        wanted = linear(linear(mixed(output, k, task.weighted.layer_logits), task.projector), task.classifier)
        np.testing.assert_allclose(array(logits[k, :length]), wanted, atol=1e-5)


def test_loss_is_the_mean_over_utterances_of_the_loss_per_token():
    task, output = make(), frames()
    batch = batch_of(task, TEXTS)
    assert batch["tokens_lengths"].tolist() == [4, 3, 2]  # <eos> counts
    step = task.loss(output, batch)
    wanted = 0.0
    for k, text in enumerate(TEXTS):
        logits = array(task.logits(output)[k, : output.lengths[k]])
        target = task.vocabulary.encode(text).tolist()
        wanted += ctc_loss(logits, target) / len(target)
    assert step.loss_sum.item() == pytest.approx(wanted, rel=1e-5)
    assert step.count == 3
    step.loss_sum.backward()
    assert [name for name, p in task.named_parameters() if not p.grad.any()] == []


def test_padding_and_batch_mates_change_nothing():
    task, output = make(), frames()
    alone = EncoderOutput([layer[1:2, :4] for layer in output.layers], torch.tensor([4]))
    assert task.predict(output)[1] == task.predict(alone)[0]


def test_the_end_is_not_scored():
    task = make()
    with torch.no_grad():
        task.classifier.weight.zero_()
        task.classifier.bias.copy_(torch.tensor([0.0, 0.0, 5.0, 4.0, 0.0, 0.0]))
    assert task.predict(frames()) == ["", "", ""]
    with torch.no_grad():
        task.classifier.bias[3] = 6.0
    assert task.predict(frames()) == ["AH0", "AH0", "AH0"]


def test_impossible_texts_are_named_once_for_all_copies(caplog):
    task, output = make(), frames()
    batch = batch_of(task, ["AH0", "B B B B", "AH0"])
    with caplog.at_level(logging.WARNING):
        for copy in (task, deepcopy(task), deepcopy(task)):
            step = copy.loss(output, batch)
    assert [float(value) for value in step.metrics["impossible"]] == [1, 3]
    assert [record.getMessage().split(":")[0] for record in caplog.records] == ["u1"]


def test_a_lexicon_turns_words_into_phones(tmp_path):
    lexicon = tmp_path / "lexicon.txt"
    lexicon.write_text("A\tAH0\nBE  B AH1\nA EY1\n")
    config = PhoneRecognition.Config(column="text", lexicon=(str(lexicon),), vocabulary="training", projector_dim=4)
    task = make(config, Texts("text", ["A BE", "NEW A"]))
    assert task.vocabulary.tokens[3:] == ("AH0", "AH1", "B")
    labels = pickle.loads(pickle.dumps(task.labels))
    found = labels(Utterance("u", np.zeros(1, np.float32), 16_000, {"text": "BE A"}))
    assert found["text"] == "B AH1 AH0"
    assert task.vocabulary.decode(found["tokens"]) == "B AH1 AH0"
    with pytest.raises(ValueError, match=r"^'NEW' is not in the lexicon .*lexicon.txt; add its pronunciation"):
        labels(Utterance("u", np.zeros(1, np.float32), 16_000, {"text": "NEW A"}))
    dev = Texts("text", ["BE BE", "A"])
    assert task.evaluate({"u1": "AH0", "u0": "B AH1 AH1"}, dev) == {"per": pytest.approx(20.0)}
    assert task.doubts(Texts("text", ["BE BE", "A"], Path("dev"))) == []  # of phones, though no word is one
    task.save_labels(tmp_path)
    again = PhoneRecognition.from_experiment(SHAPE, config, tmp_path)
    again.load_state_dict(task.state_dict())
    assert again.evaluate({"u0": "B AH1 B AH1"}, dev) == {"per": 0.0}


def test_scores_against_the_column_without_a_lexicon():
    assert make().evaluate({"u1": "B", "u0": "AH0 B AH1"}, Texts("utt2phones", TEXTS)) == {"per": pytest.approx(20.0)}
