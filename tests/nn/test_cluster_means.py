import numpy as np
import pytest
import torch

from audiossl.nn.cluster_means import cluster_means


def test_means_are_those_of_the_nearest_frames():
    torch.manual_seed(0)
    frames = torch.randn(60, 3)
    means = cluster_means(frames, 4, iterations=100).double().numpy()
    points = frames.double().numpy()
    nearest = ((points[:, None] - means) ** 2).sum(2).argmin(1)
    assert set(nearest) == set(range(4))
    for cluster, mean in enumerate(means):
        np.testing.assert_allclose(mean, points[nearest == cluster].mean(0), atol=1e-6)


def test_a_cluster_without_frames_stays():
    frames = torch.tensor([[0.0], [0.0], [5.0]])
    torch.manual_seed(0)
    assert sorted(cluster_means(frames, 3).flatten().tolist()) == [0.0, 0.0, 5.0]


def test_too_few_frames():
    with pytest.raises(ValueError, match="3 frames are too few for 4 codes"):
        cluster_means(torch.randn(3, 2), 4)
