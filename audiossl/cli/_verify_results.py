"""What `audiossl verify` leaves and prints: scores, plots, rows of results.json, lines for the terminal."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audiossl.files import whole_file

if TYPE_CHECKING:
    import numpy as np

    from audiossl.cli.verify import VerifyOptions
    from audiossl.metrics._detection import DetectionCurve
    from audiossl.verification.protocol import Selection
    from audiossl.verification.trials import Trials

# What the scores depend on: a row of results.json says it, and replaces the row that said the same.
_SETTINGS = (
    "trials", "embeddings", "scores", "plda", "subtract_mean", "cohort", "norm", "top", "speaker_means", "plain_means",
    "crop_mean", "calibrate", "calibration", "calibrate_embeddings", "calibrate_utt2dur", "quality", "utt2dur",
)  # fmt: skip
_COSTS = ("p_target", "c_miss", "c_fa")
_UNITS = {"eer": "%", "min_dcf": "", "act_dcf": "", "cllr": "bit"}


def write_results(
    out: Path,
    options: VerifyOptions,
    trials: Trials,
    scores: np.ndarray,
    found: dict[str, Any],
    curve: DetectionCurve,
    selection: Selection,
    said: dict[str, str],
    *,
    llr: bool,
) -> None:
    """Write scores, plots and results. said: what the rows say beside the options."""
    from audiossl.diagnostics.results import add_result
    from audiossl.verification.protocol import keep_selection
    from audiossl.verification.scores import write_scores

    write_scores(out / "scores", trials, scores)
    keep_selection(selection, out)
    _draw(out, options, trials, scores, curve, llr=llr)
    context = {name: found[name] for name in ("num_target", "num_nontarget")}
    settings = {name: _plain(value) for name in _SETTINGS if (value := getattr(options, name)) not in {None, False, ()}}
    for name in (name for name in _UNITS if name in found):
        interval = {key: found[key] for key in (f"{name}_interval",) if key in found}
        title = f"{'EER' if name == 'eer' else name} {options.trials.stem}"
        way = {"convention": options.eer} if name == "eer" else {key: getattr(options, key) for key in _COSTS}
        add_result(
            out, title, found[name], _UNITS[name],
            same=(*_SETTINGS, *way), seed=options.seed if interval else None,
            **interval, **way, **context, **settings, **said,
        )  # fmt: skip


def spoken(found: dict[str, Any], options: VerifyOptions) -> str:
    """Lay the measures out for the terminal."""

    def line(name: str, shown: str, unit: str = "") -> str:
        ends = found.get(f"{name}_interval")
        interval = f"  (95 %: {ends[0]:.4g} to {ends[1]:.4g})" if ends else ""
        return f"{name:<10}{shown}{unit}{interval}"

    trials = f"{found['num_target']} target and {found['num_nontarget']} non-target trials"
    units = {
        name: "" if name == "cllr" else f"  at p_target {options.p_target:g}" for name in ("min_dcf", "act_dcf", "cllr")
    }
    lines = [line(name, f"{found[name]:.4f}", unit) for name, unit in units.items() if name in found]
    return "\n".join([f"trials    {trials}", line("eer", f"{found['eer']:.3f}", " %"), *lines])


def _plain(value: Any) -> Any:
    """Return a setting as JSON holds it, as it is read again."""
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _draw(
    out: Path, options: VerifyOptions, trials: Trials, scores: np.ndarray, curve: DetectionCurve, *, llr: bool
) -> None:
    """Write det.png and histogram.png; the latter shows the Bayes threshold where the scores are meant for one."""
    from audiossl.diagnostics.figures import render
    from audiossl.verification.figures import draw_det, draw_histogram

    costs = options.c_fa / options.c_miss * (1 - options.p_target) / options.p_target
    threshold = math.log(costs) if llr else None
    curves = {options.trials.stem: curve}
    pictures = {
        "det.png": render(lambda figure: draw_det(figure, curves, convention=options.eer), size=(5.0, 5.0)),
        "histogram.png": render(lambda figure: draw_histogram(figure, scores, trials.labels, threshold=threshold)),
    }
    for name, picture in pictures.items():
        with whole_file(out / name) as partial:
            partial.write_bytes(picture.light)
