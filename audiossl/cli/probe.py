"""Ask with a linear probe what an encoder's features know."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from audiossl.cli._device import chosen_device
from audiossl.cli._printed import answer, log
from audiossl.cli.main import MisuseError
from audiossl.files import require_folder

if TYPE_CHECKING:
    from audiossl.data.manifest import Manifest
    from audiossl.diagnostics.linear_probe import ProbeConfig, Split
    from audiossl.diagnostics.pooled_cache import CacheConfig, PooledFeatures
    from audiossl.diagnostics.sources import FeatureSource


def main(
    source: Annotated[str, tyro.conf.Positional],
    *,
    train: Path,
    out: Path,
    task: str | None = None,
    column: str | None = None,
    dev: Path | None = None,
    test: Path | None = None,
    split: str | None = None,
    fractions: tuple[float, ...] = (),
    cache: Path | None = None,
    seed: int = 0,
    num_workers: int = 2,
    max_bad_fraction: float = 0.01,
    allow_commands: bool = False,
    device: str = "auto",
    json: bool = False,
    overrides: dict[str, Any] | None = None,
) -> int:
    """Ask with a linear probe what an encoder's features know; `--probe.key value` changes how it is trained.

    One pass of the frozen encoder, then all learning rates and seeds at once; learning rate and step are chosen on dev.

    Example: audiossl probe exp/hubert --task keyword --train data/keywords_train --dev data/keywords_dev --test data/keywords_test --out exp/hubert/probe

    Args:
        source: experiment, checkpoint, `s3prl:NAME`, `FILE.py:CLASS`, `fbank`, `fbank+deltas`, `fbank+deltas+cmvn`, `mfcc`, or `random:` and an experiment or recipe for random weights.
        train: data directory to train on; with --split, the one that is split.
        out: folder to write probe.json and results.json into.
        task: one with a label per utterance, such as emotion, keyword or speaker.
        column: file with the labels, if not the task's own; any utt2X.
        dev: data directory to choose on.
        test: data directory to report.
        split: shares of train, dev and test, such as 0.7/0.1/0.2: split --train by utterance, alike in every class.
        fractions: of the training labels of each class, such as 0.01 0.1, to train on as well as on all.
        cache: folder for pooled features, to share them between probes (default: OUT/pooled).
        seed: of random weights, --split and --fractions.
        num_workers: processes that read audio.
        max_bad_fraction: share of the utterances of a directory that may be unusable; these are named and left out.
        allow_commands: run the programs that wav.scp names.
        device: auto, cpu, cuda or cuda:N.
        json: print the result as JSON.
    """
    from audiossl.data.manifest import Manifest
    from audiossl.diagnostics.linear_probe import train_probe
    from audiossl.diagnostics.pooled_cache import CacheConfig
    from audiossl.diagnostics.probing import by_fraction, of_fraction, record, write_probe
    from audiossl.diagnostics.results import add_result
    from audiossl.diagnostics.sources import open_features
    from audiossl.units.reading import check_readable

    require_folder(out)
    column, config = _settings(task, column, overrides or {})
    places = _places(train, dev, test, split)
    budgets = _budgets(fractions)
    manifests = [Manifest.open(place, allow_commands=allow_commands) for place in places]
    chosen = chosen_device(device)
    features = open_features(source, seed=seed, device=chosen, train=manifests[0])
    for manifest in manifests:
        check_readable(manifest, features.reads, source, log=log)
    reading = CacheConfig(num_workers=num_workers, max_bad_fraction=max_bad_fraction)
    splits, classes, forwards = _splits(features, manifests, column, split, seed, cache or out / "pooled", reading)
    selection = f"dev accuracy on {f'{train}, split {split} with seed {seed}' if split else dev}"
    records = {}
    for fraction in budgets:
        parts = [of_fraction(splits[0], manifests[0].ids, fraction, seed=seed), *splits[1:]]
        result = train_probe(*parts, num_classes=len(classes), config=config, device=chosen)
        records[fraction] = record(
            result, parts, classes,
            source=source, source_digest=features.digest, task=task, column=column, seed=seed,
            data={"train": str(train), "dev": str(dev or train), "test": str(test or train), "split": split},
            selection=selection, projector_dim=config.projector_dim, forwards=forwards,
        )  # fmt: skip
    content = records[1.0] | ({"fractions": by_fraction(records)} if len(records) > 1 else {})
    write_probe(out / "probe.json", content)
    for fraction, row in records.items():
        name = f"probe {column.removeprefix('utt2')} accuracy"
        add_result(
            out, name if fraction == 1 else f"{name}, {100 * fraction:g} % of labels", row["accuracy"], "%",
            seed=seed, source=source, learning_rate=row["learning_rate"], std=row["accuracy_std"], selection=selection,
        )  # fmt: skip
    answer(content, _spoken(content), json=json)
    return 0


def _is_probed(task_class: Any) -> bool:
    """Whether a task has one label per utterance: it says how to begin, and has a single column."""
    return hasattr(task_class, "probe") and hasattr(task_class.Config, "column")


def _settings(task: str | None, column: str | None, overrides: dict[str, Any]) -> tuple[str, ProbeConfig]:
    """Return the column and how the probe is trained: the task's defaults under the command line's."""
    from audiossl import registry
    from audiossl.config import build, merge
    from audiossl.diagnostics.linear_probe import ProbeConfig

    strange = next((name for name in overrides if name != "probe"), None)
    if strange is not None:
        raise MisuseError(f"--{strange}: unknown table; {registry.suggestion(strange, ['probe'])}")
    if task is None and column is None:
        raise MisuseError("audiossl probe: neither --task nor --column is given; add --task keyword, or --column utt2X")
    defaults: dict[str, Any] = {}
    if task is not None:
        cls = registry.get("tasks", task)
        if not _is_probed(cls):
            known = [name for name in registry.names("tasks") if _is_probed(registry.get("tasks", name))]
            raise ValueError(
                f"--task {task}: has no label per utterance to probe; use {', '.join(known)}, or --column utt2X"
            )
        defaults, column = cls.probe, column or cls.Config().column
    assert column is not None
    return column, build(ProbeConfig, merge(defaults, overrides.get("probe", {})), "probe")


def _places(train: Path, dev: Path | None, test: Path | None, split: str | None) -> list[Path]:
    if split is None:
        if dev is None or test is None:
            raise MisuseError("audiossl probe: --dev and --test are needed; or split --train with --split 0.7/0.1/0.2")
        return [train, dev, test]
    if dev is not None or test is not None:
        raise MisuseError("audiossl probe: --split makes dev and test out of --train; leave out --dev and --test")
    return [train]


def _budgets(fractions: tuple[float, ...]) -> list[float]:
    """Return the fractions of the labels to train on, rising to 1."""
    odd = next((fraction for fraction in fractions if not 0 < fraction <= 1), None)
    if odd is not None:
        raise MisuseError(f"audiossl probe: --fractions {odd:g}: is not in (0, 1]; 0.02 is 2 %")
    return sorted({*fractions, 1.0})


def _splits(
    source: FeatureSource,
    manifests: list[Manifest],
    column: str,
    split: str | None,
    seed: int,
    cache: Path,
    reading: CacheConfig,
) -> tuple[list[Split], tuple[str, ...], int]:
    """Return the three splits, their classes, and how many utterances went through the encoder."""
    from audiossl.diagnostics.pooled_cache import pooled_features, unread_features
    from audiossl.diagnostics.probing import Labelled, parse_shares, read_labels, split_one, splits_of

    shares = parse_shares(split) if split is not None else None
    labels = [read_labels(manifest, column) for manifest in manifests]

    def divide(pooled: list[PooledFeatures]) -> tuple[list[Split], tuple[str, ...]]:
        parts = [Labelled(*part) for part in zip(manifests, pooled, labels, strict=True)]
        if shares is not None:
            return split_one(parts[0], shares, seed=seed, column=column)
        train, dev, test = parts
        return splits_of(train, dev, test, column)

    divide([unread_features(manifest) for manifest in manifests])  # before the long pass: labels may be at fault
    pooled = [pooled_features(manifest, source, cache, config=reading, log=log) for manifest in manifests]
    return *divide(pooled), sum(part.forwards for part in pooled)


def _spoken(content: dict[str, Any]) -> str:
    weights = " ".join(f"{weight:.3f}" for weight in content["layer_weights"])
    steps = ", ".join(str(seed["step"]) for seed in content["seeds"])
    seeds, tested, classes = len(content["seeds"]), content["utterances"]["test"], len(content["classes"])
    score = f"{content['accuracy']:.2f} % +- {content['accuracy_std']:.2f} over {seeds} seeds"
    lines = {
        f"{content['column']} accuracy": f"{score} ({tested} utterances, {classes} classes)",
        "commonest class": f"{content['majority']:.2f} %",
        "learning rate": f"{content['learning_rate']:g} at step {steps}, by {content['selection']}",
        "parameters": content["parameters"],
        "layer weights": weights,
        "upstream forwards": content["forwards"],
    }
    for part in content.get("fractions", [])[:-1]:
        shown = f"{part['accuracy']:.2f} % +- {part['accuracy_std']:.2f} ({part['utterances']['train']} utterances)"
        lines[f"{100 * part['fraction']:g} % of labels"] = f"{shown}, learning rate {part['learning_rate']:g}"
    return "\n".join(f"{name:<22}{value}" for name, value in lines.items())
