"""What spans processes: several of them give the values and gradients of one that has the global batch."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from audiossl.losses._sinkhorn import sinkhorn
from audiossl.losses.barlow_twins import barlow_twins
from audiossl.losses.cpc import cpc
from audiossl.losses.dino import moved_centre
from audiossl.losses.info_nce import info_nce
from audiossl.losses.lim import lim, other_utterances
from audiossl.losses.nt_xent import nt_xent, nt_xent_all_views, nt_xent_multi_view
from audiossl.losses.sup_con import sup_con
from audiossl.losses.swav import swav
from audiossl.losses.vibcreg import vibcreg
from audiossl.losses.vicreg import vicreg
from audiossl.losses.w_mse import w_mse
from audiossl.margins.adaface import AdaFace
from audiossl.margins.curricularface import CurricularFace
from audiossl.nn.gather import (
    Layout,
    gather_with_gradient,
    layout_of,
    mean_over_batch,
    moments_over_batch,
    sum_over_processes,
    variance_over_batch,
)
from audiossl.train.distributed import leave

BATCH, DIM = 16, 6
LABELS = torch.tensor([0, 1, 2, 0, 3, 4, 1, 5, 0, 6, 7, 2, 8, 8, 9, 10])  # some have no positive
EVEN = {2: [8, 8], 4: [4, 4, 4, 4]}
UNEVEN = {2: [11, 5], 4: [1, 7, 5, 3]}

LOSSES = {
    "nt_xent": lambda a, b, _: nt_xent(a, b, temperature=0.3),
    "nt_xent_one_way": lambda a, b, _: nt_xent(a, b, temperature=0.3, symmetric=False),
    "nt_xent_all_views": lambda a, b, _: nt_xent_all_views(torch.stack([a, b, a * b]), temperature=0.3),
    "nt_xent_multi_view": lambda a, b, _: nt_xent_multi_view(
        torch.stack([a, b, a * b]), torch.stack([a, b]), temperature=0.3
    ),
    "nt_xent_curricular": lambda a, b, _: nt_xent(
        a, b, temperature=0.3, margin=CurricularFace(CurricularFace.Config(margin=0.2, momentum=0.5))
    ),
    "nt_xent_adaface": lambda a, b, _: nt_xent(
        5 * a, 5 * b, temperature=0.3, margin=AdaFace(AdaFace.Config(margin=0.2, rate=0.5))
    ),
    "info_nce": lambda a, b, _: info_nce(a, b),
    "sup_con": lambda a, _, labels: sup_con(a, labels, temperature=0.3),
    "sup_con_in": lambda a, _, labels: sup_con(a, labels, temperature=0.3, form="in"),
    "vicreg": lambda a, b, _: vicreg(0.3 * a, b, covariance=1.0),
    "vibcreg": lambda a, b, _: vibcreg(0.3 * a, b),
    "barlow_twins": lambda a, b, _: barlow_twins(a, b, redundancy=0.5, scale=1.0),
    "w_mse": lambda a, b, _: w_mse(a, b, generator=torch.Generator().manual_seed(3), group_size=8, shrinkage=0.1),
    "swav": lambda a, b, _: swav(torch.stack([a, b, a * b]) / 10),
    "cpc": lambda a, b, _: cpc(torch.stack([a, b]), torch.stack([b, a * b])),
    "lim_mine": lambda a, b, _: lim(a, b, a * b, bound="mine"),
    "lim_nce": lambda a, b, _: lim(a, b, a * b, bound="nce"),
    "mean_and_moments": lambda a, b, _: _moments(a, b),
}


def _moments(a, b):
    layout = layout_of(a)
    moments = moments_over_batch(a, layout)
    spread = variance_over_batch(b, layout, unbiased=False).sqrt().sum()
    return moments.covariance.square().sum() + moments.mean.prod() + spread + mean_over_batch(b, layout)[0]


def data():
    return torch.randn(2, BATCH, DIM, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def step(name, network, views, labels, weight):
    """Forward and backward of one process; the mean over its anchors is weighted by its share of the global batch."""
    network.zero_grad()
    first, second = network(views).unbind()
    loss = LOSSES[name](first, second, labels) * weight
    loss.backward()
    (gradient,) = (parameter.grad.clone() for parameter in network.parameters())
    return loss.detach(), gradient


def make_network():
    network = nn.Linear(DIM, DIM, bias=False).double()
    with torch.no_grad():
        network.weight.copy_(torch.randn(DIM, DIM, generator=torch.Generator().manual_seed(1), dtype=torch.float64))
    return network


def work(rank, world, sizes, folder):
    """What one process does: every loss under DistributedDataParallel on its part, and the pieces by themselves."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    try:
        start, own = sum(sizes[:rank]), sizes[rank]
        views, labels = data()[:, start : start + own], LABELS[start : start + own]
        network = DistributedDataParallel(make_network())
        results = {name: step(name, network, views, labels, own * world / BATCH) for name in LOSSES}
        assert layout_of(views, dim=1) == Layout(tuple(sizes), rank)
        results["pieces"] = pieces(views)
        torch.save(results, f"{folder}/{rank}.pt")
    finally:
        torch.distributed.destroy_process_group()
    leave(0)


def pieces(views):
    """What has no loss of its own: rows in order, codes, centre, buffers of margins, negatives of others, an own batch by itself."""
    rows, layout = views[0], layout_of(views[0])
    curricular, ada = CurricularFace(CurricularFace.Config()), AdaFace(AdaFace.Config())
    for margin in (curricular, ada):
        margin(rows[:, :2].tanh(), rows[:, 2:4] > 0, rows.norm(dim=1))
    others = other_utterances(rows, generator=torch.Generator().manual_seed(layout.rank))
    everybody = gather_with_gradient(rows)
    assert torch.equal(everybody, data()[0])
    assert torch.equal(gather_with_gradient(views, layout, dim=1), data())
    for row, drawn in zip(rows, others, strict=True):
        assert (everybody == drawn).all(dim=1).any()
        assert not torch.equal(row, drawn)
    alone = layout_of(rows, across_processes=False)
    assert alone == Layout((len(rows),), 0)
    assert gather_with_gradient(rows, alone) is rows
    return {
        "codes": sinkhorn(rows, layout, epsilon=0.5, iterations=3),
        "centre": moved_centre(torch.ones(DIM).double(), views),
        "level": curricular.level,
        "norm_mean": ada.norm_mean,
        "norm_deviation": ada.norm_deviation,
        "alone": nt_xent(*views, across_processes=False),
    }


def test_a_world_of_one_is_the_identity():
    x = data()[0].requires_grad_()
    layout = layout_of(x)
    assert layout == Layout((BATCH,), 0)
    assert (layout.start, layout.total) == (0, BATCH)
    assert gather_with_gradient(x) is x
    assert sum_over_processes(x, layout) is x
    moments = moments_over_batch(x, layout)
    torch.testing.assert_close(moments.covariance, torch.cov(x.T))
    torch.testing.assert_close(moments.mean, x.mean(dim=0))
    torch.testing.assert_close(moments.centred, x - x.mean(dim=0))
    torch.testing.assert_close(variance_over_batch(x, layout), x.var(dim=0))
    torch.testing.assert_close(variance_over_batch(x, layout, unbiased=False), x.var(dim=0, correction=0))


def test_layout_says_where_the_own_rows_are():
    layout = Layout((3, 5, 2), 2)
    assert (layout.start, layout.total) == (8, 10)


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [EVEN[2], EVEN[4], UNEVEN[2], UNEVEN[4]], ids=lambda sizes: "+".join(map(str, sizes)))
def test_processes_equal_one(tmp_path, sizes):
    world = len(sizes)
    torch.multiprocessing.spawn(work, (world, sizes, str(tmp_path)), nprocs=world)
    parts = [torch.load(tmp_path / f"{rank}.pt") for rank in range(world)]
    network = make_network()
    for name in LOSSES:
        loss, gradient = step(name, network, data(), LABELS, 1.0)
        mean = sum(part[name][0] for part in parts) / world
        torch.testing.assert_close(mean, loss, rtol=1e-6, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")
        assert gradient.abs().max() > 1e-3, name
        for part in parts:
            torch.testing.assert_close(
                part[name][1], gradient, rtol=1e-6, atol=1e-6, msg=lambda m, n=name: f"{n}: gradient: {m}"
            )
    one, many = pieces(data()), [part["pieces"] for part in parts]
    torch.testing.assert_close(torch.cat([part["codes"] for part in many]), one["codes"])
    for name in ("centre", "level", "norm_mean", "norm_deviation"):
        for part in many:
            torch.testing.assert_close(part[name], one[name])
    starts = [sum(sizes[:rank]) for rank in range(world)]
    for part, start, own in zip(many, starts, sizes, strict=True):
        torch.testing.assert_close(part["alone"], nt_xent(*data()[:, start : start + own]))
