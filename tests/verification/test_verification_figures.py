"""Plots show the numbers that they are of."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure

from audiossl.metrics._detection import detection_curve, probit
from audiossl.metrics.equal_error_rate import curve_eer
from audiossl.verification.figures import draw_det, draw_histogram


@pytest.fixture
def trials():
    rng = np.random.default_rng(0)
    labels = rng.random(4000) < 0.3
    return rng.standard_normal(4000) + 3 * labels, labels


def test_det_marks_the_equal_error_rate_on_its_line(trials):
    curve, figure = detection_curve(*trials), Figure()
    draw_det(figure, {"cosine": curve, "other": curve})
    [axes] = figure.axes
    line, dot = axes.lines[:2]
    rate = probit(np.array([curve_eer(curve) / 100]))
    np.testing.assert_allclose([dot.get_xdata(), dot.get_ydata()], [rate, rate])
    gap = np.hypot(line.get_xdata() - rate, line.get_ydata() - rate)
    assert gap.min() < 0.05
    assert "EER" in axes.get_legend().get_texts()[0].get_text()
    assert axes.get_xlim() == axes.get_ylim()
    assert axes.get_xlim()[0] < rate < axes.get_xlim()[1]
    assert [text.get_text() for text in axes.get_xticklabels()][:2] == ["0.1", "0.2"]


@pytest.mark.parametrize("sign", [1, -1])
def test_perfect_and_inverted_systems_can_be_drawn(sign):
    figure = Figure()
    draw_det(figure, {"system": detection_curve(sign * np.arange(8.0), np.arange(8) > 3)})
    figure.canvas.draw()


def test_histogram_has_unit_areas(trials):
    figure = Figure()
    draw_histogram(figure, *trials, threshold=1.5)
    [axes] = figure.axes
    for patch, chosen in zip(axes.patches, (~trials[1], trials[1]), strict=True):
        values, edges, _ = patch.get_data()
        assert np.sum(values * np.diff(edges)) == pytest.approx(1)
        middle = (edges[1:] + edges[:-1]) / 2
        assert np.sum(values * np.diff(edges) * middle) == pytest.approx(trials[0][chosen].mean(), abs=0.05)
    assert axes.lines[0].get_xdata()[0] == 1.5


def test_the_dot_and_the_legend_follow_the_convention():
    curve = detection_curve(np.array([0.1, 0.4, 0.35, 0.8, 0.9, 0.2, 0.6]), np.array([0, 0, 1, 1, 1, 0, 0], bool))
    rates = {}
    for convention in ("interpolated", "max", "mean", "convex_hull"):
        figure = Figure()
        draw_det(figure, {"system": curve}, convention=convention)
        [axes] = figure.axes
        rate = rates[convention] = curve_eer(curve, convention=convention)
        assert f"EER {rate:.2f} %" in axes.get_legend().get_texts()[0].get_text()
        assert axes.lines[1].get_xdata()[0] == pytest.approx(probit(np.array([rate / 100]))[0])
    assert len(set(rates.values())) > 2


@pytest.mark.parametrize("scores", [[1e30, -1e30], [0.1, np.nextafter(0.1, 1)], [1e20, 1e20], [0.0, 0.0], [1e30, 1e30]])
def test_histograms_of_extreme_scores(scores):
    figure = Figure()
    draw_histogram(figure, np.array(scores), np.array([True, False]))
    figure.canvas.draw()
    for patch in figure.axes[0].patches:
        values, edges, _ = patch.get_data()
        assert np.sum(values * np.diff(edges)) == pytest.approx(1)
