import numpy as np
import pytest

from audiossl.metrics.r_squared import r_squared


def test_the_sums_written_out():
    wanted, predicted = [1.0, 2.0, 4.0, 9.0], [1.5, 2.0, 3.0, 8.0]
    mean = sum(wanted) / 4
    left = sum((y - p) ** 2 for y, p in zip(wanted, predicted, strict=True))
    assert r_squared(predicted, wanted) == pytest.approx(1 - left / sum((y - mean) ** 2 for y in wanted))
    assert r_squared(wanted, wanted) == 1.0
    assert r_squared([mean] * 4, wanted) == pytest.approx(0.0)
    assert r_squared([20.0] * 4, wanted) < -1.0


def test_several_values_count_alike():
    wanted = np.array([[0.0, 100.0], [1.0, 300.0], [2.0, 200.0]])
    predicted = wanted + np.array([[0.5, 0.0], [0.0, 0.0], [0.0, 0.0]])
    assert r_squared(predicted, wanted) == pytest.approx((1 - 0.25 / 2 + 1) / 2)


@pytest.mark.parametrize(
    ("predicted", "wanted", "match"),
    [
        ([1.0], [1.0, 2.0], "one for each"),
        ([], [], "one for each"),
        ([1.0, 2.0], [3.0, 3.0], "all alike"),
        ([0.2] * 6, [0.1] * 6, "all alike"),
    ],
)
def test_nonsense_is_refused(predicted, wanted, match):
    with pytest.raises(ValueError, match=match):
        r_squared(np.array(predicted), np.array(wanted))
