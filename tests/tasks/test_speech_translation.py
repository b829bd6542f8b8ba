"""ST: the encoder-decoder against torch's own layers on the same weights, its loss against NumPy, its beams against a search in plain Python."""

from __future__ import annotations

import math
import pickle
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ctc_oracles import DIM, LAYERS, Texts, array, frames, unsettle
from torch import nn

from audiossl.contracts import EncoderOutput, Utterance
from audiossl.diagnostics.sources import FeatureShape
from audiossl.nn.bpe import BPE
from audiossl.tasks._token_beam import best_texts
from audiossl.tasks._translator import positions
from audiossl.tasks.speech_translation import SpeechTranslation

pytest.importorskip("sacrebleu", reason="ST is scored by the extra `st`")

SHAPE = FeatureShape(DIM, LAYERS, 320, 16_000)
TEXTS = ["Ja, da!", "ab", "Du da"]


def make(texts=TEXTS, **changed):
    torch.manual_seed(0)
    config = replace(SpeechTranslation.Config.tiny(), **changed)
    return unsettle(SpeechTranslation.from_data(SHAPE, config, Texts(config.column, texts)))


def batch_of(task, texts=TEXTS):
    tokens = [torch.from_numpy(task.labels(Utterance("u", None, 16_000, {"text": text}))["tokens"]) for text in texts]
    lengths = torch.tensor([len(one) for one in tokens])
    return {
        "tokens": nn.utils.rnn.pad_sequence(tokens, batch_first=True, padding_value=-1), "tokens_lengths": lengths,
    }  # fmt: skip


def attention_into(theirs, ours):
    ins = (ours.query, ours.key, ours.value)
    theirs.in_proj_weight.copy_(torch.cat([layer.weight for layer in ins]))
    theirs.in_proj_bias.copy_(torch.cat([layer.bias for layer in ins]))
    theirs.out_proj.load_state_dict(ours.out.state_dict())


@torch.no_grad()
def torchs(block, config):
    """Torch's layer with the weights of a block."""
    kind = nn.TransformerEncoderLayer if block.seeing is None else nn.TransformerDecoderLayer
    layer = kind(config.dim, config.num_heads, config.ffn_dim, dropout=0.0, batch_first=True, norm_first=True)
    attention_into(layer.self_attn, block.attention)
    norms = [block.attention_norm, *([block.seeing_norm] if block.seeing else []), block.wide_norm]
    for place, norm in enumerate(norms, start=1):
        getattr(layer, f"norm{place}").load_state_dict(norm.state_dict())
    if block.seeing is not None:
        attention_into(layer.multihead_attn, block.seeing)
    layer.linear1.load_state_dict(block.wide.state_dict())
    layer.linear2.load_state_dict(block.narrow.state_dict())
    return layer.double()


@torch.no_grad()
def by_hand(task, output, row, tokens):
    """Logits of one utterance alone, in float64 and without padding."""
    net, config = task.translator, task.config
    weights = task.weighted.layer_logits.double().softmax(0)
    length = int(output.lengths[row])
    x = sum(w * layer[row, :length].double() for w, layer in zip(weights, output.layers, strict=True)).T[None]
    for conv in net.convs:
        x = nn.functional.conv1d(x, conv.weight.double(), conv.bias.double(), stride=2, padding=conv.padding)
        values, gates = x.chunk(2, dim=1)
        x = values * torch.sigmoid(gates)
    x = x.transpose(1, 2)

    def placed(x):
        return math.sqrt(config.dim) * x + torch.from_numpy(sinusoids(x.shape[1], config.dim))

    def norm(layer, x):
        return nn.functional.layer_norm(x, (config.dim,), layer.weight.double(), layer.bias.double())

    x = placed(x)
    for block in net.encoder:
        x = torchs(block, config)(x)
    x = norm(net.encoder_norm, x)
    y = placed(net.embedding.weight.double()[tokens][None])
    causal = nn.Transformer.generate_square_subsequent_mask(len(tokens), dtype=torch.float64)
    for block in net.decoder:
        y = torchs(block, config)(y, x, tgt_mask=causal)
    return (norm(net.decoder_norm, y) @ net.output.weight.double().T)[0].numpy()


def sinusoids(count, dim):
    table = np.zeros((count, dim))
    for place in range(count):
        for k in range(dim // 2):
            angle = place / 10_000 ** (k / (dim // 2 - 1))
            table[place, k], table[place, dim // 2 + k] = np.sin(angle), np.cos(angle)
    return table


def test_logits_equal_those_of_torchs_layers():
    task, output = make().eval(), frames()
    tokens = torch.tensor([[0, 3, 2, 5], [0, 4, 4, 0], [0, 1, 0, 0]])
    logits = task.logits(output, tokens)
    for row in range(3):
        np.testing.assert_allclose(array(logits[row]), by_hand(task, output, row, tokens[row]), atol=1e-5)


def test_positions_go_on_where_they_stopped():
    torch.testing.assert_close(positions(3, 4, 8), positions(0, 7, 8)[3:])


def test_steps_give_what_all_at_once_gives():
    task, output = make().eval(), frames()
    tokens = torch.tensor([[0, 3, 2, 5], [0, 4, 4, 1], [0, 1, 5, 2]])
    wanted = task.logits(output, tokens)
    memory, past = task._memory(output), None
    for place in range(4):
        # Two rows for each utterance.
        logits, past = task.translator.step(memory, tokens[:, place].repeat_interleave(2), past)
        torch.testing.assert_close(logits, wanted[:, place].repeat_interleave(2, dim=0), atol=1e-5, rtol=1e-4)


def test_loss_is_the_smoothed_cross_entropy():
    task, output = make(label_smoothing=0.2).eval(), frames()
    batch = batch_of(task)
    total = count = 0
    for row, text in enumerate(TEXTS):
        own = task.vocabulary.encode(text).tolist()
        logits = by_hand(task, output, row, torch.tensor([0, *own]))
        logp = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        others = 0.2 / (logp.shape[1] - 1)
        for place, token in enumerate([*own, 0]):
            total -= 0.8 * logp[place, token] + others * np.delete(logp[place], token).sum()
            count += 1
    step = task.loss(output, batch)
    assert step.loss_sum.item() == pytest.approx(total, rel=1e-5)
    assert step.count == 3
    assert [float(x) for x in step.metrics["loss_per_token"]] == pytest.approx([total, count], rel=1e-5)


def test_gradients_reach_everything_and_dropout_is_on_in_training():
    # Two heads of the first block may well be silent in so small a network, but not a whole matrix.
    task = make(dropout=0.5, dim=16, ffn_dim=32).train()
    torch.manual_seed(1)
    step = task.loss(frames(), batch_of(task))
    step.loss_sum.backward()
    assert [name for name, p in task.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert step.loss_sum.item() != task.eval().loss(frames(), batch_of(task)).loss_sum.item()


def test_padding_and_batch_mates_change_nothing():
    task, output = make().eval(), frames()
    tokens = torch.tensor([[0, 3, 2]])
    alone = EncoderOutput([layer[1:2, :4] for layer in output.layers], torch.tensor([4]))
    torch.testing.assert_close(task.logits(output, tokens.expand(3, 3))[1], task.logits(alone, tokens)[0])
    assert task.predict(output)[1] == task.predict(alone)[0]


def searched(score, width, max_tokens, mark=0):
    """Beam search over one utterance. score: from tokens to log-probabilities of the next."""
    beams, ended = [(0.0, ())], []
    for length in range(1, max_tokens + 2):
        ways = []
        for total, tokens in beams:
            for token, gain in enumerate(score(tokens)):
                if token == mark if length == 1 else length > max_tokens and token != mark:
                    continue
                ways.append((total + gain, tokens, token))
        ways = sorted(ways, key=lambda way: -way[0])[: 2 * width]
        ended += [(total / length, tokens) for total, tokens, token in ways[:width] if token == mark]
        if len(ended) >= width or length > max_tokens:
            break
        beams = [(total, (*tokens, token)) for total, tokens, token in ways if token != mark][:width]
    return list(max(ended)[1])


@pytest.mark.parametrize("width", [1, 2, 3, 9])
def test_beams_are_those_of_a_search_in_python(width):
    """A random table of what follows the last two tokens, other for each utterance; in some texts end soon, in others not at all."""
    rng = np.random.default_rng(0)
    tables = rng.normal(0.0, 2.0, (6, 5, 5, 5))
    tables[1::2, ..., 0] -= 4.0
    tables -= np.log(np.exp(tables).sum(axis=-1, keepdims=True))

    def step(tokens, past):
        # `past` is anything by row: here the tokens so far, as keys and as values.
        so_far = tokens[:, None] if past is None else torch.cat([past[0][0], tokens[:, None]], dim=1)
        before = so_far[:, -2] if so_far.shape[1] > 1 else torch.zeros_like(tokens)
        utterance = torch.arange(6).repeat_interleave(width)
        return torch.from_numpy(tables)[utterance, before, tokens].clone(), [(so_far, so_far)]

    found = best_texts(step, 6, width=width, max_tokens=7, mark=0, device=torch.device("cpu"))
    for row, tokens in enumerate(found):

        def score(said, row=row):
            said = (0, 0, *said)
            return tables[row, said[-2], said[-1]]

        assert tokens == searched(score, width, 7)
    assert {len(tokens) for tokens in found} > {7}


def test_predictions_are_the_best_texts_of_the_search():
    task, output = make(beam=3).eval(), frames()
    with torch.no_grad():
        task.translator.output.weight *= 4  # or else all tokens are as good
        said = task.predict(output)
    for row, text in enumerate(said):

        def score(tokens, row=row):
            logits = by_hand(task, output, row, torch.tensor([0, *tokens]))[-1]
            return logits - np.log(np.exp(logits).sum())

        assert text == task.vocabulary.decode(searched(score, 3, task.config.max_tokens))
    assert any(said)


def test_the_published_network_is_the_default():
    config = SpeechTranslation.Config()
    task = SpeechTranslation.from_data(FeatureShape(768, 12, 320, 16_000), config, Texts("utt2translation", TEXTS))
    net = task.translator
    assert [(c.in_channels, c.out_channels, c.kernel_size, c.stride) for c in net.convs] == [
        (768, 1024, (5,), (2,)), (512, 1024, (5,), (2,))
    ]  # fmt: skip
    assert (len(net.encoder), len(net.decoder)) == (3, 3)
    for block in (*net.encoder, *net.decoder):
        assert (block.wide.in_features, block.wide.out_features, block.attention.num_heads) == (512, 2048, 8)
        assert block.dropout.p == block.attention.chance == 0.1
    assert (config.label_smoothing, config.beam, config.max_tokens, config.tokenizer) == (0.1, 20, 400, "13a")
    assert task.vocabulary.tokens == ("<blank>", "<unk>", *sorted(set("|" + "".join(TEXTS).replace(" ", ""))))


@torch.no_grad()
def test_weights_start_as_published():
    """Largest weights: Xavier's for the output of attention, 1/sqrt(2) of it for its inputs, and 1/sqrt(inputs) where torch's are kept."""
    task = make(dim=64, ffn_dim=256, num_heads=4)
    xavier = math.sqrt(6 / 128)
    for block in (*task.translator.encoder, *task.translator.decoder):
        for attention in filter(None, (block.attention, block.seeing)):
            for layer in (attention.query, attention.key, attention.value):
                assert 0.99 < float(layer.weight.abs().max()) / (xavier / math.sqrt(2)) <= 1.0001
                assert 0.8 < float(layer.bias.abs().max()) * 8 <= 1.0001
            assert 0.99 < float(attention.out.weight.abs().max()) / xavier <= 1.0001
            assert not attention.out.bias.any()
        for layer in (block.wide, block.narrow):
            assert 0.99 < float(layer.weight.abs().max()) * math.sqrt(layer.in_features) <= 1.0001
            assert layer.bias.any()


def test_texts_in_another_case_are_told():
    task, column = make(), SpeechTranslation.Config.tiny().column
    assert task.doubts(Texts(column, TEXTS, Path("dev"))) == []
    with pytest.raises(ValueError, match=r"^dev/text: training has none of the 3 tokens looked at.* lower case"):
        task.doubts(Texts(column, ["B", "BU"], Path("dev")))


def test_labels_and_state_survive(tmp_path):
    task = make()
    labels = pickle.loads(pickle.dumps(task.labels))
    assert (
        labels(Utterance("u", None, 16_000, {"text": "da  ab"}))["tokens"].tolist()
        == batch_of(task, ["da ab"])["tokens"].tolist()[0]
    )
    task.save_labels(tmp_path)
    other = SpeechTranslation.from_experiment(SHAPE, task.config, tmp_path)
    other.load_state_dict(task.state_dict())
    assert other.eval().predict(frames()) == task.eval().predict(frames())


def test_word_pieces_are_tokens_too(tmp_path):
    task = make(["da ab da du", "du ab", "da da ab"], bpe_size=10).eval()
    assert isinstance(task.vocabulary, BPE)
    assert task.loss(frames(), batch_of(task, ["da ab", "du", "ab"])).loss_sum.isfinite()
    assert all(isinstance(text, str) for text in task.predict(frames()))
    task.save_labels(tmp_path)
    assert SpeechTranslation.from_experiment(SHAPE, task.config, tmp_path).vocabulary == task.vocabulary


def test_a_text_is_learnt_by_heart_and_scored():
    texts = ["Wo ist das Haus?", "Da ist ein Hund.", "Das Haus ist da!"]
    task = make(texts, dim=32, ffn_dim=32, conv_dim=16, max_tokens=30, dropout=0.0, label_smoothing=0.0).train()
    optimizer = torch.optim.Adam(task.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        step = task.loss(frames(), batch_of(task, texts))
        (step.loss_sum / step.count).backward()
        optimizer.step()
    with torch.no_grad():
        said = task.eval().predict(frames())
    assert said == texts
    manifest = Texts("text", texts)
    assert task.evaluate(dict(zip(manifest.ids, said, strict=True)), manifest) == {"bleu": pytest.approx(100.0)}
    assert task.metric == ("bleu", "max")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"beam": 0}, "at least 1"),
        ({"conv_kernels": ()}, "at least 1"),
        ({"conv_kernels": (4,)}, "must be odd"),
        ({"dim": 7}, "must be positive and even"),
        ({"num_heads": 3}, "dim: 8 is not a multiple of num_heads 3"),
        ({"dropout": 1.0}, "dropout 1.0"),
    ],
)
def test_bad_settings_are_named(changed, message):
    with pytest.raises(ValueError, match=message):
        make(**changed)


def test_what_cannot_be_measured_is_named_before_training(monkeypatch):
    with pytest.raises(ValueError, match="unknown tokenizer 'zhx'"):
        make(tokenizer="zhx")
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    with pytest.raises(ValueError, match=r"pip install 'audiossl\[st\]'"):
        make()
