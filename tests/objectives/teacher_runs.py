"""What the tests of objectives with a teacher over a Transformer share: a tiny encoder, noise, batches and training steps."""

from dataclasses import replace

import numpy as np
import torch

from audiossl.contracts import Utterance
from audiossl.data.collate import collate, to_tensors
from audiossl.encoders.wav2vec2 import Wav2Vec2

RATE = 16000
ENCODER = replace(Wav2Vec2.Config.tiny(), conv_norm="layer", position_depth=2, position_kernel=5)


def objective(cls, seed=0, encoder=None, **changes):
    """The objective with its tiny configuration. encoder: changes of its encoder's."""
    torch.manual_seed(seed)
    return cls(Wav2Vec2(replace(ENCODER, **(encoder or {}))), replace(cls.Config.tiny(), crop_duration=4.0, **changes))


def make_batch(module, seconds=(0.9, 0.6), seed=0):
    """Noise of some lengths, with the masks that `seed` gives."""
    views = []
    for k, length in enumerate(seconds):
        noise = np.random.default_rng([7, k]).standard_normal(round(length * RATE)).astype(np.float32)
        views.append(module.views(Utterance(f"u{k}", noise, RATE, {}), np.random.default_rng(0)))
    batch = collate(views, [f"u{k}" for k in range(len(views))])
    return to_tensors(module.batch_views(batch, np.random.default_rng(seed)))


def train(module, steps, optimizer=None):
    """Some steps (numbers, 1-based) on a batch of their own each; returns the losses."""
    optimizer = optimizer or torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=1e-3)
    losses = []
    for step in steps:
        torch.manual_seed(step)
        output = module(make_batch(module, seed=step))
        (output.loss_sum / output.count).backward()
        optimizer.step()
        optimizer.zero_grad()
        module.after_step(step)
        losses.append(output.loss_sum.item())
    return losses


def instance_norm(frames):
    """Each dimension over the frames of one utterance, in NumPy float64. frames: (frame, dim)."""
    frames = np.asarray(frames, dtype=np.float64)
    return (frames - frames.mean(0)) / np.sqrt(frames.var(0) + 1e-5)


def added_by_layers(transformer, x):
    """What each layer's feed-forward network adds: list of (frame, dim). x: (frame, dim), one utterance."""
    added = []
    hooks = [
        layer.ffn_out.register_forward_hook(lambda _, __, output: added.append(output)) for layer in transformer.layers
    ]
    transformer(x[None], torch.tensor([len(x)]))
    for hook in hooks:
        hook.remove()
    return [frames[0] for frames in added]
