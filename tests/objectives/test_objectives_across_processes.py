"""Objectives with state: several processes learn the same and keep the same queues, memories, centres and running means as one."""

import pytest
import torch

from audiossl.objectives._classes import Classes
from audiossl.objectives._speaker import MarginConfig
from audiossl.objectives.deepcluster import DeepCluster
from audiossl.objectives.dino import DINO
from audiossl.objectives.moco import MoCo
from audiossl.objectives.simclr import SimCLR
from audiossl.objectives.ssps import SSPS
from audiossl.objectives.ssps_dino import SSPSDINO
from audiossl.objectives.supervised_speaker import SupervisedSpeaker
from audiossl.objectives.swav import SwAV
from audiossl.train.distributed import leave

BATCH, SAMPLES = 8, 16
IDS = [f"s{number}" for number in range(2 * BATCH)]
SHARES = {2: (5, 3), 4: (1, 3, 2, 2)}
CROPS = {"crop_duration": SAMPLES / 16000}
HEAD = {"local_crops": 0, "head_dim": 7, "bottleneck_dim": 5, "prototypes": 9, "freeze_steps": 1, "momentum": 0.5}
# Clusters come after the first epoch, of two steps; what is drawn from then on is each process's own, so nothing is.
SAMPLING = {"num_clusters": 3, "queue_size": 11, "start_epoch": 1, "clean_duration": 0, "iterations": 3}


class Small(torch.nn.Module):
    """An encoder of 16 samples without batch norms: rows do not depend on each other, and all of it can be float64."""

    sample_rate, embedding_dim, dim = 16000, 6, 6

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(SAMPLES, 6)

    def embed(self, waveform, lengths):
        return 3 * self.layer(waveform).tanh()


OBJECTIVES = {
    "simclr_adaface": lambda: SimCLR(
        Small(), SimCLR.Config(**CROPS, margin=MarginConfig("adaface", 0.2, more={"rate": 0.5}))
    ),
    "moco_curricular": lambda: MoCo(
        Small(), MoCo.Config(**CROPS, queue_size=11, momentum=0.7, margin=MarginConfig("curricularface", 0.2))
    ),
    "swav": lambda: SwAV(
        Small(),
        SwAV.Config(**CROPS, projector_dims=(4,), prototypes=5, freeze_steps=1, queue_size=11, queue_start_step=1),
    ),
    "deepcluster": lambda: DeepCluster(
        Small(), DeepCluster.Config(**CROPS, projector_dims=(4,), prototypes=(3, 2)), IDS
    ),
    "dino": lambda: DINO(Small(), DINO.Config(**CROPS, **HEAD)),
    "ssps": lambda: SSPS(Small(), SSPS.Config(**CROPS, **SAMPLING), IDS),
    "ssps_dino": lambda: SSPSDINO(Small(), SSPSDINO.Config(**CROPS, **HEAD, **SAMPLING), IDS),
    "sup_con": lambda: SupervisedSpeaker(
        Small(),
        SupervisedSpeaker.Config(**CROPS, loss="sup_con", num_crops=2, scale=10.0),
        Classes("utt2spk", 0, ("a", "b", "c"), (2**64 - 1,) * 3),
    ),
}


def batch_of(step, rows):
    generator = torch.Generator().manual_seed(step)
    waveform = torch.randn(BATCH, 2 * SAMPLES, generator=generator, dtype=torch.float64)
    index = (torch.arange(BATCH) + step * BATCH) % len(IDS)
    return {"waveform": waveform[rows], "index": index[rows], "label": index[rows] % 3}


def made(name):
    """In float64; a memory in half precision stays so."""
    torch.manual_seed(1)
    return OBJECTIVES[name]()._apply(lambda x: x.double() if x.dtype == torch.float32 else x)


def trained(name, rows, rank=0):
    """Losses of some steps of gradient descent with the gradients of all processes, and the state at the end, in float64."""
    module = made(name).train()
    for part in module.modules():
        if isinstance(part, torch.nn.BatchNorm1d):
            part.eval()
    losses = []
    for step in range(2 if name.startswith("ssps") else 3):
        output = module(batch_of(step, rows))
        module.zero_grad()
        output.loss_sum.backward()
        losses.append(output.loss_sum.detach().double())
        for parameter in module.parameters():
            if parameter.grad is not None:
                if torch.distributed.is_initialized():
                    torch.distributed.all_reduce(parameter.grad)
                with torch.no_grad():
                    parameter -= 0.1 / BATCH * parameter.grad
        torch.manual_seed(9 + rank)  # what must be the same in all processes is the first one's
        module.after_step(step + 1)
    return torch.stack(losses), {key: value for key, value in module.state_dict().items() if "extra" not in key}


def work(rank, world, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    try:
        start = sum(SHARES[world][:rank])
        rows = slice(start, start + SHARES[world][rank])
        torch.save({name: trained(name, rows, rank) for name in OBJECTIVES}, f"{folder}/{rank}.pt")
    finally:
        torch.distributed.destroy_process_group()
    leave(0)


@pytest.mark.parametrize("world", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_processes_equal_one(tmp_path, world):
    torch.multiprocessing.spawn(work, (world, str(tmp_path)), nprocs=world)
    parts = [torch.load(tmp_path / f"{rank}.pt") for rank in range(world)]
    for name in OBJECTIVES:
        losses, state = trained(name, slice(None))
        together = sum(part[name][0] for part in parts)
        torch.testing.assert_close(together, losses, rtol=1e-6, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")
        for part in parts:
            for key, value in state.items():
                place = f"{name}: {key}"
                torch.testing.assert_close(
                    part[name][1][key], value, rtol=1e-6, atol=1e-6, msg=lambda m, p=place: f"{p}: {m}"
                )


@pytest.mark.parametrize("name", OBJECTIVES)
def test_what_is_compared_has_moved(name):
    start = made(name).state_dict()
    losses, state = trained(name, slice(None))
    assert (losses > 0).all()
    still = {key for key, value in state.items() if value.is_floating_point() and torch.equal(value, start[key])}
    assert {key for key in still if "running" not in key} <= {"margin.margin"}  # a fixed one
