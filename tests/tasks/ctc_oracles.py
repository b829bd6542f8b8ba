"""Slow NumPy float64 versions of the heads that are trained by CTC, and small inputs for them."""

from __future__ import annotations

import numpy as np
import torch

from audiossl.contracts import EncoderOutput

DIM, LAYERS, LENGTHS = 5, 2, (9, 4, 7)


def frames(seed=0):
    """Layers of (3, 9, 5) with rubbish in the padding."""
    generator = torch.Generator().manual_seed(seed)
    return EncoderOutput(
        [torch.randn(3, 9, DIM, generator=generator) for _ in range(LAYERS + 1)], torch.tensor(LENGTHS)
    )


def unsettle(task):
    """Layer weights that differ."""
    with torch.no_grad():
        task.weighted.layer_logits.copy_(torch.tensor([0.3, -1.0, 0.7]))
    return task


def array(tensor):
    return tensor.detach().double().numpy()


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def mixed(output, utterance, logits):
    """Weighted layers of one utterance: (frame, dim)."""
    weights = np.exp(array(logits)) / np.exp(array(logits)).sum()
    length = int(output.lengths[utterance])
    return sum(w * array(layer[utterance, :length]) for w, layer in zip(weights, output.layers, strict=True))


def linear(x, layer):
    return x @ array(layer.weight).T + array(layer.bias)


def lstm(x, module, suffix):
    """One direction of one layer, frame by frame (Hochreiter and Schmidhuber, 1997, with forget gates)."""
    inner, outer, bias_in, bias_out = (
        array(getattr(module, f"{name}_{suffix}")) for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    hidden = cell = np.zeros(outer.shape[1])
    found = []
    for frame in x:
        i, f, g, o = np.split(inner @ frame + bias_in + outer @ hidden + bias_out, 4)
        cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(g)
        hidden = sigmoid(o) * np.tanh(cell)
        found.append(hidden)
    return np.stack(found)


def blstm(x, module):
    """All layers, both directions: (frame, 2 x hidden)."""
    for layer in range(module.num_layers):
        forward = lstm(x, module, f"l{layer}")
        backward = lstm(x[::-1], module, f"l{layer}_reverse")[::-1]
        x = np.concatenate([forward, backward], axis=1)
    return x


def recurrent_logits(task, output, utterance):
    x = linear(mixed(output, utterance, task.weighted.layer_logits), task.projector)
    return linear(blstm(x, task.blstm.layers), task.classifier)


def ctc_loss(logits, target):
    """Negative log-probability by the forward variables (Graves et al., 2006, eq. 6 to 8), blank 0."""
    logp = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    path = [0]
    for token in target:
        path += [token, 0]
    alpha = np.full(len(path), -np.inf)
    alpha[0], alpha[1] = logp[0, 0], logp[0, path[1]]
    for row in logp[1:]:
        before, alpha = alpha, np.full(len(path), -np.inf)
        for s, token in enumerate(path):
            ways = [before[s]] + ([before[s - 1]] if s else [])
            if s > 1 and token not in {0, path[s - 2]}:
                ways.append(before[s - 2])
            alpha[s] = np.logaddexp.reduce(ways) + row[token]
    return -np.logaddexp(alpha[-1], alpha[-2])


def batch_of(task, texts):
    tokens = [torch.from_numpy(task.vocabulary.encode(text)) for text in texts]
    return {
        "tokens": torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True, padding_value=-1),
        "tokens_lengths": torch.tensor([len(item) for item in tokens]),
        "utt_ids": [f"u{k}" for k in range(len(texts))],
    }


class Texts:
    """A data directory that is one column."""

    def __init__(self, column, texts, path="data/train"):
        self.name, self.texts, self.path = column, texts, path
        self.ids = [f"u{k}" for k in range(len(texts))]

    def __len__(self):
        return len(self.texts)

    def column(self, name):
        assert name == self.name
        return Column(self.texts, f"{self.path}/{name}")


class Column(list):
    def __init__(self, texts, path):
        super().__init__(texts)
        self.path = path
