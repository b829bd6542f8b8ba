"""ASR: the recurrent head against NumPy, SpecAugment in training only, characters, and words of a language model."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

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
from audiossl.data.ngram import train_ngrams, write_arpa
from audiossl.diagnostics.sources import FeatureShape
from audiossl.nn.lm_beam import LMBeam
from audiossl.tasks.speech_recognition import Decoding, SpeechRecognition

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


@pytest.mark.parametrize("rate", [25, 100])
def test_no_time_mask_is_longer_than_its_share_of_the_utterance(rate):
    task = make(time_warp=0, num_time_masks=1, num_frequency_masks=0, time_width=40, time_fraction=0.2).train()
    lengths = torch.tensor([rate, rate // 2])  # of one second, and of half
    torch.manual_seed(0)
    hidden = torch.stack([(task._augmented(torch.ones(2, rate, DIM), lengths) == 0).all(2).sum(1) for _ in range(300)])
    assert hidden.amax(0).tolist() == [rate // 5, rate // 10]
    assert (task._augmented(torch.ones(2, rate, DIM), lengths)[1, rate // 2 :] == 1).all()


def test_padding_and_batch_mates_change_nothing():
    task, output = make().eval(), frames()
    alone = EncoderOutput([layer[1:2, :4] for layer in output.layers], torch.tensor([4]))
    torch.testing.assert_close(task.logits(output)[1, :4], task.logits(alone)[0])


def test_scores_are_error_rates_of_words_and_characters():
    scores = make().evaluate({"u0": "AB B", "u1": "C"}, Texts("text", TEXTS))
    assert scores == {"wer": pytest.approx(100 / 3), "cer": pytest.approx(100 / 6)}
    assert make().metric == ("wer", "min")


@pytest.fixture
def decoding(tmp_path):
    pytest.importorskip("flashlight.lib.text", reason="language models need the extra `lm`")
    write_arpa(train_ngrams([text.split() for text in TEXTS], 2), tmp_path / "lm.arpa")
    (tmp_path / "lexicon.txt").write_text("AB A B |\nBA B A |\nC C |\nA A |\n")
    return Decoding(str(tmp_path / "lm.arpa"), str(tmp_path / "lexicon.txt"))


@torch.no_grad()
def test_the_head_that_dev_chose_reads_with_a_language_model_too(decoding):
    task = copy.deepcopy(make(decoding=decoding)).eval()  # as heads of several learning rates are
    output, plain = frames(), make().eval()
    assert task.state_dict().keys() == plain.state_dict().keys()
    assert task.predict(output) == plain.predict(output)
    assert task.score(["AB"], ["AB"]).keys() == {"wer", "cer"}
    task.final = True
    found = task.predict(output)
    beam = LMBeam(
        task.vocabulary, beam=5, lm=Path(decoding.lm), lexicon=Path(decoding.lexicon), lm_weight=2.0, word_score=-1.0
    )
    words = beam(task.logits(output).log_softmax(dim=2), output.lengths)
    assert found == list(zip(plain.predict(output), words, strict=True))
    assert set(" ".join(words).split()) <= {"AB", "BA", "C", "A"}
    assert words != [greedily for greedily, _ in found]
    scores = task.evaluate({"u0": ("AB B", "AB BA"), "u1": ("C", "A")}, Texts("text", TEXTS))
    assert scores == {"wer": pytest.approx(100 / 3), "cer": pytest.approx(100 / 6), "wer_lm": pytest.approx(100 / 3)}


def test_a_score_depends_on_the_language_model_on_test_alone(decoding):
    config = SpeechRecognition.Config(decoding=decoding)
    assert SpeechRecognition.label_files(config, "dev") == ("text",)
    assert SpeechRecognition.label_files(config, "test") == ("text", decoding.lm, decoding.lexicon)
    assert SpeechRecognition.label_files(SpeechRecognition.Config(), "test") == ("text",)
    with pytest.raises(ValueError, match="beam 0 keeps no hypothesis"):
        make(decoding=Decoding(decoding.lm, decoding.lexicon, beam=0))


@pytest.mark.parametrize(
    "changed", [{"hidden_dim": 0}, {"dropout": 1.0}, {"time_width": -1}, {"time_warp": -1}, {"time_fraction": 1.1}]
)
def test_bad_settings_are_named(changed):
    with pytest.raises(ValueError, match="^task: "):
        make(**changed)
