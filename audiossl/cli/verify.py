"""Score speaker verification trials: EER, minDCF, normalisation, PLDA, calibration."""

from __future__ import annotations

import json as json_module
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from audiossl.cli.main import MisuseError

if TYPE_CHECKING:
    import numpy as np

    from audiossl.metrics._detection import DetectionCurve
    from audiossl.verification._vectors import BackEnd
    from audiossl.verification.calibration import Calibration
    from audiossl.verification.embeddings import Embeddings
    from audiossl.verification.system import Quality, System
    from audiossl.verification.trials import Trials

_TOP = 300


@dataclass(frozen=True)
class VerifyOptions:
    """What is scored and how.

    Args:
        trials: trial list, `enrol test target|nontarget` or `1|0 enrol test` per line.
        embeddings: folder with embeddings.npy and embeddings.ids, or NAME.npy with NAME.ids beside it; enrolment and test alike.
        scores: score file, `enrol test score` per line, instead of embeddings.
        llr: the scores of --scores are natural-log likelihood ratios, so that act_dcf and cllr mean something.
        plda: embeddings with utt2spk to train PLDA on, or a saved model (.safetensors); default: cosine scores.
        subtract_mean: embeddings whose mean is subtracted before the cosine, such as the training data's.
        cohort: embeddings to normalise scores against.
        norm: s (all of the cohort) or as (each utterance's best).
        top: cohort scores per utterance for `--norm as` (default: 300).
        speaker_means: the cohort are speakers, each the mean of its utterances by utt2spk.
        plain_means: do not bring these means back to unit length.
        calibrate: development score file and trial list to fit a calibration on.
        calibration: calibration.json of an earlier run, to apply.
        quality: what calibration may know of an utterance: duration, norm (length of its embedding), cohort (its mean score).
        utt2dur: durations of the utterances, for `--quality duration`.
        bootstrap: resamples for 95 % intervals; 0: none.
        utt2spk: speakers of the trials' utterances: intervals then resample speakers instead of trials.
        seed: of the resamples.
        eer: convention for the equal error rate.
        p_target: prior of a target trial, for the costs and for calibration.
        c_miss: cost of a miss.
        c_fa: cost of a false alarm.
        out: folder for scores, det.png, histogram.png, results.json and what was trained.
        json: print the measures as JSON.
    """

    trials: Path
    embeddings: Path | None = None
    scores: Path | None = None
    llr: bool = False
    plda: Path | None = None
    subtract_mean: Path | None = None
    cohort: Path | None = None
    norm: Literal["s", "as"] | None = None
    top: int | None = None
    speaker_means: bool = False
    plain_means: bool = False
    calibrate: tuple[Path, Path] | None = None
    calibration: Path | None = None
    quality: tuple[Literal["duration", "norm", "cohort"], ...] = ()
    utt2dur: Path | None = None
    bootstrap: int = 0
    utt2spk: Path | None = None
    seed: int = 0
    eer: Literal["interpolated", "max", "mean", "convex_hull"] = "interpolated"
    p_target: float = 0.01
    c_miss: float = 1.0
    c_fa: float = 1.0
    out: Path | None = None
    json: bool = False


def main(options: Annotated[VerifyOptions, tyro.conf.arg(name="")]) -> int:
    """Score speaker verification trials: cosine or PLDA, score normalisation, calibration, and what the scores are worth.

    Prints the equal error rate in percent and the normalised minimum detection cost; for log-likelihood ratios (PLDA, calibrated, or
    --llr) the actual cost and Cllr too.

    Example: audiossl verify --trials vox1_O.txt --embeddings exp/dino/vox1 --cohort exp/dino/vox2 --norm as --speaker-means --out exp/dino/vox1_O
    """
    import numpy as np

    from audiossl.verification.embeddings import read_speakers
    from audiossl.verification.measure import MeasureConfig, measure
    from audiossl.verification.trials import read_trials

    _check(options)
    settings = options.eer, options.p_target, options.c_miss, options.c_fa
    llr = options.llr or bool(options.calibrate or options.calibration) or bool(options.plda and not options.norm)
    config = MeasureConfig(*settings, llr=llr, bootstrap=options.bootstrap)
    trials = read_trials(options.trials)
    speakers = None
    if options.utt2spk is not None:
        speaker, _ = read_speakers(options.utt2spk, trials.names)
        speakers = speaker[trials.enrol], speaker[trials.test]
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
    scores = _scores(options, trials)
    generator = np.random.default_rng(options.seed)
    found, curve = measure(scores, trials.labels, config, generator=generator, speakers=speakers)
    if options.out is not None:
        _write(options.out, options, trials, scores, found, curve, llr=llr)
    print(json_module.dumps(found) if options.json else _spoken(found, options))
    return 0


def _check(options: VerifyOptions) -> None:
    """Refuse options that contradict one another, or that would do nothing."""
    given = {name for name, value in vars(options).items() if value not in (None, False, (), 0)}
    if len(given & {"embeddings", "scores"}) != 1:
        raise MisuseError("audiossl verify: give either --embeddings or --scores")
    if len(given & {"calibrate", "calibration"}) > 1 or len(given & {"plda", "subtract_mean"}) > 1:
        raise MisuseError(
            "audiossl verify: --calibrate and --calibration, --plda and --subtract-mean exclude one another"
        )
    needs = (
        ("llr", "scores"), ("plda", "embeddings"), ("subtract_mean", "embeddings"), ("cohort", "embeddings"),
        ("cohort", "norm"), ("norm", "cohort"), ("top", "norm"), ("speaker_means", "cohort"),
        ("plain_means", "speaker_means"), ("quality", "embeddings"), ("utt2spk", "bootstrap"),
    )  # fmt: skip
    for name, other in needs:
        if name in given and other not in given:
            raise MisuseError(f"audiossl verify: {_flag(name)} goes with {_flag(other)}; add it")
    if options.norm == "s" and options.top is not None:
        raise MisuseError("audiossl verify: --top is for --norm as; S-norm takes all of the cohort")
    if options.plain_means and options.plda:
        raise MisuseError(
            "audiossl verify: --plain-means is for cosines; PLDA has no unit length to bring means back to"
        )
    if options.quality and not given & {"calibrate", "calibration"}:
        raise MisuseError("audiossl verify: --quality is for calibration; add --calibrate or --calibration")
    if "cohort" in options.quality and options.cohort is None:
        raise MisuseError("audiossl verify: --quality cohort needs --cohort and --norm")
    if ("duration" in options.quality) != (options.utt2dur is not None):
        raise MisuseError("audiossl verify: --quality duration and --utt2dur go together")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _scores(options: VerifyOptions, trials: Trials) -> np.ndarray:
    """(trial,) final scores."""
    from audiossl.verification.scores import read_scores, scores_of

    system, statistics = None, None
    if options.scores is not None:
        scores = scores_of(trials, read_scores(options.scores))
    else:
        system = _system(options)
        scores, statistics = system.score(trials)
    if not (options.calibrate or options.calibration):
        return scores
    names, features = _features(options, system, trials, scores, statistics)
    calibration = _calibration(options, system)
    if calibration.features != tuple(names):
        raise ValueError(
            f"{options.calibration}: is for {', '.join(calibration.features)}, not for {', '.join(names)}; "
            "give the same --quality"
        )
    return calibration.apply(features)


def _system(options: VerifyOptions) -> System:
    from audiossl.verification.embeddings import Embeddings
    from audiossl.verification.system import Cohort, System

    assert options.embeddings is not None
    embeddings = Embeddings.open(options.embeddings)
    cohort = None
    if options.cohort is not None:
        top = None if options.norm == "s" else (_TOP if options.top is None else options.top)
        members = _alike(embeddings, Embeddings.open(options.cohort))
        cohort = Cohort(members, top, options.speaker_means, not options.plain_means)
    return System(embeddings, _back_end(options, embeddings), cohort)


def _back_end(options: VerifyOptions, embeddings: Embeddings) -> BackEnd:
    from audiossl.verification.cosine import Cosine
    from audiossl.verification.embeddings import Embeddings
    from audiossl.verification.plda import checked_plda, load_plda, save_plda, train_plda

    if options.plda is None:
        if options.subtract_mean is None:
            return Cosine()
        return Cosine(_alike(embeddings, Embeddings.open(options.subtract_mean)).mean())
    if options.plda.suffix == ".safetensors":
        return checked_plda(load_plda(options.plda), embeddings)

    def log(iteration: int, likelihood: float) -> None:
        print(f"PLDA iteration {iteration}: log-likelihood {likelihood:.4f} per utterance", file=sys.stderr)

    model = train_plda(_alike(embeddings, Embeddings.open(options.plda)), log=log)
    if options.out is not None:
        save_plda(options.out / "plda.safetensors", model)
    return model


def _alike(embeddings: Embeddings, others: Embeddings) -> Embeddings:
    if embeddings.dim != others.dim:
        raise ValueError(
            f"{others.path}: embeddings of {others.dim} numbers, those of {embeddings.path} have {embeddings.dim}; "
            "extract both with the same encoder"
        )
    return others


def _features(
    options: VerifyOptions, system: System | None, trials: Trials, scores: np.ndarray, statistics: Any
) -> tuple[list[str], np.ndarray]:
    """Names and values, (trial, feature), of what calibration is given: the score, then quality measures."""
    import numpy as np

    from audiossl.verification.calibration import SCORE

    if not options.quality:
        return [SCORE], scores[:, None]
    assert system is not None
    kinds: tuple[Quality, ...] = options.quality
    names, values = system.quality(trials, kinds, utt2dur=options.utt2dur, statistics=statistics)
    return [SCORE, *names], np.column_stack([scores, values])


def _calibration(options: VerifyOptions, system: System | None) -> Calibration:
    """Load or fit the calibration; a fitted one is kept in the output folder."""
    from audiossl.verification.calibration import fit_calibration, load_calibration, save_calibration
    from audiossl.verification.scores import read_scores, scores_of
    from audiossl.verification.trials import read_trials

    if options.calibration is not None:
        return load_calibration(options.calibration)
    assert options.calibrate is not None
    dev = read_trials(options.calibrate[1])
    scores = scores_of(dev, read_scores(options.calibrate[0]))
    statistics = None
    if system is not None and "cohort" in options.quality:
        _, statistics = system.score(dev)
    names, features = _features(options, system, dev, scores, statistics)
    calibration = fit_calibration(features, dev.labels, names=names, prior=options.p_target)
    if options.out is not None:
        save_calibration(options.out / "calibration.json", calibration)
    return calibration


def _write(
    out: Path,
    options: VerifyOptions,
    trials: Trials,
    scores: np.ndarray,
    found: dict[str, Any],
    curve: DetectionCurve,
    *,
    llr: bool,
) -> None:
    """Write scores, plots and results."""
    from audiossl.diagnostics.results import add_result
    from audiossl.verification.scores import write_scores

    write_scores(out / "scores", trials, scores)
    _draw(out, options, trials, scores, curve, llr=llr)
    context = {name: found[name] for name in ("num_target", "num_nontarget")}
    said = {
        name: str(value)
        for name in ("embeddings", "scores", "plda", "cohort", "norm")
        if (value := getattr(options, name))
    }
    for name, unit in {"eer": "%", "min_dcf": "", "act_dcf": "", "cllr": "bit"}.items():
        if name in found:
            interval = {key: found[key] for key in (f"{name}_interval",) if key in found}
            title = f"{'EER' if name == 'eer' else name} {options.trials.stem}"
            setting = {"convention": options.eer} if name == "eer" else {"p_target": options.p_target}
            add_result(
                out, title, found[name], unit,
                seed=options.seed if interval else None, **interval, **setting, **context, **said,
            )  # fmt: skip


def _draw(
    out: Path, options: VerifyOptions, trials: Trials, scores: np.ndarray, curve: DetectionCurve, *, llr: bool
) -> None:
    """Write det.png and histogram.png; the latter shows the Bayes threshold where the scores are meant for one."""
    from audiossl.diagnostics.figures import render
    from audiossl.verification.figures import draw_det, draw_histogram

    costs = options.c_fa / options.c_miss * (1 - options.p_target) / options.p_target
    threshold = math.log(costs) if llr else None
    pictures = {
        "det.png": render(lambda figure: draw_det(figure, {options.trials.stem: curve}), size=(5.0, 5.0)),
        "histogram.png": render(lambda figure: draw_histogram(figure, scores, trials.labels, threshold=threshold)),
    }
    for name, picture in pictures.items():
        partial = out / f"{name}.partial"
        partial.write_bytes(picture.light)
        partial.replace(out / name)


def _spoken(found: dict[str, Any], options: VerifyOptions) -> str:
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
