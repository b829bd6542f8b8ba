"""Look into what an encoder learned, layer by layer, on one page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from audiossl.cli._device import chosen_device
from audiossl.cli._printed import answer, log, say
from audiossl.cli.main import MisuseError
from audiossl.files import require_folder

if TYPE_CHECKING:
    from audiossl.data.manifest import Manifest
    from audiossl.diagnostics.finding import Finding, SkippedError
    from audiossl.diagnostics.linear_probe import ProbeConfig
    from audiossl.diagnostics.sources import FeatureSource
    from audiossl.diagnostics.views import ViewConfig

_SHARED = ("probe", "views")


def main(
    source: Annotated[str, tyro.conf.Positional],
    *,
    data: Path,
    out: Path,
    only: tuple[str, ...] = (),
    against: str | None = None,
    train: Path | None = None,
    columns: tuple[str, ...] = (),
    layer: int | None = None,
    split: str = "0.7/0.1/0.2",
    max_utterances: int = 2000,
    cache: Path | None = None,
    seed: int = 0,
    num_workers: int = 2,
    max_bad_fraction: float = 0.01,
    allow_commands: bool = False,
    device: str = "auto",
    json: bool = False,
    overrides: dict[str, Any] | None = None,
) -> int:
    """Look into what an encoder learned, layer by layer, on one page: probes, clusters, effective rank, alignment, ABX and more.

    One pass of the frozen encoder serves most analyses; what the data lack is skipped and named. `--ANALYSIS.key value`, `--probe.key value` and
    `--views.key value` change how things are done.

    Example: audiossl diagnose exp/hubert --data data/test --out exp/hubert/diagnosis --only clustering spectrum

    Args:
        source: experiment, checkpoint, `s3prl:NAME`, `FILE.py:CLASS`, `fbank`, `fbank+deltas`, `fbank+deltas+cmvn`, `mfcc`, or `random:` and an experiment or recipe for random weights.
        data: data directory to look at, best one that the encoder was not trained on.
        out: folder for diagnosis.html and results.json.
        only: analyses to run (default: all): abx, alignment, clustering, memorisation, probes, risk, scatter, separability, spectrum.
        against: for memorisation: a checkpoint of the same recipe that was trained without these data.
        train: for the risk decomposition: labelled data that the encoder was trained on; a `random:RECIPE` is calibrated on them.
        columns: files with labels (default: every utt2X whose values repeat).
        layer: the one that is shown where there is room for one, and whose memorisation is scored (default: the last).
        split: shares of train, dev and test in probes, alike in every class.
        max_utterances: most that are looked at of a data directory, drawn at random.
        cache: folder for pooled features, to share them between diagnoses (default: OUT/pooled).
        seed: of random weights and of all that is drawn.
        num_workers: processes that read audio.
        max_bad_fraction: share of the utterances of a directory that may be unusable; these are named and left out.
        allow_commands: run the programs that wav.scp names.
        device: auto, cpu, cuda or cuda:N.
        json: print the numbers as JSON.
    """
    from audiossl.diagnostics.diagnosis import PAGE, diagnose
    from audiossl.diagnostics.pooled_cache import CacheConfig
    from audiossl.diagnostics.probing import parse_shares
    from audiossl.diagnostics.subject import Subject, sample

    if max_utterances < 2:
        raise MisuseError(f"audiossl diagnose: --max-utterances {max_utterances}: give at least 2")
    require_folder(out)
    names = [source, *([against] if against else [])]
    configs, probe, view = _settings(only, overrides or {}, _given(names, against, train))
    whole, other = _manifests(data, train, columns, allow_commands=allow_commands)
    chosen = chosen_device(device)
    opened = _open(names, whole, other, seed, chosen)
    reading = CacheConfig(num_workers=num_workers, max_bad_fraction=max_bad_fraction)
    subject = Subject(
        opened[source], sample(whole, max_utterances, seed), out, cache or out / "pooled", reading, log,
        columns=columns, shares=parse_shares(split), probe=probe, view=view, against=opened[against] if against else None,
        train=None if other is None else sample(other, max_utterances, seed), layer=layer, seed=seed, device=chosen,
    )  # fmt: skip
    found = diagnose(
        subject, configs,
        source=source, source_digest=subject.source.digest, data=str(data), utterances=f"{len(subject.manifest)} of {len(whole)}",
        against=against, train=None if train is None else str(train),
    )  # fmt: skip
    answer(_listed(found), _spoken(found), json=json)
    log(f"wrote {out / PAGE}")
    _raise_failed(found)
    return 0


def _given(names: list[str], against: str | None, train: Path | None) -> list[str]:
    """Options that only some analyses take, of those that were given; `--train` also calibrates random weights of a recipe."""
    from audiossl.diagnostics.sources import is_random_recipe

    for_analyses = {"against": against, "train": None if any(map(is_random_recipe, names)) else train}
    return [option for option, value in for_analyses.items() if value]


def _settings(
    only: tuple[str, ...], overrides: dict[str, Any], options: list[str]
) -> tuple[dict[str, Any], ProbeConfig, ViewConfig]:
    """Return the analyses that are to run with their configurations, how probes are trained and how views are made.

    MisuseError for an option that only analyses take which `only` leaves out.
    """
    from audiossl.config import build
    from audiossl.diagnostics.diagnosis import configured, takers
    from audiossl.diagnostics.linear_probe import ProbeConfig
    from audiossl.diagnostics.views import ViewConfig

    tables = {name: table for name, table in overrides.items() if name not in _SHARED}
    configs = configured(only, tables)
    given = {**dict.fromkeys(overrides, ".*"), **dict.fromkeys(options, "")}
    for name, keys in given.items():
        needed = takers(name)
        if not configs.keys() & set(needed):
            raise MisuseError(
                f"audiossl diagnose: --{name}{keys}: for {' and '.join(needed)}, which --only leaves out; leave the option out too, or add one to --only"
            )
    probe, view = (overrides.get(name, {}) for name in _SHARED)
    return configs, build(ProbeConfig, probe, "probe"), build(ViewConfig, view, "views")


def _manifests(
    data: Path, train: Path | None, columns: tuple[str, ...], *, allow_commands: bool
) -> tuple[Manifest, Manifest | None]:
    from audiossl.data.manifest import Manifest

    whole = Manifest.open(data, allow_commands=allow_commands)
    for column in columns:
        whole.column(column)  # before the long pass: it may not be there
    return whole, None if train is None else Manifest.open(train, allow_commands=allow_commands)


def _open(
    names: list[str], whole: Manifest, other: Manifest | None, seed: int, device: str
) -> dict[str, FeatureSource]:
    """Return the sources by name; ValueError for one that cannot read the data."""
    from audiossl.diagnostics.sources import open_features
    from audiossl.units.reading import check_readable

    calibration = whole if other is None else other
    opened = {name: open_features(name, seed=seed, device=device, train=calibration) for name in names}
    for name, features in opened.items():
        for manifest in (whole, *([] if other is None else [other])):
            check_readable(manifest, features.reads, name, log=log)
    return opened


def _raise_failed(found: dict[str, Finding | SkippedError | ValueError]) -> None:
    """Raise the first fault of an analysis, having said the others."""
    failed = {str(finding): finding for finding in found.values() if isinstance(finding, ValueError)}
    for line in list(failed)[1:]:
        say(line)
    for finding in failed.values():
        raise finding


def _listed(found: dict[str, Finding | SkippedError | ValueError]) -> dict[str, Any]:
    from audiossl.diagnostics.finding import Finding

    return {
        name: {
            "numbers": [
                {"name": number.name, "value": number.value, "unit": number.unit, "layer": number.layer, **number.more}
                for number in finding.numbers
            ],
            "notes": finding.notes,
        }
        if isinstance(finding, Finding)
        else {_unfound(finding): str(finding)}
        for name, finding in found.items()
    }


def _unfound(reason: SkippedError | ValueError) -> str:
    return "failed" if isinstance(reason, ValueError) else "skipped"


def _spoken(found: dict[str, Finding | SkippedError | ValueError]) -> str:
    """One line per measure, with its values from layer to layer."""
    from audiossl.diagnostics.finding import Finding

    lines = []
    for name, finding in found.items():
        if not isinstance(finding, Finding):
            lines.append(f"{name}: {_unfound(finding)}: {finding}")
            continue
        lines.append(f"{name}:")
        width = 2 + max((len(number.measure) for number in finding.numbers), default=0)
        for (measure, unit), values in finding.by_measure().items():
            lines.append(f"  {measure:<{width}}{' '.join(f'{value:.3g}' for value in values.values())} {unit}".rstrip())
        single = [number for number in finding.numbers if number.layer is None]
        lines += [f"  {number.measure:<{width}}{number.value:.3g} {number.unit}".rstrip() for number in single]
    return "\n".join(lines)
