"""SwAV's objective: its loss on the projections, prototypes that wait, and the queue."""

import pytest
import torch
from torch.nn import functional as F
from two_crops import make, mean_of, noise, projected

from audiossl.losses.swav import swav
from audiossl.objectives.swav import SwAV

SMALL = {"projector_dims": (10, 4), "prototypes": 5, "freeze_steps": 0, "queue_size": 7, "queue_start_step": None}


def units(module, batch):
    return F.normalize(torch.stack(projected(module, batch)), dim=2)


def trainable(module):
    """In training mode but for its batch norms, so that rows do not depend on each other."""
    module.train()
    module.encoder.eval()
    module.projector.eval()
    return module


def test_forward_is_the_loss_of_the_projections():
    module, batch = make(SwAV, **SMALL, temperature=0.2, epsilon=0.1, iterations=2), noise()
    scores = units(module, batch) @ module.prototypes.T
    output = module(batch)
    assert output.loss_sum.item() == pytest.approx(
        6 * swav(scores, temperature=0.2, epsilon=0.1, iterations=2).item(), rel=1e-4
    )
    assert output.count == 6
    used = scores.argmax(dim=2).flatten().bincount().float() / 12
    perplexity = torch.exp(-(used[used > 0] * used[used > 0].log()).sum()).item()
    assert mean_of(output, "prototype_perplexity") == pytest.approx(perplexity, rel=1e-5)


def test_prototypes_wait_and_then_move():
    module = trainable(make(SwAV, **SMALL | {"freeze_steps": 2}))
    start = module.prototypes.detach().clone()
    torch.testing.assert_close(start.norm(dim=1), torch.ones(5))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.01, weight_decay=5.0)
    for step in range(1, 4):
        optimizer.zero_grad()
        module(noise(seed=step)).loss_sum.backward()
        assert module.prototypes.grad is not None
        optimizer.step()
        module.after_step(step)
        torch.testing.assert_close(module.prototypes.norm(dim=1), torch.ones(5))
        assert torch.allclose(module.prototypes, start, atol=1e-6) == (step <= 2)


def test_queue_holds_the_newest_first_and_helps_once_it_is_full():
    module = trainable(make(SwAV, **SMALL | {"queue_start_step": 1}))
    batches = [noise(3, seed=seed) for seed in range(5)]
    seen = [units(module, batch) for batch in batches]
    losses = []
    for step, batch in enumerate(batches, start=1):
        losses.append(module(batch).loss_sum.item() / 3)
        module.after_step(step)
    # The first batch came before `queue_start_step`; 7 entries hold the last two batches and one row of the one before.
    torch.testing.assert_close(module.queue, torch.cat([seen[4], seen[3], seen[2][:, :1]], dim=1), atol=1e-3, rtol=0)
    assert module.filled == 7
    scores = [rows @ module.prototypes.detach().T for rows in seen]
    plain = [swav(rows).item() for rows in scores]
    helped = swav(scores[4], torch.cat([scores[3], scores[2], scores[1][:, :1]], dim=1)).item()
    assert losses == pytest.approx([*plain[:4], helped], rel=1e-4)
    assert abs(helped - plain[4]) > 1e-3


def test_evaluation_leaves_the_queue_alone():
    module = make(SwAV, **SMALL | {"queue_start_step": 0})
    module(noise())
    assert module.filled == 0
    assert not module.queue.any()


def test_settings_that_do_not_fit():
    with pytest.raises(ValueError, match="objective.prototypes: 0 is not positive"):
        SwAV.Config(prototypes=0)
    with pytest.raises(ValueError, match="objective.queue_size: 0 is not positive"):
        SwAV.Config(queue_size=0)
