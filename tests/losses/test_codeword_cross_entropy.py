"""The matrix form of HuBERT's loss against the published one, which stacks the positive on all codewords and masks its double."""

import math

import torch
from torch.nn import functional as F

from audiossl.losses.codeword_cross_entropy import codeword_cross_entropy


def stacked(context, codewords, target, temperature):
    positive = codewords[target]
    candidates = torch.cat([positive.unsqueeze(0), codewords.unsqueeze(1).expand(-1, len(target), -1)])
    logits = torch.cosine_similarity(context, candidates, dim=-1) / temperature  # (1 + code, frame)
    double = (candidates[1:] == positive).all(dim=-1)
    logits = torch.cat([logits[:1], logits[1:].masked_fill(double, -math.inf)]).T
    return F.cross_entropy(logits, torch.zeros(len(target), dtype=torch.long), reduction="none")


def example(frames=23, codes=11, dim=7, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    context = torch.randn(frames, dim, generator=generator, dtype=dtype)
    codewords = torch.rand(codes, dim, generator=generator, dtype=dtype)
    return context, codewords, torch.randint(codes, (frames,), generator=generator)


def test_loss_and_gradients_equal_the_published_form():
    context, codewords, target = example()
    results = []
    for form in (stacked, lambda *a: codeword_cross_entropy(*a[:3], temperature=a[3]).loss):
        inputs = [context.clone().requires_grad_(), codewords.clone().requires_grad_()]
        loss = form(*inputs, target, 0.1)
        results.append((loss.detach(), *torch.autograd.grad((loss * torch.arange(1, 24)).sum(), inputs)))
    for published, ours in zip(*results, strict=True):
        torch.testing.assert_close(ours, published, rtol=0, atol=1e-8)


def test_prediction_is_the_nearest_codeword():
    context, codewords, target = example()
    nearest = [max(range(11), key=lambda c: F.cosine_similarity(frame, codewords[c], dim=0)) for frame in context]
    assert codeword_cross_entropy(context, codewords, target).prediction.tolist() == nearest


def test_bf16_under_autocast_is_computed_in_float32():
    context, codewords, target = example(dtype=torch.float32)
    exact = codeword_cross_entropy(context.bfloat16().float(), codewords, target).loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = codeword_cross_entropy(context.bfloat16(), codewords, target).loss
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, exact)


def test_no_frames_give_no_loss_and_a_zero_gradient():
    context, codewords, target = example()
    context = context[:0].requires_grad_()
    loss = codeword_cross_entropy(context, codewords.requires_grad_(), target[:0]).loss.sum()
    assert loss == 0
    assert not torch.autograd.grad(loss, [codewords])[0].any()
