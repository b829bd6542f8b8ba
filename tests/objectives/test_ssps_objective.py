"""SSPS: its clusters, what it draws from the queue, and the loss with these positives."""

import numpy as np
import pytest
import torch
from two_crops import SAMPLES, encoder, mean_of, noise, represented, unit

from audiossl.contracts import Utterance
from audiossl.losses.nt_xent import nt_xent
from audiossl.objectives import _positives
from audiossl.objectives._positives import neighbours_of
from audiossl.objectives.ssps import SSPS

IDS = [f"s{number}" for number in range(8)]
SMALL = {"num_clusters": 3, "queue_size": 12, "start_epoch": 1, "clean_duration": 0, "temperature": 0.1}


def made(**options):
    """In training mode but for the encoder, so that rows do not depend on each other."""
    own = encoder()
    torch.manual_seed(1)
    module = SSPS(own, SSPS.Config(crop_duration=0.3, **SMALL | options), IDS).train()
    module.encoder.eval()
    return module


def batch_of(places):
    batch = noise(len(IDS))
    return {
        "waveform": batch["waveform"][[max(place, 0) for place in places]],
        "waveform_lengths": batch["waveform_lengths"][: len(places)],
        "index": torch.tensor(places),
    }


def epoch(module, seed=0):
    for step, places in enumerate(([0, 1, 2, 3], [4, 5, 6, 7]), start=1):
        module(batch_of(places))
        torch.manual_seed(seed)
        module.after_step(step)
    return module


def rows_of(places):
    """Direction of the mean of both crops' directions, float64."""
    first, second = (unit(view.numpy()) for view in represented(made(), batch_of(places)))
    return unit(first + second)


def by_kmeans(points, start, iterations=10):
    centroids = unit(start)
    for _ in range(iterations):
        nearest = (points @ centroids.T).argmax(axis=1)
        for k in range(len(centroids)):
            if (nearest == k).any():
                centroids[k] = unit(points[nearest == k].sum(axis=0))
    return centroids, (points @ centroids.T).argmax(axis=1)


def test_before_its_epoch_it_is_simclr_and_then_clusters():
    module = made(start_epoch=2)
    first, second = represented(module, batch_of([3, 1, 2]))
    output = module(batch_of([3, 1, 2]))
    assert output.loss_sum.item() == pytest.approx(3 * nt_xent(first, second, temperature=0.1).item(), rel=1e-4)
    assert mean_of(output, "replaced") == 0
    module = epoch(made(start_epoch=2))
    assert (module.sampler.epochs, module.sampler.seen) == (1, 0)
    assert (module.sampler.clusters == -1).all()
    epoch(module)
    assert (module.sampler.clusters >= 0).all()


def test_clusters_are_those_of_the_epochs_embeddings():
    module = epoch(made(), seed=6)
    points = rows_of(range(8))
    np.testing.assert_allclose(module.sampler.memory.double(), points, atol=2e-3)
    torch.manual_seed(6)
    start = module.sampler.memory.double().numpy()[torch.randperm(8)[:3].numpy()]
    centroids, nearest = by_kmeans(module.sampler.memory.double().numpy(), start)
    assert module.sampler.clusters.tolist() == nearest.tolist()
    cosines = centroids @ centroids.T - 9 * np.eye(3)
    assert module.sampler.near.squeeze(1).tolist() == cosines.argmax(axis=1).tolist()


def test_what_is_clustered_first_is_of_one_epoch():
    module = made(start_epoch=2)
    for places in ([0, 1, 2, 3], [4, 5, 6, 7], [0, 1, 2, 3], [0, 4, 5, 6]):
        module(batch_of(places))
        module.after_step(1)
    assert (module.sampler.clusters >= 0).tolist() == [place != 7 for place in range(8)]


def test_epochs_of_other_lengths_leave_no_utterance_out():
    """Utterance 7 is too short for the loader, whose epochs are of seven."""
    module, known = made(start_epoch=1), []
    for start in range(0, 84, 2):
        module(batch_of([start % 7, (start + 1) % 7]))
        module.after_step(1)
        known.append((module.sampler.clusters[:7] >= 0).all().item())
    assert (module.sampler.epochs, module.sampler.seen) == (10, 4)
    assert all(known[3:])


def test_neighbours_by_brute_force(monkeypatch):
    monkeypatch.setattr(_positives, "_CHUNK", 3)
    points = torch.nn.functional.normalize(torch.randn(8, 5, generator=torch.Generator().manual_seed(0)), dim=1)
    found = neighbours_of(points, 2)
    for row in range(8):
        cosines = {other: float(points[row].double() @ points[other].double()) for other in range(8) if other != row}
        assert found[row].tolist() == sorted(cosines, key=cosines.get, reverse=True)[:2]
    assert neighbours_of(points, 0).squeeze(1).tolist() == list(range(8))


def with_queue(owners, clusters, near, **options):
    module = made(queue_size=len(owners), **options)
    module.sampler.owners.copy_(torch.tensor(owners))
    module.sampler.queue.copy_(torch.arange(len(owners)).float().unsqueeze(1).expand_as(module.sampler.queue))
    module.sampler.clusters.copy_(torch.tensor(clusters))
    module.sampler.near.copy_(torch.tensor(near))
    return module


def test_draws_are_uniform_over_clusters_and_then_over_members():
    # Entries of cluster 1: 0, 2, 5; of cluster 2: 3; entry 1 is of cluster 0, and 4 of nobody.
    module = with_queue([4, 0, 5, 7, -1, 4], [0, 0, 0, -1, 1, 1, 1, 2], [[1, 2], [0, 2], [0, 1]], neighbours=2)
    torch.manual_seed(0)
    drawn, there = module.sampler.sample(torch.zeros(6000, dtype=torch.int64))
    assert there.all()
    share = np.bincount(drawn[:, 0].long(), minlength=6) / 6000
    # four standard deviations of a share of 1/2 in 6,000 draws are 0.026
    np.testing.assert_allclose(share, [1 / 6, 0, 1 / 6, 1 / 2, 0, 1 / 6], atol=0.026)


def test_where_there_is_nobody_the_crop_stays():
    module = with_queue([4, 4, -1, -1, -1, -1], [0, 2, 0, -1, 1, 1, 1, 2], [[1], [2], [0]])
    drawn, there = module.sampler.sample(torch.tensor([0, 1, 3, -1, 4]))
    assert there.tolist() == [True, False, False, False, False]  # cluster 0, no entry, no cluster, unknown, no entry
    assert drawn.isfinite().all()


def test_loss_and_gradient_are_of_the_sampled_positives():
    module = with_queue([4, 7, -1, -1, -1, -1], [0, 0, 1, 2, 1, 1, 1, 2], [[1], [2], [0]])
    with torch.no_grad():
        module.sampler.queue[:2] = torch.randn(2, module.sampler.queue.shape[1])
    kept = module.sampler.queue[:2].clone()
    batch = batch_of([0, 2, 3])  # the positives are entry 0, entry 1, and the own second crop
    output = module(batch)
    output.loss_sum.backward()
    gradients = [p.grad.clone() for p in module.encoder.parameters()]
    other = made()
    lengths = torch.full((3,), SAMPLES)
    first, second = (other.encoder.embed(batch["waveform"][:, k : k + SAMPLES], lengths) for k in (0, SAMPLES))
    loss = 3 * nt_xent(first, torch.cat([kept, second[2:]]), temperature=0.1)
    assert output.loss_sum.item() == pytest.approx(loss.item(), rel=1e-4)
    assert mean_of(output, "replaced") == pytest.approx(2 / 3)
    loss.backward()
    for ours, theirs in zip(gradients, (p.grad for p in other.encoder.parameters()), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def test_queue_holds_the_latest_second_crops():
    module = made(queue_size=5)
    for places in ([0, 1, 2], [3, -1, 5]):
        module(batch_of(places))
    assert module.sampler.owners.tolist() == [5, 1, 2, 3, -1]
    assert module.sampler.place == 1
    second = represented(module, batch_of([5, 1, 2, 3]))[1]
    torch.testing.assert_close(module.sampler.queue[:4], second, rtol=1e-4, atol=1e-4)
    assert module.sampler.known.tolist() == [place in {0, 1, 2, 3, 5} for place in range(8)]


def test_evaluation_changes_and_replaces_nothing():
    module = epoch(made()).eval()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    output = module(batch_of([0, 1, 2]))
    first, second = represented(module, batch_of([0, 1, 2]))
    assert output.loss_sum.item() == pytest.approx(3 * nt_xent(first, second, temperature=0.1).item(), rel=1e-4)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_it_resumes_in_the_middle_of_an_epoch():
    module, other = epoch(made()), made()
    module(batch_of([0, 1, 2]))
    other.load_state_dict(module.state_dict())
    for each in (module, other):
        torch.manual_seed(3)
        each(batch_of([3, 4, 5, 6, 7]))
        each.after_step(9)
    assert module.sampler.epochs == 2
    pairs = zip(module.state_dict().items(), other.state_dict().values(), strict=True)
    assert [name for (name, ours), theirs in pairs if not torch.equal(ours, theirs)] == []


def test_a_broken_embedding_is_in_no_cluster_and_no_positive():
    module = made()
    broken = batch_of([0, 1, 2, 3])
    broken["waveform"][2] = torch.nan
    module(broken)
    module(batch_of([4, 5, 6, 7]))
    module.after_step(1)
    assert module.sampler.near.unique().numel() > 1
    assert (module.sampler.clusters == -1).tolist() == [place == 2 for place in range(8)]
    assert module.sampler.owners.tolist()[:4] == [0, 1, -1, 3]


def test_what_is_clustered_is_a_clean_crop_in_eval_mode():
    """Only in epochs that end with clusters; batch norms do not see it."""
    module = made(start_epoch=2, clean_duration=0.4)
    batch = batch_of([0, 1, 2, 3])
    batch["clean"] = torch.randn(4, 6400, generator=torch.Generator().manual_seed(5))
    module(batch)
    np.testing.assert_allclose(module.sampler.memory[:4].double(), rows_of([0, 1, 2, 3]), atol=2e-3)
    module(batch_of([4, 5, 6, 7]))
    module.after_step(1)
    module.encoder.train()
    seen, embed = [], module.encoder.embed
    module.encoder.embed = lambda x, lengths: seen.append((x.shape, module.encoder.training)) or embed(x, lengths)
    module(batch)
    assert seen == [((8, SAMPLES), True), ((4, 6400), False)]
    assert module.encoder.training
    alone = made()
    alone.encoder.load_state_dict(module.encoder.state_dict())
    with torch.no_grad():
        points = unit(alone.encoder.embed(batch["clean"], torch.full((4,), 6400)).numpy())
    np.testing.assert_allclose(module.sampler.memory[:4].double(), points, atol=2e-3)


def test_the_clean_crop_is_not_augmented():
    views = made(clean_duration=0.5).views
    clean = Utterance("s3", np.arange(16000, dtype=np.float32), 16000)
    loud = AugmentedUtterance("s3", 100_000 + clean.waveform, 16000)
    loud.original = clean
    found = views(loud, np.random.default_rng(0))
    assert found["index"] == 3
    assert (found["waveform"] >= 100_000).all()
    assert found["clean"].shape == (8000,)
    assert (np.diff(found["clean"]) == 1).all()
    assert found["clean"].max() < 16000
    assert "clean" not in made().views(loud, np.random.default_rng(0))


class AugmentedUtterance(Utterance):
    """As the loader has them: `clean` is another one."""

    @property
    def clean(self):
        return self.original


def test_faults_are_named():
    with pytest.raises(ValueError, match="clean_duration: -1 s is negative; 0 is no crop of its own"):
        made(clean_duration=-1)
    with pytest.raises(ValueError, match="num_clusters: 8 utterances do not fill 9 clusters; lower it"):
        made(num_clusters=9)
    with pytest.raises(ValueError, match="neighbours: 3 is not from 0 to num_clusters - 1 = 2"):
        made(neighbours=3)
    with pytest.raises(ValueError, match="start_epoch: 0 is not positive"):
        made(start_epoch=0)
    with pytest.raises(ValueError, match="queue_size: 2 is less than the 3 utterances"):
        made(queue_size=2)(batch_of([0, 1, 2]))
    module = made(num_clusters=7)
    module(batch_of([0, 1, 2, 3])), module(batch_of([0, 1, 2, 3]))
    with pytest.raises(ValueError, match="the 4 utterances of an epoch do not fill 7 clusters"):
        module.after_step(1)
