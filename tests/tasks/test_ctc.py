import itertools
import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from audiossl.config import build, to_table
from audiossl.contracts import EncoderOutput, Utterance
from audiossl.losses.ctc import ctc
from audiossl.nn.beam_search import PrefixBeam
from audiossl.nn.vocabulary import Vocabulary
from audiossl.tasks.ctc import CTC

VOCABULARY = Vocabulary.from_texts(["ab ba", "c"], "characters")  # <blank> <unk> a b c |


def task(config=None, vocabulary=VOCABULARY):
    torch.manual_seed(0)
    return CTC(6, 2, config or CTC.Config(), vocabulary).eval()


def output(batch=3, frames=9, lengths=(9, 6, 2)):
    generator = torch.Generator().manual_seed(0)
    layers = [torch.randn(batch, frames, 6, generator=generator) for _ in range(3)]
    return EncoderOutput(layers, torch.tensor(lengths))


def batch_of(texts, vocabulary=VOCABULARY):
    tokens = [torch.from_numpy(vocabulary.encode(text)) for text in texts]
    return {
        "tokens": torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True, padding_value=-1),
        "tokens_lengths": torch.tensor([len(item) for item in tokens]),
        "utt_ids": [f"utt{k}" for k in range(len(texts))],
    }


def spelling(path):
    """A task whose last layer is a one-hot of the path."""
    module = task()
    linear = torch.nn.Linear(6, 6, bias=False)
    torch.nn.init.eye_(linear.weight)
    module.head = linear
    return module, torch.nn.functional.one_hot(torch.tensor(path), 6).float()


def test_loss_is_the_sum_of_ctc_over_utterances():
    module, encoded, batch = task(), output(lengths=(9, 6, 4)), batch_of(["ab ba", "c", ""])
    result = module.loss(encoded, batch)
    separate = [
        ctc(
            module.logits(encoded)[k : k + 1, :length],
            torch.tensor([length]),
            batch["tokens"][k : k + 1, : batch["tokens_lengths"][k]],
            batch["tokens_lengths"][k : k + 1],
        ).loss.item()
        for k, length in enumerate(encoded.lengths.tolist())
    ]
    assert result.loss_sum.item() == pytest.approx(sum(separate), rel=1e-5)
    assert result.count == 3
    assert result.metrics["loss_per_token"][1] == 6
    assert result.metrics["impossible"][0] == 0


def test_impossible_alignments_are_counted_and_named_once(caplog):
    module, encoded, batch = task(), output(), batch_of(["ab ba", "c", "aa"])
    with caplog.at_level(logging.WARNING):
        result = module.loss(encoded, batch)
        module.loss(encoded, batch)
    assert [float(value) for value in result.metrics["impossible"]] == [1, 3]
    assert [record.getMessage().split(":")[0] for record in caplog.records] == ["utt2"]
    assert result.loss_sum.isfinite()


def test_unknown_tokens_and_blank_frames_are_counted():
    module, encoded = task(), output()
    result = module.loss(encoded, batch_of(["ax", "yz", "c"]))
    assert [float(value) for value in result.metrics["unknown_tokens"]] == [3, 5]
    best = [module.logits(encoded)[b, t].argmax() for b, n in enumerate((9, 6, 2)) for t in range(n)]
    assert [float(value) for value in result.metrics["blank_frames"]] == [sum(int(k) == 0 for k in best), 17]


@pytest.mark.parametrize("seed", range(5))
def test_greedy_reading_merges_then_drops_blanks(seed):
    path = np.random.default_rng(seed).integers(0, 6, (2, 12)).repeat(2, axis=1)
    module, features = spelling(path.tolist())
    lengths = [24, 15]
    texts = module.predict(EncoderOutput([features], torch.tensor(lengths)))
    for text, row, length in zip(texts, path, lengths, strict=True):
        merged = [token for token, _ in itertools.groupby(row[:length].tolist()) if token != 0]
        assert text == VOCABULARY.decode(merged)


def test_a_blank_between_keeps_a_double_letter():
    module, features = spelling([[2, 2, 0, 2, 5, 3, 3, 0]])
    assert VOCABULARY.tokens[2:] == ("a", "b", "c", "|")
    assert module.predict(EncoderOutput([features], torch.tensor([8]))) == ["aa b"]
    assert module.predict(EncoderOutput([features], torch.tensor([3]))) == ["a"]


def test_weighted_layers_begin_as_their_mean():
    module, encoded = task(CTC.Config(layers="weighted")), output()
    expected = module.head(torch.stack(encoded.layers).mean(0))
    torch.testing.assert_close(module.logits(encoded), expected)
    module.loss(encoded, batch_of(["ab", "c", "a"])).loss_sum.backward()
    assert module.weighted.layer_logits.grad.any()


def test_a_hidden_layer_is_there_when_asked_for():
    assert [type(part).__name__ for part in task(CTC.Config.tiny()).head] == [
        "Dropout", "Linear", "GELU", "Dropout", "Linear",
    ]  # fmt: skip
    assert [type(part).__name__ for part in task().head] == ["Dropout", "Linear"]


@pytest.mark.parametrize(
    ("tokens", "names"), [("characters", {"wer", "cer"}), ("words", {"wer", "cer"}), ("phones", {"per"})]
)
def test_scores(tokens, names):
    module = task(CTC.Config(tokens=tokens), Vocabulary.from_texts(["a b"], tokens))
    scores = module.score(["a c"], ["a b"])
    assert scores.keys() == names
    assert module.metric[0] in names
    assert module.metric[1] == "min"
    assert scores[module.metric[0]] == 50


def test_labels_of_an_utterance():
    utterance = Utterance("u", np.zeros(1, dtype=np.float32), 16000, {"text": " ab  c "})
    labels = task().labels(utterance)
    assert labels["text"] == "ab c"
    assert VOCABULARY.decode(labels["tokens"]) == "ab c"
    assert labels["tokens"].dtype == np.int64


class FakeManifest:
    path = "data/train"
    texts = ("ab ba", "c")

    def __len__(self):
        return len(self.texts)

    def column(self, name):
        return {"text": self.texts}[name]


def test_an_experiment_keeps_its_vocabulary(tmp_path):
    encoder = SimpleNamespace(dim=6, num_layers=2)
    module = CTC.from_data(encoder, CTC.Config(), FakeManifest())
    assert module.vocabulary == VOCABULARY
    module.save_labels(tmp_path)
    again = CTC.from_experiment(encoder, CTC.Config(), tmp_path)
    assert again.vocabulary == VOCABULARY
    again.load_state_dict(module.state_dict())


def test_word_pieces_are_learnt_from_the_training_text(tmp_path):
    pytest.importorskip("sentencepiece", reason="word pieces need the extra `asr`")
    encoder, config = SimpleNamespace(dim=6, num_layers=2), CTC.Config(tokens="bpe", bpe_size=8)
    module = CTC.from_data(encoder, config, FakeManifest())
    assert len(module.vocabulary) == 9 == module.head[-1].out_features
    module.save_labels(tmp_path)
    again = CTC.from_experiment(encoder, config, tmp_path)
    assert again.vocabulary == module.vocabulary
    labels = again.labels(Utterance("u", np.zeros(1, dtype=np.float32), 16000, {"text": "ab ba"}))
    assert again.vocabulary.decode(labels["tokens"]) == "ab ba"
    assert module.metric == ("wer", "min")


@pytest.mark.parametrize(("tokens", "size"), [("bpe", 0), ("bpe", -5), ("characters", 8)])
def test_a_number_of_pieces_goes_with_pieces(tokens, size):
    with pytest.raises(ValueError, match=rf"task\.bpe_size: {size} with tokens '{tokens}'"):
        CTC.Config(tokens=tokens, bpe_size=size)


@pytest.mark.parametrize(
    ("table", "column"),
    [
        ({}, "text"),
        ({"tokens": "words"}, "text"),
        ({"tokens": "phones"}, "utt2phones"),
        ({"tokens": "phones", "column": "text"}, "text"),
        ({"column": "utt2letters"}, "utt2letters"),
    ],
)
def test_phones_come_from_a_file_of_their_own(table, column):
    config = build(CTC.Config, table, "task")
    assert config.column == to_table(config)["column"] == column
    assert task(config, Vocabulary.from_texts(["a b"], config.tokens)).needs == (column,)


def test_a_decoder_reads_instead():
    module, encoded, seen = task(), output(), []

    def decoder(log_probs, lengths):
        seen.append((log_probs, lengths))
        return ["x"] * len(lengths)

    module.decoder = decoder
    assert module.predict(encoded) == ["x"] * 3
    log_probs, lengths = seen[0]
    torch.testing.assert_close(log_probs, module.logits(encoded).log_softmax(-1))
    assert lengths is encoded.lengths
    module.decoder = PrefixBeam(VOCABULARY, beam=5)
    assert len(module.predict(encoded)) == 3


def test_beam_search_of_sure_frames_is_the_greedy_text():
    path = np.random.default_rng(0).integers(0, 6, (2, 12)).repeat(2, axis=1)
    module, features = spelling(path.tolist())
    encoded = EncoderOutput([40 * features], torch.tensor([24, 15]))
    greedy = module.predict(encoded)
    module.decoder = PrefixBeam(VOCABULARY, beam=3)
    assert module.predict(encoded) == greedy
