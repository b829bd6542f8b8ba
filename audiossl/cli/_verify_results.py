"""What `audiossl verify` leaves and prints: scores, plots, rows of results.json, lines for the terminal."""

from __future__ import annotations

import hashlib
import json
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audiossl.files import require_folder, whole_file

if TYPE_CHECKING:
    import numpy as np

    from audiossl.cli.verify import VerifyOptions
    from audiossl.metrics._detection import DetectionCurve
    from audiossl.verification.protocol import Selection
    from audiossl.verification.trials import Trials

# What the scores depend on: a row of results.json says it, and replaces the row that said the same.
_SETTINGS = (
    "trials", "embeddings", "scores", "plda", "plda_rescale", "enrol_map", "subtract_mean", "cohort", "norm", "top", "speaker_means", "plain_means",
    "crop_mean", "calibrate", "calibration", "calibrate_embeddings", "calibrate_utt2dur", "quality", "utt2dur",
)  # fmt: skip
# Of these, how trials become scores, whatever utterances they are of; what is absent has its default.
_SYSTEM = {
    "plda": None, "plda_rescale": False, "subtract_mean": None, "cohort": None, "norm": None, "top": None, "speaker_means": False, "plain_means": False,
    "crop_mean": "unit", "calibrated": False,
}  # fmt: skip
_COSTS = ("p_target", "c_miss", "c_fa")
_UNITS = {
    "eer": "%", "min_dcf": "", "min_dcf_raw": "", "act_dcf": "", "cllr": "bit", "score_overlap": "%", "d_prime": ""
}  # fmt: skip
_WAYS = {
    "eer": ("convention",),
    "score_overlap": (),
    "d_prime": (),
}  # what they depend on beside scores; others on the costs
_DIGITS = {"eer": 3, "score_overlap": 3, "min_dcf_raw": 6}
_SCORES = "scores"
_UNKNOWN = "unknown"  # what a PLDA model was trained on that no results.json tells
_REPLACED = (_SCORES, "det.png", "histogram.png", "selection.json")


def default_place(options: VerifyOptions) -> Path:
    """Return the folder of a run without --out: one for each trial list and settings, in the folder that holds what is scored.

    ValueError where nothing can be written there.
    """
    scored = options.embeddings or options.scores
    assert scored is not None
    folder = scored if scored.is_dir() else scored.parent
    if folder.is_dir() and not os.access(folder, os.W_OK):
        raise ValueError(f"{folder}: cannot be written; give --out")
    # By absolute names: the same ones below other folders are other files.
    files = {str(path): str(path.resolve()) for path in _read(options)}
    said = json.dumps([_settings(options), files], sort_keys=True)
    return folder / f"verify_{options.trials.stem}_{hashlib.sha256(said.encode()).hexdigest()[:8]}"


def require_place(out: Path, options: VerifyOptions, trials: Trials, *, default: bool) -> None:
    """Raise ValueError where `write_results` would replace what this run reads or, unless told so, scores of other trials or settings.

    The last rows of results.json say what the scores are of: they are written just before these. default: `out` is that of `default_place`, so that these
    are those of the same command, perhaps before its trial list changed.
    """
    from audiossl.diagnostics.results import FILE_NAME
    from audiossl.verification.protocol import kept_lists

    require_folder(out)
    trained = ("plda.safetensors",) if options.plda and options.plda.suffix != ".safetensors" else ()
    fitted = ("calibration.json", "calibration.trials") if options.calibrate else ()
    written = (out / name for name in (*_REPLACED, *trained, *fitted))
    replaced = {path.resolve() for path in (*written, *kept_lists(out))}
    for path in _read(options):
        if path.resolve() in replaced:
            raise ValueError(f"{path}: is read by this run, which would replace it; choose another --out")
    if options.overwrite or not (out / _SCORES).exists():
        return
    before = _last_said(out, "trials")
    counts = {"num_target": int(trials.labels.sum()), "num_nontarget": int((~trials.labels).sum())}
    now: dict[str, Any] = dict.fromkeys(_SETTINGS) | _settings(options) | counts
    if before is None:
        fault = f"exists already, and no {FILE_NAME} says of what"
    elif not default and (other := next((name for name in now if before.get(name) != now[name]), None)):
        fault = f"is of other trials or settings ({other} {before.get(other)}, not {now[other]})"
    else:
        return
    raise ValueError(f"{out / _SCORES}: {fault}; choose another --out, or --overwrite")


def require_same_system(options: VerifyOptions) -> None:
    """Raise ValueError where what the calibration is fitted on was scored otherwise than what it is applied to, by the results.json beside either."""
    if options.calibrate is not None:
        path, fitted = options.calibrate[0], _said_of(options.calibrate[0])
    elif options.calibration is not None:
        path, fitted = options.calibration, _said_of(options.calibration, "calibration.json", "calibrate")
    else:
        return
    now = _settings(options) | {"calibrated": False} if options.scores is None else _said_of(options.scores)
    if fitted is None or now is None:
        return
    # Of scores that were not of embeddings no more is known than whether they were calibrated.
    known = _SYSTEM if "embeddings" in fitted and "embeddings" in now else ("calibrated",)
    differing = [name for name in known if _differ(_compared(fitted, name), _compared(now, name))]
    if differing:
        one, other = (
            ", ".join(f"{name} {said.get(name, _SYSTEM[name])}" for name in differing) for said in (fitted, now)
        )
        raise ValueError(
            f"{path}: by the results.json beside it from scores with {one}, and this run's are with {other}; score both alike"
        )


def _said_of(path: Path, name: str = _SCORES, key: str = "trials") -> dict[str, Any] | None:
    """Return what results.json says of a file that `verify` wrote beside it as `name`, and whether scores were `calibrated`.

    Those that a calibration was fitted on were not, though its row says how they were.
    """
    said = _last_said(path.parent, key) if path.name == name else None
    return said and said | {"calibrated": name == _SCORES and bool({"calibrate", "calibration"} & said.keys())}


def _last_said(folder: Path, key: str) -> dict[str, Any] | None:
    """Return the last row of results.json that says `key`."""
    from audiossl.diagnostics.results import FILE_NAME, read_results

    rows = read_results(folder) if (folder / FILE_NAME).is_file() else []
    return next((row.more for row in reversed(rows) if key in row.more), None)


def _differ(one: Any, other: Any) -> bool:
    """Whether two settings do; of a folder that is gone or was named from elsewhere, and of a copied model, nobody knows."""
    if one is not None and other is not None and _UNKNOWN in (one, other):
        return False
    if isinstance(one, Path) and isinstance(other, Path) and not (one.exists() and other.exists()):
        return False
    return bool(one != other)


def _compared(said: dict[str, Any], name: str) -> Any:
    """A setting as two runs can be compared by it: a folder by where it is, a saved PLDA model by what it was trained on."""
    value = said.get(name, _SYSTEM[name])
    if value is None or name not in {"plda", "subtract_mean", "cohort"}:
        return value
    if name == "subtract_mean":
        return True  # each list may have a mean of its own
    from audiossl.verification.embeddings import MATRIX

    path = _trained_on(Path(value))
    if path is None:
        return _UNKNOWN
    return (path.parent if path.name == MATRIX else path).resolve()


def trained_on(plda: Path) -> Path | None:
    """Return the embeddings that PLDA is trained on, of a saved model those that the results.json beside it tells; None where nobody knows."""
    source = _trained_on(plda)
    return source if source == plda or (source and source.exists() and source.suffix != ".safetensors") else None


def _trained_on(path: Path) -> Path | None:
    if path.suffix != ".safetensors":
        return path
    trained = _last_said(path.parent, "plda") if path.name == "plda.safetensors" else None
    return Path(trained["plda"]) if trained else None


def write_results(
    out: Path,
    options: VerifyOptions,
    trials: Trials,
    scores: np.ndarray,
    found: dict[str, Any],
    curve: DetectionCurve,
    selection: Selection,
    said: dict[str, Any],
    *,
    llr: bool,
) -> None:
    """Write scores, plots and results; the scores appear last, so that the results say what they are whenever a run is killed.

    said: what the rows say beside the options.
    """
    from audiossl.verification.protocol import keep_selection
    from audiossl.verification.scores import write_scores

    out.mkdir(parents=True, exist_ok=True)
    with whole_file(out / _SCORES) as partial:
        write_scores(partial, trials, scores)
        keep_selection(selection, out)
        _draw(out, options, trials, scores, curve, llr=llr)
        _add_rows(out, options, found, said)


def _add_rows(out: Path, options: VerifyOptions, found: dict[str, Any], said: dict[str, Any]) -> None:
    from audiossl.diagnostics.results import add_result

    context = {name: found[name] for name in ("num_target", "num_nontarget")} | _settings(options) | said
    seed = 0 if options.seed is None and options.bootstrap else options.seed
    for name in (name for name in _UNITS if name in found):
        interval = {key: found[key] for key in (f"{name}_interval",) if key in found}
        title = f"{'EER' if name == 'eer' else name} {options.trials.stem}"
        way = {key: options.eer if key == "convention" else getattr(options, key) for key in _WAYS.get(name, _COSTS)}
        same = *_SETTINGS, "p_target", *way
        add_result(out, title, found[name], _UNITS[name], same=same, seed=seed, **interval, **(context | way))


def _settings(options: VerifyOptions) -> dict[str, Any]:
    """Return what the scores depend on, as a row says it: the options that are given, and the prior where it is that of a fit."""
    names = (*_SETTINGS, "p_target") if options.calibrate else _SETTINGS
    return {name: _plain(value) for name in names if (value := getattr(options, name)) not in {None, False, ()}}


def _read(options: VerifyOptions) -> list[Path]:
    """Files and folders that a run reads."""
    values = (getattr(options, name) for name in (*_SETTINGS, "utt2spk"))
    places = (place for value in values for place in (value if isinstance(value, tuple) else (value,)))
    return [place for place in places if isinstance(place, Path)]


def spoken(found: dict[str, Any], options: VerifyOptions) -> str:
    """Lay the measures out for the terminal."""

    def line(name: str) -> str:
        unit = f" {_UNITS[name]}" if _UNITS[name] else ""
        prior = f"  at p_target {options.p_target:g}" if "dcf" in name else ""
        ends = found.get(f"{name}_interval")
        interval = f"  (95 %: {ends[0]:.4g} to {ends[1]:.4g})" if ends else ""
        return f"{name:<14}{found[name]:.{_DIGITS.get(name, 4)}f}{unit}{prior}{interval}"

    trials = f"{found['num_target']} target and {found['num_nontarget']} non-target trials"
    return "\n".join([f"{'trials':<14}{trials}", *(line(name) for name in _UNITS if name in found)])


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
