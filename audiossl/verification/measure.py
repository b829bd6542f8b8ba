"""What a list of scores is worth: every number that `audiossl verify` reports, from one sort."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from audiossl.metrics._detection import bootstrap_intervals, checked_tail, default_cost, detection_curve
from audiossl.metrics.act_dcf import curve_act_dcf
from audiossl.metrics.cllr import curve_cllr
from audiossl.metrics.d_prime import curve_d_prime
from audiossl.metrics.equal_error_rate import Convention, curve_eer
from audiossl.metrics.min_dcf import curve_min_dcf
from audiossl.metrics.score_overlap import curve_score_overlap

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    from audiossl.metrics._detection import DetectionCurve


@dataclass(frozen=True)
class MeasureConfig:
    """What is measured.

    eer: see `metrics.equal_error_rate`. p_target, c_miss, c_fa: of the detection costs. llr: scores are log-likelihood ratios, so that
    the actual cost and Cllr mean something. bootstrap: resamples for 95 % intervals, 0 for none.
    """

    eer: Convention = "interpolated"
    p_target: float = 0.01
    c_miss: float = 1.0
    c_fa: float = 1.0
    llr: bool = False
    bootstrap: int = 0

    def __post_init__(self) -> None:
        default_cost(self.p_target, self.c_miss, self.c_fa)
        if self.bootstrap:
            checked_tail(self.bootstrap)


def measure(
    scores: np.ndarray,
    labels: np.ndarray,
    config: MeasureConfig,
    *,
    generator: np.random.Generator,
    speakers: tuple[np.ndarray, np.ndarray] | None = None,
) -> tuple[dict[str, Any], DetectionCurve]:
    """Return the measures by name, and the curve that they were read from.

    eer, score_overlap: percent. min_dcf, act_dcf: normalised; min_dcf_raw: not. cllr: bits. d_prime: left out where it is infinite, as the
    scores of neither class vary. num_target, num_nontarget: trials. With a bootstrap, `<measure>_interval` is [low, high]. scores, labels:
    (trial,). speakers: see `bootstrap_intervals`.
    """
    curve = detection_curve(scores, labels)
    costs: dict[str, Any] = {"p_target": config.p_target, "c_miss": config.c_miss, "c_fa": config.c_fa}
    statistics: dict[str, Callable[[DetectionCurve], float]] = {
        "eer": partial(curve_eer, convention=config.eer),
        "min_dcf": partial(curve_min_dcf, **costs),
        "min_dcf_raw": partial(curve_min_dcf, **costs, normalise=False),
        "score_overlap": curve_score_overlap,
        "d_prime": curve_d_prime,
    }
    if config.llr:
        statistics |= {"act_dcf": partial(curve_act_dcf, **costs), "cllr": curve_cllr}
    values = {name: statistic(curve) for name, statistic in statistics.items()}
    found: dict[str, Any] = {name: value for name, value in values.items() if math.isfinite(value)}
    found |= {"num_target": curve.num_target, "num_nontarget": curve.num_nontarget}
    if config.bootstrap:
        intervals = bootstrap_intervals(
            scores, labels, statistics, generator=generator, num_samples=config.bootstrap, speakers=speakers
        )
        found |= {f"{name}_interval": list(ends) for name, ends in intervals.items() if all(map(math.isfinite, ends))}
    return found, curve
