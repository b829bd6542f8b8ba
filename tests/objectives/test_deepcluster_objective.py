"""DeepCluster's objective: its epoch without clusters, its memory, and the loss on clusters of the epoch before."""

import math

import numpy as np
import pytest
import torch
from two_crops import SAMPLES, encoder, noise, projected, unit

from audiossl.contracts import Utterance
from audiossl.losses.swav import swav
from audiossl.objectives.deepcluster import DeepCluster

IDS = [f"s{number}" for number in range(8)]


def made(ids=IDS, **options):
    """In training mode but for its batch norms, so that rows do not depend on each other."""
    own = encoder()
    torch.manual_seed(1)
    config = DeepCluster.Config(**{"crop_duration": 0.3, "projector_dims": (10, 4), "prototypes": (3, 2)} | options)
    module = DeepCluster(own, config, ids).train()
    module.encoder.eval()
    module.projector.eval()
    return module


def batch_of(places):
    """Waveforms that belong to the places in memory: (batch, sample)."""
    batch = noise(len(IDS))
    return {
        "waveform": batch["waveform"][[max(place, 0) for place in places]],
        "waveform_lengths": batch["waveform_lengths"][: len(places)],
        "index": torch.tensor(places),
    }


def units(module, places):
    return [unit(view) for view in projected(module, batch_of(places))]


def after_an_epoch(module, seed=0, leave_out=()):
    for places in ([0, 1, 2, 3], [4, 5, 6, 7]):
        module(batch_of([-1 if place in leave_out else place for place in places]))
        assert module.rounds == 0
        torch.manual_seed(seed)
        module.after_step(1)
    assert module.rounds == 1
    return module


def test_views_say_the_place_in_memory():
    views = made(ids=["a", "c", "d"]).views
    places = [
        int(views(Utterance(name, np.ones(3 * SAMPLES, np.float32), 16000), np.random.default_rng(0))["index"])
        for name in ("a", "b", "c", "d", "e")
    ]
    assert places == [0, -1, 1, 2, -1]


def test_before_the_first_clustering_it_is_swav_on_random_centroids():
    module, batch = made(), batch_of([3, 1, 2])
    z = torch.from_numpy(np.stack(units(module, [3, 1, 2]))).float()
    heads = (z @ module.centroids.T).split((3, 2), dim=2)
    output = module(batch)
    assert output.loss_sum.item() == pytest.approx(3 * sum(swav(head).item() for head in heads) / 2, rel=1e-4)
    assert output.count == 3
    output.loss_sum.backward()
    assert any(p.grad.abs().max() > 1e-6 for p in module.encoder.parameters())


def test_memory_holds_both_crops_of_each_utterance():
    module = made()
    module(batch_of([5, 2]))
    for view, rows in enumerate(units(module, [5, 2])):
        np.testing.assert_allclose(module.memory[view][[5, 2]].double(), rows, atol=1e-3)
    assert module.known.nonzero().flatten().tolist() == [2, 5]
    assert module.seen == 2


def by_kmeans(points, start, iterations=10):
    centroids = unit(start)
    for _ in range(iterations):
        nearest = (points @ centroids.T).argmax(axis=1)
        centroids = np.array([
            unit(points[nearest == k].sum(axis=0)) if (nearest == k).any() else centroids[k] for k in range(len(centroids))
        ])  # fmt: skip
    return centroids, (points @ centroids.T).argmax(axis=1)


def test_heads_cluster_the_crops_in_turn():
    module = after_an_epoch(made(prototypes=(3, 2, 3)), seed=6)
    torch.manual_seed(6)
    parts = module.centroids.split((3, 2, 3))
    for head, size in enumerate((3, 2, 3)):
        order = torch.randperm(8)[:size].numpy()
        points = module.memory[head % 2].double().numpy()
        centroids, nearest = by_kmeans(points, points[order])
        np.testing.assert_allclose(parts[head], centroids, atol=1e-5)
        assert module.clusters[head].tolist() == nearest.tolist()
    assert module.seen == 0


def test_epochs_of_other_lengths_leave_no_utterance_out():
    """Utterance 7 is too short for the loader, whose epochs are of seven, and batches do not end where an epoch does."""
    module = made()
    for start in range(0, 90, 3):
        module(batch_of([(start + more) % 7 for more in range(3)]))
        module.after_step(1)
        assert module.rounds == 0 or (module.clusters[:, :7] >= 0).all()
    assert (module.rounds, module.seen) == (11, 2)


def test_loss_is_the_cross_entropy_with_the_last_clusters():
    module = after_an_epoch(made(temperature=0.3), leave_out=(6,))
    assert module.clusters[:, 6].tolist() == [-1, -1]
    places, total = [7, 6, 0, 3], 0.0
    views = units(module, places)
    parts = [part.double().numpy() for part in module.centroids.split((3, 2))]
    for row, place in enumerate(places):
        if place == 6:
            continue
        for head, centroids in enumerate(parts):
            for view in views:
                scores = centroids @ view[row] / 0.3
                total -= (scores[module.clusters[head, place]] - math.log(np.exp(scores).sum())) / 4
    output = module(batch_of(places))
    assert output.count == 3
    assert output.loss_sum.item() == pytest.approx(total, rel=1e-4)
    assert output.metrics["assigned"] == (3.0, 4.0)


def test_a_batch_without_clusters_counts_nothing():
    output = after_an_epoch(made(), leave_out=(6,))(batch_of([6]))
    assert (output.loss_sum.item(), output.count.item()) == (0.0, 0.0)
    output.loss_sum.backward()


def test_unknown_utterances_of_evaluation_belong_to_the_nearest_centroid():
    module = after_an_epoch(made()).eval()
    places = [1, 4, 5]
    batch = batch_of(places) | {"index": torch.full((3,), -1)}
    views = units(module, places)
    total = 0.0
    for head, centroids in enumerate(module.centroids.split((3, 2))):
        for row in range(3):
            cluster = (centroids.double().numpy() @ views[head % 2][row]).argmax()
            for view in views:
                scores = centroids.double().numpy() @ view[row] / 0.1
                total -= (scores[cluster] - math.log(np.exp(scores).sum())) / 4
    output = module(batch)
    assert output.count == 3
    assert output.loss_sum.item() == pytest.approx(total, rel=1e-3)
    assert module.seen == 0


def test_a_broken_embedding_breaks_no_centroid():
    module = made()
    broken = batch_of([0, 1, 2, 3])
    broken["waveform"][2] = torch.nan
    for batch in (broken, batch_of([4, 5, 6, 7])):
        module(batch)
        module.after_step(1)
    assert module.rounds == 1
    assert module.centroids.isfinite().all()
    assert (module.clusters[0] == -1).tolist() == [place == 2 for place in range(8)]


def test_too_few_utterances():
    with pytest.raises(ValueError, match="prototypes: 8 utterances do not fill 9 clusters; lower it"):
        made(prototypes=(9, 2))
    module = made(prototypes=(7, 2))
    module(batch_of([0, 1, 2, 3])), module(batch_of([0, 1, 2, 3]))
    with pytest.raises(
        ValueError, match="the 4 utterances of an epoch do not fill 7 clusters; lower objective.prototypes"
    ):
        module.after_step(1)
    with pytest.raises(ValueError, match=r"prototypes \[1\] must be 2 or more"):
        DeepCluster.Config(prototypes=(1,))
