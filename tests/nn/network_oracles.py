"""Slow float64 NumPy versions of the layers that speaker networks are made of, and norms with a state that padding cannot hide in."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn


def unsettle(module, seed=0):
    """Give every batch norm statistics and weights of its own: zeros at padding come out as something else."""
    torch.manual_seed(seed)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.normal_(norm.running_mean)
            nn.init.uniform_(norm.running_var, 0.5, 2.0)
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias)
    return module.eval()


def array(tensor):
    return tensor.detach().double().numpy()


def relu(x):
    return np.maximum(x, 0)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def linear(x, layer):
    bias = 0 if layer.bias is None else array(layer.bias)
    return x @ array(layer.weight).T + bias


def batch_norm(x, norm):
    """x: (channel, ...)."""
    shape = (-1, *[1] * (x.ndim - 1))
    mean, var, gain, bias = (
        array(v).reshape(shape) for v in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    )
    return (x - mean) / np.sqrt(var + norm.eps) * gain + bias


def conv1d(x, conv):
    """x: (channel, frame). Output t sees t + dilation * (k - middle), zero outside."""
    weight, dilation = array(conv.weight), conv.dilation[0]
    out = np.zeros((len(weight), x.shape[1])) + (0 if conv.bias is None else array(conv.bias)[:, None])
    for t in range(x.shape[1]):
        for k in range(weight.shape[2]):
            source = t + dilation * (k - weight.shape[2] // 2)
            if 0 <= source < x.shape[1]:
                out[:, t] += weight[:, :, k] @ x[:, source]
    return out


def conv2d(x, conv):
    """x: (channel, row, column). Output (i, j) is centred on (stride_i i, stride_j j), zero outside."""
    weight = array(conv.weight)
    (step_i, step_j), half = conv.stride, weight.shape[2] // 2
    padded = np.pad(x, ((0, 0), (half, half), (half, half)))
    rows, columns = -(-x.shape[1] // step_i), -(-x.shape[2] // step_j)
    out = np.zeros((len(weight), rows, columns))
    for i in range(rows):
        for j in range(columns):
            patch = padded[:, i * step_i : i * step_i + 2 * half + 1, j * step_j : j * step_j + 2 * half + 1]
            out[:, i, j] = np.einsum("ocij,cij->o", weight, patch)
    return out


def softmax(x):
    """Over the first axis."""
    e = np.exp(x - x.max(0))
    return e / e.sum(0)


def attentive_statistics(frames, pooling, floor=1e-5):
    """Desplanques et al. (2020), eq. 1 to 4, with ReLU and batch norm before the tanh where the pooling has one. frames: (frame, dim)."""
    mean, std = frames.mean(0), np.sqrt(np.maximum(frames.var(0), floor))
    W = np.concatenate([array(pooling.hidden.weight), array(pooling.context.weight)], axis=1)
    hidden = np.stack([W @ np.concatenate([x, mean, std]) + array(pooling.hidden.bias) for x in frames])
    if pooling.norm is not None:
        hidden = batch_norm(relu(hidden).T, pooling.norm).T
    alpha = softmax(linear(np.tanh(hidden), pooling.query))
    mu = (alpha * frames).sum(0)
    variance = (alpha * (frames - mu) ** 2).sum(0)
    return np.concatenate([mu, np.sqrt(np.maximum(variance, floor))])
