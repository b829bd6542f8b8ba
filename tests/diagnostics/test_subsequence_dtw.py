"""Batched subsequence DTW against a loop over pairs and cells, and against all paths of small cases."""

import numpy as np
import pytest
import torch

from audiossl.diagnostics.subsequence_dtw import detection_scores, subsequence_dtw

DISTANCES = ("cosine", "cosine_exp", "euclidean", "cityblock")


def frame_distance(a, b, name):
    if name == "euclidean":
        return np.sqrt(((a - b) ** 2).sum())
    if name == "cityblock":
        return np.abs(a - b).sum()
    cosine = a @ b / np.sqrt((a @ a) * (b @ b))
    return 1 - cosine if name == "cosine" else np.exp(1 - cosine) - 1


def local_distances(query, document, name, min_max):
    local = np.array([[frame_distance(a, b, name) for b in document] for a in query])
    if min_max:
        low, high = local.min(1, keepdims=True), local.max(1, keepdims=True)
        local = (local - low) / np.maximum(high - low, 1e-9)
    return local


def slow(local):
    cost = local.copy()
    for i in range(1, len(local)):
        for j in range(local.shape[1]):
            cost[i, j] = local[i, j] + min(cost[i - 1, k] for k in (j, j - 1, j - 2) if k >= 0)
    return cost[-1].min() / len(local)


def all_paths(local):
    def go(i, j):
        if i == len(local):
            return 0.0
        return min(local[i, k] + go(i + 1, k) for k in (j, j + 1, j + 2) if k < local.shape[1])

    return min(local[0, j] + go(1, j) for j in range(local.shape[1])) / len(local)


def features(seed, lengths, dim=5):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((length, dim)) for length in lengths]


@pytest.fixture
def pairs():
    return features(0, (7, 1, 12, 3, 7)), features(1, (20, 2, 1, 33, 9, 20))


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("min_max", [True, False])
@pytest.mark.parametrize("max_cells", [1, 300, 2**23])
def test_equals_the_loop_over_pairs(pairs, distance, min_max, max_cells):
    queries, documents = pairs
    wanted = [[slow(local_distances(q, d, distance, min_max)) for d in documents] for q in queries]
    tensors = [[torch.from_numpy(item) for item in items] for items in pairs]
    found = subsequence_dtw(*tensors, distance=distance, min_max=min_max, max_cells=max_cells)
    np.testing.assert_allclose(found.numpy(), wanted, rtol=0, atol=1e-10)
    single = [[item.float() for item in items] for items in tensors]
    found = subsequence_dtw(*single, distance=distance, min_max=min_max, max_cells=max_cells)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-6, atol=1e-6)


def test_is_the_least_of_all_paths():
    queries, documents = features(2, (1, 3, 4)), features(3, (1, 5, 8))
    wanted = [[all_paths(local_distances(q, d, "cosine_exp", min_max=True)) for d in documents] for q in queries]
    found = subsequence_dtw([torch.from_numpy(q) for q in queries], [torch.from_numpy(d) for d in documents])
    np.testing.assert_allclose(found.numpy(), wanted, rtol=0, atol=1e-12)


def test_a_document_that_holds_the_query_costs_nothing():
    (query,), (other, around) = features(4, (9,)), features(5, (30, 30))
    slower = np.repeat(query, 2, axis=0)  # half the speed, which steps of two frames still follow
    holding = [np.concatenate([around[:8], piece, around[8:]]) for piece in (query, slower)]
    documents = [torch.from_numpy(item) for item in (other, *holding)]
    costs = subsequence_dtw([torch.from_numpy(query)], documents)[0]
    assert costs[1:].abs().max() < 1e-9
    assert costs[0] > 0.05


def test_constant_rows_and_frames_of_zeros_are_finite():
    query, document = torch.zeros(3, 4), torch.ones(5, 4)
    for distance in DISTANCES:
        assert subsequence_dtw([query], [document], distance=distance).item() == 0
    assert subsequence_dtw([query], [document], distance="cosine", min_max=False).item() == 1


def test_memory_is_bounded(monkeypatch):
    from audiossl.diagnostics import subsequence_dtw as module

    sizes, whole = [], module._distances

    def counted(*arguments):
        found = whole(*arguments)
        sizes.append(found.numel())
        return found

    monkeypatch.setattr(module, "_distances", counted)
    queries = [torch.from_numpy(item) for item in features(6, range(5, 25))]
    documents = [torch.from_numpy(item) for item in features(7, range(10, 60))]
    subsequence_dtw(queries, documents, max_cells=10_000)
    cells = sum(map(len, queries)) * sum(map(len, documents))
    assert max(sizes) <= 10_000
    assert cells <= sum(sizes) < 1.2 * cells  # little padding
    assert len(sizes) < len(queries) * len(documents) / 4


def test_detection_scores():
    costs = torch.tensor([[0.1, 0.2, 0.6], [1.0, 1.0, 1.0], [0.3, 0.1, 0.2]], dtype=torch.float64)
    scores = detection_scores(costs, torch.tensor([5, 5, 4])).numpy()
    row = -costs[0].numpy()
    np.testing.assert_allclose(scores[0], (row - row.mean()) / row.std(), atol=1e-12)
    np.testing.assert_array_equal(scores[1:], 0)


def test_errors_say_what_to_do():
    frames = torch.zeros(3, 4)
    with pytest.raises(ValueError, match="'cosin' is unknown; choose one of cosine, cosine_exp"):
        subsequence_dtw([frames], [frames], distance="cosin")
    with pytest.raises(ValueError, match="0 queries and 1 documents"):
        subsequence_dtw([], [frames])
    with pytest.raises(ValueError, match=r"document 1 is torch.float32 of shape \(0, 4\)"):
        subsequence_dtw([frames], [frames, frames[:0]])
    with pytest.raises(ValueError, match="query 1"):
        subsequence_dtw([frames, frames[:, :3]], [frames])
    with pytest.raises(ValueError, match="query 0 or document 1 holds features that are not finite"):
        subsequence_dtw([frames], [frames, frames.log()])
