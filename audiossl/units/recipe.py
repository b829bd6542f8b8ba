"""The `[units]` table of a recipe: make sure that all data directories hold labels of one codebook."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING

from audiossl.units import codebook as codebooks
from audiossl.units.apply import apply_codebook
from audiossl.units.features import PUBLISHED_SCALE, FeatureKind, Features, make_features
from audiossl.units.fit import FitConfig, fit_codebook
from audiossl.units.guards import check_units
from audiossl.units.labels import IMPORTED, has_labels, labels_path, read_card, require_place, set_names
from audiossl.units.stream import StreamConfig

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from audiossl.data.manifest import Manifest
    from audiossl.units.codebook import Codebook, CodebookCard
    from audiossl.units.labels import UnitsCard

_CURE = "choose another units.name, and the same in objective.labels, or remove these labels"


@dataclass(frozen=True)
class UnitsConfig:
    """Which units a recipe wants; the defaults are HuBERT's first iteration (Hsu et al., 2021, section IV-B).

    name: of the labels, `units/<name>`. feature, encoder (anything `audiossl.load` takes), layer (1-based): what is
    clustered, or for `codes`, which encoder's are counted; then `max_frames`, `iterations` and `redo` must stay as they are. The rest: see `units.fit.FitConfig` and `units.stream.StreamConfig`.
    num_workers: -1 is as many as training has (`data.num_workers`).
    """

    name: str = "mfcc_km100"
    feature: FeatureKind = "mfcc"
    encoder: str = ""
    layer: int = 0
    clusters: int = 100
    fraction: float | None = None
    max_frames: int | None = None
    iterations: int = 30
    redo: int = 1
    seed: int = 0
    codebooks: int = 1
    batch_seconds: float = 100.0
    num_workers: int = -1

    @property
    def fit(self) -> FitConfig:
        """What concerns the fit."""
        return FitConfig(
            self.clusters, self.fraction, self.max_frames, self.iterations, self.redo, self.seed, self.codebooks
        )

    @property
    def names(self) -> list[str]:
        """The label sets that are made: `name`, or `name`_0 and so on where there are several codebooks."""
        return set_names(self.name, self.codebooks)

    def stream(self, max_bad_fraction: float, num_workers: int) -> StreamConfig:
        """What concerns the reading of data. num_workers: where it is -1 here."""
        workers = num_workers if self.num_workers == -1 else self.num_workers
        return StreamConfig(self.batch_seconds, workers, max_bad_fraction)


def ensure_units(
    data_dirs: list[Path],
    config: UnitsConfig,
    out: Path,
    *,
    label_rate: float | None = None,
    max_bad_fraction: float = 0.01,
    num_workers: int = 2,
    allow_commands: bool = False,
    device: str = "",
    log: Callable[[str], None],
) -> None:
    """Fit a codebook on the first directory unless `out` holds one, and label every directory that lacks its labels.

    Labels that were there before `out` had a codebook are used as they are if all directories have them and their card says what
    `config` asks for, of imported ones their number alone; else ValueError, since another experiment may rest on them. With a codebook in `out`, labels of another
    one, or of fewer utterances than the directory has now, are made again. Labels that are kept are checked (`units.guards`), and they and the
    codebook must be of the encoder that `config` names, by its weights; only where it names none are labels there of any encoder. MFCC keep the scale that
    the codebook was fitted with; labels there of another scale than the published are used with a warning.
    label_rate: Hz that the units must have, where it is known; ValueError before anything is fitted.
    max_bad_fraction: share of the recordings of a directory that may be unusable. num_workers: processes that read audio, unless `config` says. allow_commands: run the programs that `wav.scp` names.
    device: of the encoder, see `make_features`.
    """
    from audiossl.data.manifest import Manifest

    manifests = [Manifest.open(folder, allow_commands=allow_commands) for folder in data_dirs]
    stream = config.stream(max_bad_fraction, num_workers)
    # An encoder is loaded once, and only when it is looked at.
    make = partial(make_features, config.feature, config.encoder, config.layer, device=device)
    features = cache(make)
    if not codebooks.exists(out) and _are_there(manifests, config, features, log):
        return
    if codebooks.exists(out):
        codebook = codebooks.load(out)
        features = cache(partial(make, full_scale=codebook.card.full_scale))
        _check_config(codebook, config, features, out)
    else:
        for folder in data_dirs:
            require_place(folder)
        _check_rate(features(), config, label_rate)
        codebook = fit_codebook(manifests[0], features(), config.fit, stream, log=log)
        codebooks.save(codebook, out)
        log(f"codebook: {out}, {codebook.card.size} codes, inertia {codebook.card.inertia:.4g}")
    for manifest in manifests:
        reasons = [(name, _why_label(manifest, name, codebook)) for name in config.names]
        name, reason = next((pair for pair in reasons if pair[1]), ("", ""))
        if not reason:
            for each in config.names:
                check_units(manifest, each, log=log)
            continue
        log(f"{labels_path(manifest.path, name)}: {reason}")
        apply_codebook(manifest, codebook, features(), config.name, stream, log=log)


def _are_there(
    manifests: list[Manifest], config: UnitsConfig, features: Callable[[], Features], log: Callable[[str], None]
) -> bool:
    """Whether all directories hold these labels already, from elsewhere; ValueError for some only, or for other ones."""
    there = {name: _is_there(manifests, name, config, features, log) for name in config.names}
    if any(there.values()) and not all(there.values()):
        missing, found = (next(name for name in there if there[name] is which) for which in (False, True))
        raise ValueError(
            f"{labels_path(manifests[0].path, missing)}: not there, but {found} is; choose another units.name or remove that"
        )
    return all(there.values())


def _is_there(
    manifests: list[Manifest],
    label_set: str,
    config: UnitsConfig,
    features: Callable[[], Features],
    log: Callable[[str], None],
) -> bool:
    with_labels = [manifest for manifest in manifests if has_labels(manifest.path, label_set)]
    for manifest in with_labels:
        path, card = labels_path(manifest.path, label_set), read_card(manifest.path, label_set)
        asked = {"feature": config.feature, "layer": config.layer, "codebook_size": config.clusters}
        if card.feature == IMPORTED:  # by `audiossl units import --name`, in the place of what the recipe would make
            asked = {"codebook_size": config.clusters}
        for name, wanted in asked.items():
            if getattr(card, name) != wanted and not _corpus_has_no_more(config, name, getattr(card, name)):
                raise ValueError(f"{path}: {name} is {getattr(card, name)!r}, the recipe asks for {wanted!r}; {_CURE}")
        _check_encoder(card, config, features, f"{path}", _CURE)
    without = [manifest for manifest in manifests if manifest not in with_labels]
    if with_labels and without:
        raise ValueError(
            f"{labels_path(without[0].path, label_set)}: not there, but {with_labels[0].path} has these units; "
            "label it too with `audiossl units apply` and the same codebook, or choose another units.name"
        )
    for manifest in with_labels:
        check_units(manifest, label_set, log=log)
        path, card = labels_path(manifest.path, label_set), read_card(manifest.path, label_set)
        if card.feature == "mfcc" and card.full_scale != PUBLISHED_SCALE:
            log(f"warning: {path}: MFCC of another full_scale than the published 1; for that choose another units.name")
        log(f"{path}: there already, used as it is")
    return bool(with_labels)


def _check_rate(features: Features, config: UnitsConfig, label_rate: float | None) -> None:
    if label_rate not in {None, features.rate}:
        raise ValueError(
            f"objective.label_rate: {label_rate:g}, but units.feature {config.feature} {config.encoder}".rstrip()
            + f" gives {features.rate:g} Hz; give --objective.label_rate {features.rate:g}"
        )


def _why_label(manifest: Manifest, name: str, codebook: Codebook) -> str:
    """Say why the labels of a directory must be made; "" where they are those of `codebook`."""
    if not has_labels(manifest.path, name):
        return "not there, labelling"
    card = read_card(manifest.path, name)
    if card.codebook_hash != codebook.hash:
        return f"made by another codebook ({card.codebook_hash[:12]}), labelling again"
    if card.utterances + card.left_out != len(manifest):
        return f"made for {card.utterances + card.left_out} utterances, there are {len(manifest)} now, labelling again"
    return ""


def _check_config(codebook: Codebook, config: UnitsConfig, features: Callable[[], Features], out: Path) -> None:
    card = codebook.card
    asked = {
        "feature": config.feature,
        "layer": config.layer,
        "size": config.clusters,
        "seed": config.seed,
        "codebooks": config.codebooks,
    }
    for name, wanted in asked.items():
        found = getattr(card, name)
        if found != wanted and not _corpus_has_no_more(config, name, found):
            raise ValueError(
                f"{out / codebooks.CARD}: {name} is {found!r}, the recipe asks for {wanted!r}; "
                "remove the folder to fit again, or change the recipe"
            )
    _check_encoder(
        card, config, features, f"{out / codebooks.CARD}", "give that one, or remove the folder to fit again"
    )


def _check_encoder(
    card: UnitsCard | CodebookCard, config: UnitsConfig, features: Callable[[], Features], place: str, cure: str
) -> None:
    """ValueError where the recipe names an encoder with other weights or settings than that which units are made with; its path may be another."""
    if config.encoder and card.encoder_hash not in {features().encoder_hash, features().weights_hash}:
        raise ValueError(
            f"{place}: made with the encoder {card.encoder} ({card.encoder_hash[:12]}), units.encoder {config.encoder} has other weights or settings "
            f"({features().encoder_hash[:12]}); {cure}"
        )


def _corpus_has_no_more(config: UnitsConfig, name: str, found: int | str) -> bool:
    """Whether there are fewer units than asked for because these are codes, of which a corpus holds as many as it does."""
    return config.feature == "codes" and name in {"size", "codebook_size"} and int(found) < config.clusters
