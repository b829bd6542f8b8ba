"""Score speaker verification trials: EER, minDCF, normalisation, PLDA, calibration."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from audiossl.cli._printed import answer, say
from audiossl.cli.main import MisuseError

if TYPE_CHECKING:
    import numpy as np

    from audiossl.verification._vectors import BackEnd
    from audiossl.verification.calibration import Calibration
    from audiossl.verification.embeddings import Embeddings
    from audiossl.verification.protocol import Selection
    from audiossl.verification.system import System
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
        plda_rescale: scale embeddings to the length sqrt(dim) a second time, in the basis of the PLDA model, as WeSpeaker does.
        enrol_map: `model utterance utterance ...` per line: where a trial's enrolment is a model, its embedding is the mean of theirs.
        subtract_mean: embeddings whose mean is subtracted before the cosine, such as the training data's.
        cohort: embeddings to normalise scores against.
        norm: s (all of the cohort) or as (each utterance's best).
        top: cohort scores per utterance for `--norm as` (default: 300).
        speaker_means: the cohort are speakers, each the mean of its utterances by utt2spk.
        plain_means: do not bring these means back to unit length.
        crop_mean: of crops, average the embeddings divided by their lengths (unit: the mean cosine over pairs of crops) or as they are (raw: the cosine of mean embeddings); default: unit.
        calibrate: development score file and trial list to fit a calibration on.
        calibrate_embeddings: embeddings of the development trials, for `--quality norm` and `cohort` (default: those of --embeddings).
        calibrate_utt2dur: durations of the development utterances (default: those of --utt2dur).
        calibration: calibration.json of an earlier run, to apply.
        quality: what calibration may know of an utterance: duration, norm (length of its embedding), cohort (its mean score).
        utt2dur: durations of the utterances, for `--quality duration`.
        select_on_test: score trials, or others of their utterances, on which the checkpoint was selected or the calibration fitted; results.json says so.
        bootstrap: resamples for 95 % intervals; 0: none.
        utt2spk: speakers of the trials' utterances: intervals then resample speakers instead of trials.
        seed: of the resamples, 0 if not given; a given one names the run in results.json in any case.
        eer: convention for the equal error rate.
        p_target: prior of a target trial, for the costs and for calibration.
        c_miss: cost of a miss.
        c_fa: cost of a false alarm.
        out: folder for scores, det.png, histogram.png, results.json and what was trained (default: one beside the embeddings or scores, named by the trial list and settings).
        overwrite: replace scores of other trials or settings that `out` holds.
        json: print the measures as JSON.
    """

    trials: Path
    embeddings: Path | None = None
    scores: Path | None = None
    llr: bool = False
    plda: Path | None = None
    plda_rescale: bool = False
    enrol_map: Path | None = None
    subtract_mean: Path | None = None
    cohort: Path | None = None
    norm: Literal["s", "as"] | None = None
    top: int | None = None
    speaker_means: bool = False
    plain_means: bool = False
    crop_mean: Literal["unit", "raw"] | None = None
    calibrate: tuple[Path, Path] | None = None
    calibrate_embeddings: Path | None = None
    calibrate_utt2dur: Path | None = None
    calibration: Path | None = None
    quality: tuple[Literal["duration", "norm", "cohort"], ...] = ()
    utt2dur: Path | None = None
    select_on_test: bool = False
    bootstrap: int = 0
    utt2spk: Path | None = None
    seed: int | None = None
    eer: Literal["interpolated", "max", "mean", "convex_hull"] = "interpolated"
    p_target: float = 0.01
    c_miss: float = 1.0
    c_fa: float = 1.0
    out: Path | None = None
    overwrite: bool = False
    json: bool = False


def main(options: Annotated[VerifyOptions, tyro.conf.arg(name="")]) -> int:
    """Score speaker verification trials: cosine or PLDA, score normalisation, calibration, and what the scores are worth.

    Prints the equal error rate in percent, the minimum detection cost, normalised and raw, the trials on the wrong side of the equal-error
    threshold, and d'; for log-likelihood ratios (PLDA, calibrated, or --llr) the actual cost and Cllr too.

    Example: audiossl verify --trials vox1_O.txt --embeddings exp/dino/vox1 --cohort exp/dino/vox2 --norm as --speaker-means --out exp/dino/vox1_O
    """
    import numpy as np

    from audiossl.cli._verify_results import default_place, require_place, require_same_system, spoken, write_results
    from audiossl.verification.embeddings import read_speakers
    from audiossl.verification.measure import MeasureConfig, measure
    from audiossl.verification.protocol import judge_selection
    from audiossl.verification.trials import read_models

    _check(options)
    if options.norm == "as" and options.top is None:
        options = replace(options, top=_TOP)
    require_same_system(options)
    settings = options.eer, options.p_target, options.c_miss, options.c_fa
    llr = options.llr or bool(options.calibrate or options.calibration) or bool(options.plda and not options.norm)
    config = MeasureConfig(*settings, llr=llr, bootstrap=options.bootstrap)
    models = None if options.enrol_map is None else read_models(options.enrol_map)
    trials = _trials(options.trials, models)
    dev = None if options.calibrate is None else _trials(options.calibrate[1], models)
    selection = _selection(options)
    chosen = judge_selection(selection, trials, allowed=options.select_on_test)
    speakers = None
    if options.utt2spk is not None:
        speaker, _ = read_speakers(options.utt2spk, trials.names)
        speakers = speaker[trials.enrol], speaker[trials.test]
    out, default = options.out or default_place(options), options.out is None
    require_place(out, options, trials, default=default)
    if not default:  # that one appears with what is in it
        out.mkdir(parents=True, exist_ok=True)
    options = replace(options, out=out)
    scores, fitted = _scores(options, trials, dev)
    if itself := int(trials.own.sum()):
        mean = ", or with a mean that it is part of" if trials.models else ""
        say(f"{trials.path}: {itself} trials compare an utterance with itself{mean}; they count like all others")
    generator = np.random.default_rng(options.seed or 0)
    found, curve = measure(scores, trials.labels, config, generator=generator, speakers=speakers)
    if fitted is not None and found["cllr"] > 1:
        used = options.calibrate[0] if options.calibrate else options.calibration
        say(
            f"{used}: calibrated with it, these scores are worse than knowing nothing (cllr {found['cllr']:.4g}, above 1); "
            "fit it on scores that were made like these"
        )
    said = {"selection": chosen} | ({} if fitted is None else {"calibrated_on": fitted}) | _say_own(options, trials)
    write_results(out, options, trials, scores, found, curve, selection, said, llr=llr)
    if default:
        say(f"{out}: holds scores, det.png, histogram.png and results.json; --out puts them elsewhere")
    answer(found, spoken(found, options), json=options.json)
    return 0


def _trials(path: Path, models: dict[str, list[str]] | None) -> Trials:
    from audiossl.verification.trials import read_trials

    trials = read_trials(path, models)
    trials.require_both_classes()  # before the long work
    return trials


def _selection(options: VerifyOptions) -> Selection:
    from audiossl.verification.protocol import kept_selection

    place = options.embeddings or options.scores
    assert place is not None
    return kept_selection(place if place.is_dir() else place.parent)


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
        ("llr", "scores"), ("plda", "embeddings"), ("plda_rescale", "plda"), ("enrol_map", "embeddings"), ("subtract_mean", "embeddings"), ("cohort", "embeddings"),
        ("cohort", "norm"), ("norm", "cohort"), ("top", "norm"), ("speaker_means", "cohort"),
        ("plain_means", "speaker_means"), ("crop_mean", "embeddings"), ("quality", "embeddings"), ("utt2spk", "bootstrap"),
        ("calibrate_embeddings", "calibrate"), ("calibrate_utt2dur", "calibrate"), ("calibrate_utt2dur", "utt2dur"),
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
    if options.crop_mean and options.plda:
        raise MisuseError("audiossl verify: --crop-mean is for cosines; PLDA is trained on raw means of crops")
    if options.calibrate_embeddings and not {"norm", "cohort"} & set(options.quality):
        raise MisuseError("audiossl verify: --calibrate-embeddings goes with --quality norm or cohort; add it")
    if options.quality and not given & {"calibrate", "calibration"}:
        raise MisuseError("audiossl verify: --quality is for calibration; add --calibrate or --calibration")
    if "cohort" in options.quality and options.cohort is None:
        raise MisuseError("audiossl verify: --quality cohort needs --cohort and --norm")
    if ("duration" in options.quality) != (options.utt2dur is not None):
        raise MisuseError("audiossl verify: --quality duration and --utt2dur go together")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _scores(options: VerifyOptions, trials: Trials, dev: Trials | None) -> tuple[np.ndarray, str | None]:
    """(trial,) final scores, and the trials that a calibration of them was fitted on. dev: those of --calibrate."""
    from audiossl.verification.scores import read_scores, scores_of

    system, statistics = None, None
    if options.scores is not None:
        scores = scores_of(trials, read_scores(options.scores))
    else:
        system = _system(options, trials)
        _say_members(system, trials)
        scores, statistics = system.score(trials)
    if not (options.calibrate or options.calibration):
        return scores, None
    fitted = _fitted_on(options, trials)
    names, features = _features(options, system, trials, scores, statistics)
    calibration = _calibration(options, system, dev)
    if calibration.features != tuple(names):
        raise ValueError(
            f"{options.calibration}: is for {', '.join(calibration.features)}, not for {', '.join(names)}; "
            "give the same --quality"
        )
    return calibration.apply(features), fitted


def _fitted_on(options: VerifyOptions, trials: Trials) -> str:
    """Say what trials the calibration is fitted on; ValueError where they are the scored ones and that is not allowed."""
    from audiossl.verification.protocol import UNKNOWN, judge_list

    used, name = None, UNKNOWN
    if options.calibrate is not None:
        used, name = options.calibrate[1], str(options.calibrate[1])
    elif options.calibration is not None and (kept := options.calibration.with_suffix(".trials")).is_file():
        used, name = kept, str(kept)
    return judge_list(used, name, trials, what="the calibration was fitted", allowed=options.select_on_test)


def _system(options: VerifyOptions, trials: Trials) -> System:
    from audiossl.verification.embeddings import Embeddings
    from audiossl.verification.system import Cohort, System

    assert options.embeddings is not None
    embeddings = Embeddings.open(options.embeddings)
    if options.enrol_map is not None:
        embeddings = embeddings.with_models(trials.models, options.enrol_map)
    if options.crop_mean is not None and embeddings.matrix.ndim == 2:
        raise ValueError(f"{embeddings.path}: holds no crops; leave out --crop-mean, or `audiossl embed --crops` again")
    cohort = None
    if options.cohort is not None:
        members = _alike(embeddings, Embeddings.open(options.cohort))
        cohort = Cohort(members, options.top, options.speaker_means, not options.plain_means)
    return System(embeddings, _back_end(options, embeddings), cohort)


def _say_members(system: System, trials: Trials) -> None:
    """Say how many of the trials' utterances are their own cohort."""
    if system.cohort is None:
        return
    members = system.cohort.embeddings
    if own := int((members.find(trials.utterances) >= 0).sum()):
        say(
            f"{members.path}: the cohort holds {own} of the {len(trials.utterances)} utterances of {trials.path}; each is compared with itself too, "
            "so that normalised scores flatter: give a cohort of other utterances"
        )


def _say_own(options: VerifyOptions, trials: Trials) -> dict[str, int | str]:
    """Say how many of the trials' utterances trained the PLDA or gave the mean; return what the rows say of it: PLDA's number."""
    from audiossl.cli._verify_results import trained_on
    from audiossl.verification.embeddings import Embeddings

    if options.subtract_mean is not None:
        _say_shared(Embeddings.open(options.subtract_mean), trials, "the mean is that of")
    if options.plda is None:
        return {}
    source = trained_on(options.plda)
    own = None if source is None else _say_shared(Embeddings.open(source), trials, "PLDA was trained on")
    return {"plda_trial_utterances": "unknown" if own is None else own}


def _say_shared(others: Embeddings, trials: Trials, what: str) -> int:
    """Count the trials' utterances that are also in `others`, which `what` came from; say it where there are any."""
    own = int((others.find(trials.utterances) >= 0).sum())
    if own:
        say(
            f"{others.path}: {what} {own} of the {len(trials.utterances)} utterances of {trials.path}, so that scores flatter: "
            "give embeddings of other utterances"
        )
    return own


def _back_end(options: VerifyOptions, embeddings: Embeddings) -> BackEnd:
    from audiossl.verification.cosine import Cosine
    from audiossl.verification.embeddings import Embeddings
    from audiossl.verification.plda import checked_plda, load_plda, save_plda, train_plda

    if options.plda is None:
        mean = None
        if options.subtract_mean is not None:
            mean = _alike(embeddings, Embeddings.open(options.subtract_mean)).mean()
        return Cosine(mean, options.crop_mean or "unit")
    if options.plda.suffix == ".safetensors":
        return replace(checked_plda(load_plda(options.plda), embeddings), rescale=options.plda_rescale)

    def log(iteration: int, likelihood: float) -> None:
        say(f"PLDA iteration {iteration}: log-likelihood {likelihood:.4f} per utterance")

    model = train_plda(_alike(embeddings, Embeddings.open(options.plda)), log=log)
    save_plda(_folder(options) / "plda.safetensors", model)
    return replace(model, rescale=options.plda_rescale)


def _folder(options: VerifyOptions) -> Path:
    assert options.out is not None
    options.out.mkdir(parents=True, exist_ok=True)
    return options.out


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
    names, values = system.quality(trials, options.quality, utt2dur=options.utt2dur, statistics=statistics)
    return [SCORE, *names], np.column_stack([scores, values])


def _calibration(options: VerifyOptions, system: System | None, dev: Trials | None) -> Calibration:
    """Load or fit the calibration; a fitted one is kept in the output folder, with its trials."""
    from audiossl.verification.calibration import fit_calibration, load_calibration, save_calibration
    from audiossl.verification.embeddings import Embeddings
    from audiossl.verification.protocol import keep_list
    from audiossl.verification.scores import read_scores, scores_of

    if options.calibration is not None:
        return load_calibration(options.calibration)
    assert options.calibrate is not None
    assert dev is not None
    scores = scores_of(dev, read_scores(options.calibrate[0]))
    statistics = None
    if system is not None and options.calibrate_embeddings is not None:
        system = replace(system, embeddings=_alike(system.embeddings, Embeddings.open(options.calibrate_embeddings)))
    if system is not None and "cohort" in options.quality:
        _say_members(system, dev)
        _, statistics = system.score(dev)
    durations = replace(options, utt2dur=options.calibrate_utt2dur or options.utt2dur)
    names, features = _features(durations, system, dev, scores, statistics)
    calibration = fit_calibration(features, dev.labels, names=names, prior=options.p_target)
    save_calibration(_folder(options) / "calibration.json", calibration)
    keep_list(dev.path, _folder(options) / "calibration.trials")
    return calibration
