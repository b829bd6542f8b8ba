"""Plots of a verification system: the detection error trade-off and the distributions of its scores."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from audiossl.metrics._detection import det_points, probit
from audiossl.metrics.equal_error_rate import curve_eer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from matplotlib.figure import Figure

    from audiossl.metrics._detection import DetectionCurve
    from audiossl.metrics.equal_error_rate import Convention

_TICKS = np.array([0.0001, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.95])
_BINS = 100


def draw_det(figure: Figure, curves: Mapping[str, DetectionCurve], *, convention: Convention = "interpolated") -> None:
    """Miss rate over false-alarm rate on probit axes, where Gaussian scores of equal variance give a straight line (Martin et al., 1997).

    One line per system, with a dot at its equal error rate by `convention`; only the interpolated one lies on the line itself.
    """
    axes = figure.subplots()
    ends = [1.0, 0.0]
    for number, (name, curve) in enumerate(curves.items()):
        false_alarm, miss = det_points(curve)
        eer = curve_eer(curve, convention=convention) / 100.0
        axes.plot(probit(false_alarm), probit(miss), color=f"C{number % 6}", label=f"{name}, EER {100 * eer:.2f} %")
        if 0.0 < eer < 1.0:  # the axes end before 0 and 1
            axes.plot(*2 * [probit(np.array([eer]))], color=f"C{number % 6}", marker="o", markersize=5)
        ends = [min(ends[0], false_alarm.min(), miss.min()), max(ends[1], eer)]
    low, high = max(ends[0], _TICKS[0]), min(max(0.4, 1.3 * ends[1]), _TICKS[-1])
    shown = _TICKS[(low <= _TICKS) & (high >= _TICKS)]
    labels = [f"{100 * tick:g}" for tick in shown]
    limits = tuple(probit(np.array([low, high])))
    axes.set_xticks(probit(shown), labels)
    axes.set_yticks(probit(shown), labels)
    axes.set(xlabel="false alarms, %", ylabel="misses, %", xlim=limits, ylim=limits, aspect="equal")
    axes.legend()


def draw_histogram(figure: Figure, scores: np.ndarray, labels: np.ndarray, *, threshold: float | None = None) -> None:
    """Densities of the scores of targets and of non-targets, each of area 1.

    scores, labels: (trial,). threshold: marked, where there is one that the scores are meant for.
    """
    axes = figure.subplots()
    edges = _edges(np.asarray(scores, np.float64))
    for number, (name, chosen) in enumerate({"non-targets": ~labels, "targets": labels}.items()):
        density, _ = np.histogram(scores[chosen], bins=edges, density=True)
        axes.stairs(density, edges, fill=True, alpha=0.45, color=f"C{number}", label=f"{int(chosen.sum()):,} {name}")
    if threshold is not None:
        axes.axvline(threshold, color="C2", linestyle="--", linewidth=1.2, label=f"Bayes threshold {threshold:.2f}")
    axes.set(xlabel="score", ylabel="density")
    axes.margins(x=0.01)
    axes.legend()


def _edges(scores: np.ndarray) -> np.ndarray:
    """(bin + 1,) edges over all scores; where these are all but equal, so far apart that float64 tells them from one another."""
    low, high = float(scores.min()), float(scores.max())
    least = 1e-6 * max(abs(low), abs(high)) or 1.0
    surplus = max(0.0, least - (high - low)) / 2
    return np.linspace(low - surplus, high + surplus, _BINS + 1)
