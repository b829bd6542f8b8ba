"""Online codebooks against a loop over vectors, in one process and in two."""

import numpy as np
import pytest
import torch

from audiossl.nn.ema_codebook import EMACodebooks
from audiossl.train.distributed import leave

BOOKS, CODES, DIM = 2, 5, 3


def books(decay=0.9, codes=CODES):
    torch.manual_seed(0)
    return EMACodebooks(BOOKS, codes, DIM, decay=decay).double()


def vectors(rows=11, seed=1):
    return torch.randn(BOOKS, rows, DIM, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def oracle(sums, counts, batches, decay=0.9):
    """One update after some micro-batches, vector by vector; returns new sums and counts and the codes of each micro-batch."""
    named, new_sums, new_counts = [], sums.copy(), counts.copy()
    for book in range(BOOKS):
        totals, number = np.zeros((sums.shape[1], DIM)), np.zeros(sums.shape[1])
        entries = [sums[book, code] / counts[book, code] for code in range(sums.shape[1])]
        for batch in batches:
            for vector in batch[book]:
                nearest = min(range(len(entries)), key=lambda c: ((vector - entries[c]) ** 2).sum())
                named.append(nearest)
                totals[nearest] += vector
                number[nearest] += 1
        for code in range(sums.shape[1]):
            if number[code]:
                new_sums[book, code] = decay * sums[book, code] + (1 - decay) * totals[code]
                new_counts[book, code] = decay * counts[book, code] + (1 - decay) * number[code]
    return new_sums, new_counts, named


def test_updates_against_a_loop():
    found = books()
    sums, counts = found.sums.numpy().copy(), found.counts.numpy().copy()
    for step in range(4):
        batches = [vectors(3, seed=10 * step), vectors(2, seed=10 * step + 1)]
        sums, counts, named = oracle(sums, counts, [b.numpy() for b in batches])
        nearest = [found.nearest(batch) for batch in batches]
        assert torch.cat(nearest, dim=1).flatten().tolist() == named
        for batch, codes in zip(batches, nearest, strict=True):
            found.observe(batch, codes)
        found.update()
        np.testing.assert_allclose(found.sums.numpy(), sums, atol=1e-12)
        np.testing.assert_allclose(found.counts.numpy(), counts, atol=1e-12)
        np.testing.assert_allclose(found.codes().numpy(), sums / counts[..., None], atol=1e-12)


def test_codes_that_nothing_is_near_to_stay():
    found = books()
    before = found.sums.clone(), found.counts.clone()
    one = found.codes()[:, 3:4] + 1e-3
    found.observe(one, found.nearest(one))
    found.update()
    others = [0, 1, 2, 4]
    assert torch.equal(found.sums[:, others], before[0][:, others])
    assert torch.equal(found.counts[:, others], before[1][:, others])
    assert not torch.equal(found.sums[:, 3], before[0][:, 3])
    assert not found.pending.any()
    found.update()
    assert torch.equal(found.sums[:, others], before[0][:, others])


def test_vectors_with_infinities_do_not_count():
    found, without = books(), books()
    before = found.sums.clone()
    bad = vectors(4)
    codes = torch.tensor([[0, 1, 2, 2], [0, 1, 2, 2]])
    without.observe(bad[:1, [0, 2, 3]].expand(2, -1, -1), codes[:, [0, 2, 3]])
    without.update()
    bad[0, 1, 2] = torch.inf
    found.observe(bad, torch.tensor([[0, 1, 2, 2], [0, 1, 2, 2]]))
    found.update()
    assert found.sums.isfinite().all()
    assert torch.equal(found.sums[0, 1], before[0, 1])
    assert not torch.equal(found.sums[1, 1], before[1, 1])
    torch.testing.assert_close(found.sums[0], without.sums[0])  # the other codes of that book have moved as without it


def test_codes_begin_standardised_over_a_book():
    found = EMACodebooks(2, 200, 3, decay=0.9)
    torch.testing.assert_close(found.codes().mean(1), torch.zeros(2, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.codes().std(1, correction=0), torch.ones(2, 3), atol=1e-4, rtol=0)
    assert (found.counts == 1).all()


def test_bf16_under_autocast_is_computed_in_float32():
    found, rows = books().float(), vectors().bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        codes = found.nearest(rows)
        found.observe(rows, codes)
    assert torch.equal(codes, found.nearest(rows.float()))
    again = books().float()
    again.observe(rows.float(), codes)
    assert torch.equal(found.pending, again.pending)


def test_state_is_all_there_is():
    found, other = books(), EMACodebooks(BOOKS, CODES, DIM, decay=0.9).double()
    other.load_state_dict(found.state_dict())
    assert sorted(found.state_dict()) == ["counts", "sums"]
    assert torch.equal(other.codes(), found.codes())


def run(share):
    found = books()
    for step in range(3):
        batch = vectors(8, seed=step)[:, share]
        found.observe(batch, found.nearest(batch))
        found.update()
    return torch.cat([found.sums.flatten(), found.counts.flatten()])


def work(rank, world, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    calls, all_reduce = [], torch.distributed.all_reduce
    torch.distributed.all_reduce = lambda x: (calls.append(1), all_reduce(x))
    try:
        state = run((slice(0, 5), slice(5, 8))[rank])
        torch.save((state, len(calls)), f"{folder}/{rank}.pt")
    finally:
        torch.distributed.destroy_process_group()
    leave(0)


def test_two_processes_equal_one_with_one_exchange_for_each_step(tmp_path):
    torch.multiprocessing.spawn(work, (2, str(tmp_path)), nprocs=2)
    alone = run(slice(None))
    for rank in range(2):
        state, calls = torch.load(tmp_path / f"{rank}.pt")
        assert calls == 3
        torch.testing.assert_close(state, alone, atol=1e-12, rtol=0)
    assert alone.numel() == pytest.approx(BOOKS * CODES * (DIM + 1))
