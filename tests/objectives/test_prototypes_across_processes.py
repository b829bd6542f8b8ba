"""Two processes keep one queue, one memory and one clustering, the same as a single process with all utterances."""

import pytest
import torch
from test_deepcluster_objective import IDS, batch_of, made
from test_swav_objective import SMALL, trainable
from two_crops import make, noise

from audiossl.objectives.swav import SwAV
from audiossl.train.distributed import leave


def swav_losses(share):
    """Losses of three steps, each on the utterances of `share`, and the queue; the last step uses it."""
    module = trainable(make(SwAV, **SMALL | {"queue_size": 10, "queue_start_step": 0}))
    losses = []
    for step in range(3):
        batch = noise(6, seed=step)
        losses.append(module({name: value[share] for name, value in batch.items()}).loss_sum.detach())
        module.after_step(step + 1)
    return torch.stack(losses), module.queue


def deepcluster_losses(share):
    """Losses of an epoch and of one batch of the next, and the state in between; utterance 5 is never seen."""
    module = made()
    losses = []
    for places in ([0, 1, 2, 3], [4, -1, 6, 7], [5, 6, 0, 3]):
        losses.append(module(batch_of(places[share])).loss_sum.detach())
        torch.manual_seed(9 + (torch.distributed.is_initialized() and torch.distributed.get_rank()))
        module.after_step(1)
    assert module.rounds == 1
    return torch.stack(losses), module.memory.float(), module.centroids, module.clusters


def work(rank, world, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    try:
        results = {
            "swav": swav_losses((slice(0, 4), slice(4, 6))[rank]),
            "deepcluster": deepcluster_losses((slice(0, 3), slice(3, 4))[rank]),
        }
        torch.save(results, f"{folder}/{rank}.pt")
    finally:
        torch.distributed.destroy_process_group()
    leave(0)


def test_two_processes_equal_one(tmp_path):
    torch.multiprocessing.spawn(work, (2, str(tmp_path)), nprocs=2)
    parts = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    alone = {"swav": swav_losses(slice(None)), "deepcluster": deepcluster_losses(slice(None))}
    for name, (losses, *state) in alone.items():
        together = parts[0][name][0] + parts[1][name][0]
        torch.testing.assert_close(together, losses, rtol=1e-4, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}")
        for part in parts:
            for ours, theirs in zip(state, part[name][1:], strict=True):
                torch.testing.assert_close(theirs, ours, rtol=0, atol=2e-3, msg=lambda m, n=name: f"{n}: {m}")
    for ours, theirs in zip(parts[0]["deepcluster"][1:], parts[1]["deepcluster"][1:], strict=True):
        assert torch.equal(ours, theirs)


def test_what_is_compared_is_not_trivial():
    losses, _, _, clusters = deepcluster_losses(slice(None))
    assert (losses > 0).all()
    assert (clusters[:, 5] == -1).all()
    assert len(IDS) == clusters.shape[1]
    assert clusters[0].unique().tolist() == pytest.approx([-1, 0, 1, 2])
