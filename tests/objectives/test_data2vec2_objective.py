"""data2vec 2.0: the loss clone by clone and frame by frame, its masks, and what its student must not hear."""

import math

import numpy as np
import pytest
import torch
from teacher_runs import added_by_layers, instance_norm, make_batch, objective, train

from audiossl.objectives.data2vec2 import Data2Vec2


def oracle(module, batch):
    """Sum of the loss over masked frames of all clones, each clone alone and without padding."""
    encoder = module.encoder
    local = encoder.local_features(batch["waveform"], batch["waveform_lengths"])
    total, count = 0.0, 0
    for row, length in enumerate(local.lengths):
        x = encoder.projection(local.z[row, :length])
        target = np.mean([instance_norm(t) for t in added_by_layers(module.teacher, x)], axis=0)
        for masked in batch["masked"][row, :, :length]:
            heard = torch.where(masked[:, None], 0.0, x)[None]
            frames = (heard + encoder.transformer.positions(heard))[:, ~masked]
            frames = encoder.transformer.norm(frames)
            bias = 0.0
            if encoder.config.alibi:  # by the distance that visible frames had
                scale, times = encoder.transformer.layers[0].attention.bias.scale, (~masked).nonzero()
                slopes = torch.tensor([2.0**-2, 2.0**-4, 2.0**-6, 2.0**-8])
                bias = -(scale * slopes)[:, None, None] * (times - times.T).abs()
            for layer in encoder.transformer.layers:
                frames = plain(layer, frames, bias)
            filled = torch.zeros(1, length, encoder.dim)
            filled[:, ~masked] = frames
            first = module.decoder.blocks[0](filled)
            predictions = module.head(first + module.decoder.blocks[1](first))[0]
            squares = (predictions.double().numpy() - target) ** 2
            total += squares[masked.numpy()].sum() / math.sqrt(encoder.dim)
            count += int(masked.sum())
    return total, count


def plain(layer, x, bias):
    """A post-LN block with attention written out."""
    heads = layer.attention.num_heads
    q, k, v = layer.attention.qkv(x[0]).view(x.shape[1], 3, heads, -1).permute(1, 2, 0, 3)
    weights = (q @ k.transpose(1, 2) / math.sqrt(q.shape[-1]) + bias).softmax(-1)
    x = layer.attention_norm(x + layer.attention.out((weights @ v).transpose(0, 1).flatten(1)))
    return layer.ffn_norm(x + layer.ffn_out(torch.nn.functional.gelu(layer.ffn_in(x))))


@pytest.mark.parametrize("alibi", [False, True])
@torch.no_grad()
def test_loss_is_that_of_each_masked_frame_of_each_clone(alibi):
    module = objective(Data2Vec2, clones=3, encoder={"alibi": alibi}).eval()
    if alibi:
        module.encoder.transformer.layers[0].attention.bias.scale.copy_(torch.tensor([2.0, 0.5, 8.0, 30.0]))
    module.begin()
    for parameter in module.teacher.parameters():
        parameter += 0.1 * torch.randn(parameter.shape)
    batch = make_batch(module)
    assert len({tuple(mask.tolist()) for mask in batch["masked"].flatten(0, 1)}) == 6
    output = module(batch)
    total, count = oracle(module, batch)
    assert output.count == count
    assert output.loss_sum.item() == pytest.approx(total, rel=1e-4)


def test_the_scale_of_attentions_bias_learns_and_the_teacher_follows_it():
    module = objective(Data2Vec2, encoder={"alibi": True}).train()
    student, teacher = (t.layers[0].attention.bias.scale for t in (module.encoder.transformer, module.teacher))
    train(module, (1, 2, 3))
    assert (student != 1).all()
    assert (teacher != 1).all()
    assert not torch.equal(student, teacher)


def test_masks_have_the_share_that_was_asked_for():
    module = objective(Data2Vec2, clones=4, mask_prob=0.6, inverse_mask=True)
    batch = make_batch(module)
    frames = module.encoder.num_frames(batch["waveform_lengths"])
    for masks, length in zip(batch["masked"], frames, strict=True):
        assert masks.shape[0] == 4
        assert masks.sum(1).tolist() == [int(length) - math.floor((1 - 0.6) * int(length))] * 4
        assert not masks[:, int(length) :].any()


def test_places_of_frames():
    module = objective(Data2Vec2)
    batch = make_batch(module)
    masked = batch["masked"]
    rows, clones, width = masked.shape
    lengths = module.encoder.num_frames(batch["waveform_lengths"]).tolist()
    places = [(b, c, t) for b in range(rows) for c in range(clones) for t in range(width)]
    inside = [(b, c, t) for b, c, t in places if t < lengths[b]]
    hidden = [(b, c, t) for b, c, t in inside if masked[b, c, t]]
    flat = {place: k for k, place in enumerate(places)}
    assert batch["masked_frames"].tolist() == [flat[place] for place in hidden]
    assert batch["visible_frames"].tolist() == [flat[place] for place in inside if not masked[place]]
    assert batch["target_frames"].tolist() == [b * width + t for b, _, t in hidden]


def test_the_frontend_and_the_teacher_run_once_for_all_clones():
    module = objective(Data2Vec2, clones=4)
    rows = []
    module.encoder.frontend.register_forward_hook(lambda _, inputs, __: rows.append(len(inputs[0])))
    module.teacher.layers[0].attention.register_forward_hook(lambda _, inputs, __: rows.append(len(inputs[0])))
    module.encoder.transformer.layers[0].attention.register_forward_hook(
        lambda _, inputs, __: rows.append(tuple(inputs[0].shape[:2]))
    )
    batch = make_batch(module)
    module(batch)
    visible = len(batch["visible_frames"]) // 8
    frames = batch["masked"].shape[2]
    assert rows[:2] == [2, 2]
    assert rows[2][0] == 8
    assert visible <= rows[2][1] <= math.ceil(frames / 2)


def test_noise_stands_at_masked_frames_in_training_only():
    module = objective(Data2Vec2, noise_std=3.0, decoder_dropout=0.0)
    heard = []
    module.decoder.register_forward_hook(lambda _, inputs, __: heard.append(inputs[0].detach()))
    batch = make_batch(module)
    masked = batch["masked"].flatten(0, 1)
    module.train()(batch)
    module.eval()(batch)
    assert heard[0][masked].std().item() == pytest.approx(3.0, rel=0.1)
    assert not heard[1][masked].any()


def test_spreads_are_logged_for_the_watch_on_collapse():
    module = objective(Data2Vec2).eval()
    metrics = {name: float(a / b) for name, (a, b) in module(make_batch(module)).metrics.items()}
    assert {"embedding_std", "effective_rank", "target_std", "prediction_std"} <= metrics.keys()
    assert 0.5 < metrics["target_std"] < 1.2


def test_metrics_of_a_batch_without_masked_frames_are_finite():
    module = objective(Data2Vec2).eval()
    batch = make_batch(module)
    batch["masked"] = torch.zeros_like(batch["masked"])
    for name in ("masked_frames", "target_frames"):
        batch[name] = batch[name][:0]
    output = module(batch)
    assert output.count == 0
    assert all(total.isfinite() for total, _ in output.metrics.values())


def test_bad_options_are_named():
    for values in ({"clones": 0}, {"mask_adjust": 2.0}, {"noise_std": -1.0}, {"decoder_dim": 0}, {"ema_steps": 0}):
        with pytest.raises(ValueError, match=f"objective.{next(iter(values))}"):
            Data2Vec2.Config(**values)
