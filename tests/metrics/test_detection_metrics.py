"""EER, minDCF, actDCF, Cllr and intervals against definitions written as loops over thresholds and trials, in fractions."""

from __future__ import annotations

import math
from fractions import Fraction
from functools import partial
from itertools import combinations, pairwise
from statistics import NormalDist

import numpy as np
import pytest

from audiossl import registry
from audiossl.metrics._detection import bootstrap_intervals, det_points, detection_curve, probit
from audiossl.metrics.act_dcf import act_dcf, curve_act_dcf
from audiossl.metrics.cllr import cllr, curve_cllr
from audiossl.metrics.d_prime import curve_d_prime, d_prime
from audiossl.metrics.equal_error_rate import curve_eer, equal_error_rate
from audiossl.metrics.min_dcf import curve_min_dcf, min_dcf
from audiossl.metrics.score_overlap import curve_score_overlap, score_overlap

CONVENTIONS = ("interpolated", "max", "mean", "convex_hull")


@pytest.fixture(params=[(0, None), (1, 0), (2, 1), (3, None), (4, 1), (5, 0)])
def trials(request):
    """Overlapping scores, rounded in some cases so that many tie, in float32 in others; the classes differ in size."""
    seed, decimals = request.param
    rng = np.random.default_rng(seed)
    labels = rng.random(60 + 7 * seed) < 0.3
    scores = rng.standard_normal(len(labels)) + 1.3 * labels
    scores = scores if decimals is None else scores.round(decimals)
    return (scores.astype(np.float32) if seed % 2 else scores), labels


def operating_points(scores, labels):
    """(false-alarm rate, miss rate) as fractions for every threshold, from accepting everything to rejecting everything."""
    targets, others = (
        [s for s, y in zip(scores, labels, strict=True) if y],
        [s for s, y in zip(scores, labels, strict=True) if not y],
    )
    points = []
    for threshold in [*sorted(set(scores.tolist())), math.inf]:
        miss = Fraction(sum(s < threshold for s in targets), len(targets))
        points.append((Fraction(sum(s >= threshold for s in others), len(others)), miss))
    return points


def crossing(a, b):
    """Where the line from a to b meets miss = false alarm."""
    share = (a[0] - a[1]) / ((a[0] - a[1]) - (b[0] - b[1]))
    return a[1] + share * (b[1] - a[1])


def slow_eer(points, convention):
    if convention == "interpolated":
        for a, b in pairwise(points):
            if a[1] < a[0] and b[1] >= b[0]:
                return crossing(a, b)
    if convention == "convex_hull":
        # Every chord lies on or above the hull, and the hull is one of them.
        pairs = [(a, b) for a, b in combinations(points, 2) if a[1] <= a[0] and b[1] >= b[0] and a != b]
        return min(crossing(a, b) if a[0] - a[1] != b[0] - b[1] else a[0] for a, b in pairs)
    fa, miss = min(points, key=lambda point: abs(point[0] - point[1]))  # the first of equals
    return max(fa, miss) if convention == "max" else (fa + miss) / 2


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_equal_error_rate(trials, convention):
    wanted = 100 * float(slow_eer(operating_points(*trials), convention))
    assert equal_error_rate(*trials, convention=convention) == pytest.approx(wanted, rel=1e-12)


def test_conventions_differ_where_no_threshold_is_equal():
    # By rising threshold, (false alarms, misses) are (1, 0), (1/2, 0), (1/2, 1/3), (0, 1/3), (0, 2/3), (0, 1).
    scores, labels = np.array([3, 1, 4, 0, 2]), np.array([1, 1, 1, 0, 0])
    assert equal_error_rate(scores, labels) == pytest.approx(100 / 3)
    assert equal_error_rate(scores, labels, convention="max") == pytest.approx(50)
    assert equal_error_rate(scores, labels, convention="mean") == pytest.approx(100 * 5 / 12)
    assert equal_error_rate(scores, labels, convention="convex_hull") == pytest.approx(20)


def test_interpolated_is_the_root_on_the_roc(trials):
    """The number that `brentq(lambda x: 1 - x - interp1d(fpr, tpr)(x), 0, 1)` seeks."""
    metrics, optimize = pytest.importorskip("sklearn.metrics"), pytest.importorskip("scipy.optimize")
    false_alarm, hit, _ = metrics.roc_curve(trials[1], trials[0], drop_intermediate=False)
    root = optimize.brentq(lambda x: 1 - x - np.interp(x, false_alarm, hit), 0, 1)
    assert equal_error_rate(*trials) == pytest.approx(100 * root, abs=1e-8)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_limits(convention):
    labels = np.array([0, 0, 1, 1])
    assert equal_error_rate(np.arange(4), labels, convention=convention) == 0
    worst = 50 if convention == "convex_hull" else 100  # the hull may as well toss a coin
    assert equal_error_rate(-np.arange(4), labels, convention=convention) == worst
    tied = 100 if convention == "max" else 50
    assert equal_error_rate(np.zeros(4), labels, convention=convention) == tied


def test_order_of_tied_trials_does_not_matter():
    rng = np.random.default_rng(0)
    scores, labels = rng.integers(0, 5, 200).astype(float), rng.random(200) < 0.5
    order = rng.permutation(200)
    for metric in (equal_error_rate, min_dcf, act_dcf, cllr, score_overlap, d_prime):
        assert metric(scores, labels) == pytest.approx(metric(scores[order], labels[order]), rel=1e-12)


def test_score_overlap_counts_the_trials_on_the_wrong_side(trials):
    scores, labels = trials
    targets, others = scores[labels].tolist(), scores[~labels].tolist()
    best = None
    for threshold in [*sorted(set(scores.tolist())), math.inf]:
        misses, alarms = sum(s < threshold for s in targets), sum(s >= threshold for s in others)
        gap = abs(Fraction(misses, len(targets)) - Fraction(alarms, len(others)))
        if best is None or gap < best[0]:
            best = gap, misses + alarms
    assert score_overlap(scores, labels) == pytest.approx(100 * best[1] / len(scores), rel=1e-12)
    assert curve_score_overlap(detection_curve(scores, labels)) == score_overlap(scores, labels)


def test_d_prime_is_a_distance_of_means_in_deviations(trials):
    scores, labels = trials
    targets, others = scores[labels].tolist(), scores[~labels].tolist()
    means = [sum(side) / len(side) for side in (targets, others)]
    variances = [
        sum((s - mean) ** 2 for s in side) / len(side) for side, mean in zip((targets, others), means, strict=True)
    ]
    wanted = (means[0] - means[1]) / math.sqrt(sum(variances) / 2)
    assert d_prime(scores, labels) == pytest.approx(wanted, rel=1e-10)
    assert d_prime(1000 - 3 * scores.astype(np.float64), labels) == pytest.approx(-wanted, rel=1e-9)
    assert curve_d_prime(detection_curve(scores, labels)) == d_prime(scores, labels)


def test_d_prime_gives_the_error_rate_of_gaussian_scores():
    rng = np.random.default_rng(0)
    labels = rng.random(400_000) < 0.5
    scores = rng.standard_normal(400_000) + 2 * labels
    assert d_prime(scores, labels) == pytest.approx(2, abs=0.01)
    assert equal_error_rate(scores, labels) == pytest.approx(
        100 * NormalDist().cdf(-d_prime(scores, labels) / 2), abs=0.1
    )
    assert score_overlap(scores, labels) == pytest.approx(equal_error_rate(scores, labels), abs=0.1)


def test_d_prime_without_spread():
    labels = np.array([1, 1, 1, 0, 0])
    assert d_prime(np.array([0.3, 0.3, 0.3, 0.1, 0.1]), labels) == math.inf
    assert d_prime(np.array([0.1, 0.1, 0.1, 0.3, 0.3]), labels) == -math.inf
    assert d_prime(np.full(5, 0.3), labels) == 0


@pytest.mark.parametrize(("p", "miss", "fa"), [(0.01, 1, 1), (0.5, 1, 1), (0.05, 10, 1), (0.9, 1, 3)])
def test_detection_costs(trials, p, miss, fa):
    scores, labels = trials
    points = operating_points(scores, labels)
    costs = [miss * p * float(m) + fa * (1 - p) * float(f) for f, m in points]
    arguments = {"p_target": p, "c_miss": miss, "c_fa": fa}
    default = min(miss * p, fa * (1 - p))
    assert min_dcf(scores, labels, **arguments) == pytest.approx(min(costs) / default, rel=1e-12)
    assert min_dcf(scores, labels, **arguments, normalise=False) == pytest.approx(min(costs), rel=1e-12)
    threshold = math.log(fa * (1 - p) / (miss * p))
    wrong = 0.0
    for score, target in zip(scores.tolist(), labels.tolist(), strict=True):
        accepted = score >= threshold
        wrong += (miss * p / labels.sum()) * (target and not accepted)
        wrong += (fa * (1 - p) / (~labels).sum()) * (accepted and not target)
    assert act_dcf(scores, labels, **arguments) == pytest.approx(wrong / default, rel=1e-12, abs=1e-15)
    assert act_dcf(scores, labels, **arguments, normalise=False) == pytest.approx(wrong, rel=1e-12, abs=1e-15)


def test_cllr_is_a_mean_over_trials(trials):
    scores, labels = trials
    targets = [math.log2(1 + math.exp(-s)) for s in scores[labels].tolist()]
    others = [math.log2(1 + math.exp(s)) for s in scores[~labels].tolist()]
    wanted = (sum(targets) / len(targets) + sum(others) / len(others)) / 2
    assert cllr(scores, labels) == pytest.approx(wanted, rel=1e-12)
    assert curve_cllr(detection_curve(scores, labels)) == pytest.approx(wanted, rel=1e-12)


def test_cllr_of_nothing_is_one_and_of_certainty_finite():
    labels = np.array([True, False, True])
    assert cllr(np.zeros(3), labels) == pytest.approx(1)
    assert cllr(np.array([2000.0, -2000.0, 2000.0]), labels) == 0
    assert cllr(np.array([-2000.0, 2000.0, -2000.0]), labels) == pytest.approx(2000 / math.log(2))


def test_det_points_lie_on_the_curve():
    rng = np.random.default_rng(0)
    labels = rng.random(20_000) < 0.2
    scores = rng.standard_normal(20_000) + 2 * labels
    curve = detection_curve(scores, labels)
    false_alarm, miss = det_points(curve)
    assert 200 < len(miss) < 801
    on_curve = set(zip(curve.false_alarm_rate.tolist(), curve.miss_rate.tolist(), strict=True))
    inner = [point for point in zip(false_alarm.tolist(), miss.tolist(), strict=True) if 0.001 < min(point) < 0.999]
    assert set(inner) <= on_curve
    assert (np.diff(miss) >= 0).all()
    assert (np.diff(false_alarm) <= 0).all()
    # Gaussian scores of equal variance give a line of slope -1, two standard deviations from the corner.
    middle = (miss > 0.02) & (miss < 0.6) & (false_alarm > 0.02)
    np.testing.assert_allclose(probit(miss[middle]) + probit(false_alarm[middle]), -2, atol=0.1)
    assert miss.min() > 0
    assert false_alarm.max() < 1


def test_probit_is_the_inverse_of_the_normal_distribution():
    points = np.linspace(-4, 4, 33)
    np.testing.assert_allclose(probit(np.array([NormalDist().cdf(x) for x in points])), points, atol=1e-9)


def test_bootstrap_over_trials_is_that_of_resampled_lists(trials):
    scores, labels = trials
    even = {"p_target": 0.5}  # at 0.01, so few trials are best all rejected, whatever is drawn
    statistics = {
        "eer": curve_eer, "cost": partial(curve_min_dcf, **even), "act": partial(curve_act_dcf, **even), "cllr": curve_cllr
    }  # fmt: skip
    metrics = equal_error_rate, partial(min_dcf, **even), partial(act_dcf, **even), cllr
    got = bootstrap_intervals(scores, labels, statistics, generator=np.random.default_rng(5), num_samples=600)
    rng, slow = np.random.default_rng(6), {name: [] for name in statistics}
    targets, others = scores[labels], scores[~labels]
    for _ in range(600):
        drawn = np.concatenate([rng.choice(targets, len(targets)), rng.choice(others, len(others))])
        truth = np.arange(len(drawn)) < len(targets)
        for name, metric in zip(slow, metrics, strict=True):
            slow[name].append(metric(drawn, truth))
    for name, values in slow.items():
        spread = np.std(values)
        ends = np.quantile(values, [0.025, 0.975])
        np.testing.assert_allclose(got[name], ends, atol=0.6 * spread, err_msg=name)
        assert got[name].low < got[name].high


def test_bootstrap_over_speakers_counts_pairs_of_draws():
    """Statistics that give away the weights: the numbers of targets and non-targets of each resample."""
    enrol, test = np.array([0, 0, 1, 2, 1, 0]), np.array([0, 1, 1, 2, 2, 2])
    labels = enrol == test
    seen = []
    bootstrap_intervals(
        np.arange(6.0), labels, {"n": lambda c: seen.append((c.num_target, c.num_nontarget)) or 0.0},
        generator=np.random.default_rng(0), num_samples=300, speakers=(enrol, test),
    )  # fmt: skip
    # Three draws of three speakers: all differ (3 targets, 3 pairs), or one twice (3 targets, one pair of weight 2);
    # one three times leaves no non-target and is drawn again.
    assert set(seen) == {(3, 3), (3, 2)}
    assert np.mean([pair == (3, 2) for pair in seen]) == pytest.approx(18 / 24, abs=0.1)


def test_intervals_over_speakers_are_wider_where_speakers_matter():
    rng = np.random.default_rng(0)
    speakers = np.repeat(np.arange(30), 40)
    labels = np.tile([True, False], 600)
    other = np.where(labels, speakers, (speakers + rng.integers(1, 30, 1200)) % 30)
    scores = rng.standard_normal(1200) + 2 * labels + 1.5 * rng.standard_normal(30)[speakers]
    arguments = {"statistics": {"eer": curve_eer}, "num_samples": 200}
    one = bootstrap_intervals(scores, labels, generator=np.random.default_rng(0), **arguments)["eer"]
    two = bootstrap_intervals(
        scores, labels, generator=np.random.default_rng(0), speakers=(speakers, other), **arguments
    )["eer"]
    assert two.high - two.low > 1.3 * (one.high - one.low)
    assert one.low < equal_error_rate(scores, labels) < one.high


def test_bootstrap_is_a_function_of_the_generator(trials):
    runs = [
        bootstrap_intervals(*trials, {"eer": curve_eer}, generator=np.random.default_rng(seed), num_samples=50)
        for seed in (1, 1, 2)
    ]
    assert runs[0] == runs[1] != runs[2]


@pytest.mark.parametrize("metric", [equal_error_rate, min_dcf, act_dcf, cllr, score_overlap, d_prime])
@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        ([1.0, 2.0], [1, 1], "2 target and 0 non-target"),
        ([1.0, 2.0], [False, False], "0 target and 2 non-target"),
        ([], [], "0 target and 0 non-target"),
        ([1.0, math.nan], [0, 1], "trial 2 is nan"),
        ([math.inf, 1.0], [0, 1], "trial 1 is inf"),
        ([1.0, 2.0], [0, 2], "label .*2.* neither 0 nor 1"),
        ([1.0, 2.0], [0], "one label per score"),
    ],
)
def test_what_cannot_be_measured_is_refused(metric, scores, labels, message):
    with pytest.raises(ValueError, match=message):
        metric(np.array(scores), np.array(labels))


def test_wrong_settings_are_refused():
    scores, labels = np.arange(4.0), np.array([0, 1, 0, 1])
    for p in (0.0, 1.0, math.nan):
        with pytest.raises(ValueError, match="no prior"):
            min_dcf(scores, labels, p_target=p)
    with pytest.raises(ValueError, match="must be positive"):
        act_dcf(scores, labels, c_fa=0)
    with pytest.raises(ValueError, match="'median' is unknown"):
        equal_error_rate(scores, labels, convention="median")
    for samples, level in ((39, 0.95), (100, 1.0), (100, 0.999)):
        with pytest.raises(ValueError, match="interval"):
            bootstrap_intervals(
                scores, labels, {}, generator=np.random.default_rng(0), num_samples=samples, level=level
            )
    lonely = np.zeros(4, int), np.zeros(4, int)
    with pytest.raises(ValueError, match="one speaker"):
        bootstrap_intervals(scores, labels, {}, generator=np.random.default_rng(0), speakers=lonely)


@pytest.mark.parametrize("name", ["equal_error_rate", "min_dcf", "act_dcf", "cllr", "score_overlap", "d_prime"])
def test_detection_metrics_are_found_by_name(name):
    assert registry.get("metrics", name).__name__ == name
