"""DinoSR and SpidR: the loss frame by frame, which layer each head sees, codebooks, schedules, and what freezes when."""

import math

import numpy as np
import pytest
import torch
from teacher_runs import added_by_layers, instance_norm, make_batch, objective, train

from audiossl.objectives.dinosr import DinoSR
from audiossl.objectives.spidr import SpidR

each = pytest.mark.parametrize("cls", [DinoSR, SpidR])


def predicted_from(module, local, masked):
    """What each head looks at, (batch, frame, dim): the last layer, or what the feed-forward network of the head's depth gives."""
    given, encoder, books = [], module.encoder, module.config.top_layers
    networks = [layer.ffn_out for layer in encoder.transformer.layers[-books:]]
    hooks = [network.register_forward_hook(lambda _, __, output: given.append(output)) for network in networks]
    layers = encoder.contextualise(local.z, local.lengths, masked=masked).layers
    for hook in hooks:
        hook.remove()
    return [layers[-1]] * books if isinstance(module, DinoSR) else given


def oracle(module, batch):
    """Sum of the loss over masked frames, the nearest codes (book, masked frame) and whether they were predicted."""
    encoder, books = module.encoder, module.config.top_layers
    local = encoder.local_features(batch["waveform"], batch["waveform_lengths"])
    layers = predicted_from(module, local, batch["masked"])
    codes = module.codebooks.codes().numpy()
    total, named, right = 0.0, [[] for _ in range(books)], 0
    for row, length in enumerate(local.lengths):
        targets = [instance_norm(t) for t in added_by_layers(module.teacher, encoder.projection(local.z[row, :length]))]
        for t in range(length):
            if not batch["masked"][row, t]:
                continue
            for book in range(books):
                nearest = int(((targets[book][t] - codes[book]) ** 2).sum(1).argmin())
                logits = module.heads[book](layers[book][row, t]).double().numpy()
                total += (math.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[nearest]) / books
                named[book].append(nearest)
                right += int(logits.argmax() == nearest)
    return total, named, right


@each
@torch.no_grad()
def test_loss_is_that_of_each_masked_frame(cls):
    module = objective(cls, same_count=False).eval()
    module.begin()
    for parameter in module.teacher.parameters():
        parameter += 0.1 * torch.randn(parameter.shape)
    batch = make_batch(module)
    output = module(batch)
    total, named, right = oracle(module, batch)
    assert output.loss_sum.item() == pytest.approx(total, rel=1e-5)
    assert output.count == len(named[0]) == int(batch["masked"].sum())
    assert output.metrics["masked_accuracy"][0].item() == pytest.approx(right / 2, abs=1e-4)
    perplexities = []
    for book in named:
        share = np.bincount(book) / len(book)
        perplexities.append(math.exp(-sum(p * math.log(p) for p in share if p)))
    metrics = {name: (a / b).item() for name, (a, b) in output.metrics.items()}
    assert metrics["target_perplexity"] == pytest.approx(min(perplexities), rel=1e-4)


@each
def test_codebooks_move_once_for_each_step(cls):
    module, together = objective(cls, freeze_step=0).train(), objective(cls, freeze_step=0).train()
    for each_module in (module, together):
        for part in each_module.modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = 0.0
    before = module.codebooks.sums.clone()
    batch = make_batch(module)
    for _ in range(2):  # two micro-batches
        module(batch)
    assert torch.equal(module.codebooks.sums, before)
    module.after_step(1)
    together(batch)
    together.codebooks.pending.mul_(2)
    together.after_step(1)
    torch.testing.assert_close(module.codebooks.sums, together.codebooks.sums)
    torch.testing.assert_close(module.codebooks.counts, together.codebooks.counts)
    assert not torch.equal(module.codebooks.sums, before)


@each
def test_a_frozen_frontend_stands_still_and_the_rest_goes_on(cls):
    module = objective(cls, freeze_step=2).train()
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.1)
    train(module, [1, 2], optimizer)
    shared = {name: p.clone() for name, p in module._shared().named_parameters()}
    head, teacher = module.heads[0].weight.clone(), module.teacher.layers[0].ffn_in.weight.clone()
    train(module, [3, 4], optimizer)
    assert all(torch.equal(p, shared[name]) for name, p in module._shared().named_parameters())
    assert not torch.equal(module.heads[0].weight, head)
    assert torch.equal(module.teacher.layers[0].ffn_in.weight, teacher) is (cls is DinoSR)
    module(make_batch(module)).loss_sum.backward()
    assert all(p.grad is not None for p in module._shared().parameters())  # processes wait for all of them
    assert not any(
        p.grad.any() for p in module._shared().parameters()
    )  # neither the norm of all nor its clipping counts them


@each
def test_what_trains_is_never_cast_without_a_graph(cls):  # autocast may keep it
    module, seen = objective(cls).train(), []
    module.encoder.projection.register_forward_pre_hook(lambda *_: seen.append(torch.is_grad_enabled()))
    module(make_batch(module))
    assert seen == [True, True]


@each
def test_a_frontend_that_is_never_frozen_moves(cls):
    module = objective(cls, freeze_step=0).train()
    train(module, [1, 2, 3])
    before = module.encoder.projection.weight.clone()
    train(module, [4])
    assert not module.frozen
    assert not torch.equal(module.encoder.projection.weight, before)


@pytest.mark.parametrize(("pre_norm", "norm"), [(False, "layers.1.ffn_norm"), (True, "norm")])
def test_spidrs_last_norm_stands_still(
    pre_norm, norm
):  # no head looks behind it, and processes would wait for its gradient
    module = objective(SpidR, encoder={"pre_norm": pre_norm, "dropout": 0.5}).train()
    module(make_batch(module)).loss_sum.backward()
    trained = {name for name, p in module.encoder.transformer.named_parameters() if p.requires_grad}
    every = {name for name, _ in module.encoder.transformer.named_parameters()}
    assert every - trained == {f"{norm}.weight", f"{norm}.bias"}
    assert trained == {name for name, p in module.encoder.transformer.named_parameters() if p.grad is not None}


def test_spidrs_heads_look_before_dropout():
    module = objective(SpidR, encoder={"dropout": 0.5, "layer_drop": 1.0}).train()
    batch, given = make_batch(module), []
    for layer in module.encoder.transformer.layers:
        layer.ffn_out.register_forward_hook(lambda _, __, output: given.append(output))
    local = module.encoder.local_features(batch["waveform"], batch["waveform_lengths"])
    seen = module.student_frames(local, batch["masked"])
    assert [torch.equal(ours, output) for ours, output in zip(seen, given, strict=True)] == [True, True]


@each
def test_a_teacher_that_keeps_all_of_itself_stands_still(cls):
    module = objective(cls, freeze_step=0, ema_start=1.0, **({"ema_end": 1.0} if cls is DinoSR else {})).train()
    train(module, [1])
    teacher = {name: value.clone() for name, value in module.teacher.state_dict().items()}
    train(module, [2])
    resumed = objective(cls, seed=1, freeze_step=0, ema_start=1.0).train()
    resumed.load_state_dict(module.state_dict())
    resumed.begin()
    for still in (module, resumed):
        assert all(torch.equal(value, teacher[name]) for name, value in still.teacher.state_dict().items())
    positions = module.encoder.transformer.positions.state_dict()
    assert not any(torch.equal(value, teacher[f"positions.{name}"]) for name, value in positions.items())


def test_published_schedules():
    dinosr, spidr = objective(DinoSR), objective(SpidR)
    dinosr.config, spidr.config = DinoSR.Config(), SpidR.Config()
    steps = [15_000, 30_000, 199_999, 200_000, 400_000]
    assert [dinosr.decay_after(s) for s in steps] == pytest.approx([0.99945, 0.9999, 0.9999, 1, 1], abs=1e-12)
    assert spidr.decay_after(20_000) == pytest.approx(1 - 0.001 / math.e, abs=1e-12)
    assert spidr.decay_after(184_206) < 1 == spidr.decay_after(184_207)


@pytest.mark.parametrize(
    ("values", "message"), [({"num_codes": 1}, "num_codes: 1"), ({"freeze_step": -1}, "freeze_step: -1 is negative")]
)
def test_bad_options_are_named(values, message):
    with pytest.raises(ValueError, match=message):
        DinoSR.Config(**values)
    with pytest.raises(ValueError, match=message):
        SpidR.Config(**values)
