"""Discover units: fit a k-means codebook, label data with it or with the codes of another program, and measure what the labels are worth."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from audiossl.cli._device import chosen_device
from audiossl.cli._printed import answer, log
from audiossl.files import require_folder

if TYPE_CHECKING:
    from audiossl.units.labels import UnitsCard
    from audiossl.units.quality import CodeUse, PhoneMatch


def fit(
    data: Path,
    out: Path,
    feature: Literal["mfcc", "logmel", "chroma", "encoder", "codes"] | None = None,
    encoder: str = "",
    layer: int = 0,
    clusters: int = 100,
    fraction: float | None = None,
    max_frames: int | None = None,
    iterations: int = 30,
    redo: int = 1,
    seed: int = 0,
    codebooks: int = 1,
    batch_seconds: float = 100.0,
    num_workers: int = 2,
    max_bad_fraction: float = 0.01,
    device: str = "auto",
    overwrite: bool = False,
    allow_commands: bool = False,
    json: bool = False,
) -> None:
    """Fit a codebook to a data directory by k-means.

    Example: audiossl units fit --data data/train --out exp/mfcc_km100 --clusters 100
    Example: audiossl units fit --data data/train --out exp/l6_km500 --encoder exp/hubert --layer 6 --clusters 500
    Example: audiossl units fit --data data/train --out exp/rvq --feature logmel --clusters 256 --codebooks 8
    Example: audiossl units fit --data data/train --out exp/vq --feature codes --encoder exp/vq_wav2vec --clusters 13500

    Args:
        data: data directory to draw frames from.
        out: folder for codebook.safetensors and codebook.json.
        feature: mfcc (the default); logmel or chroma, of music at 24 kHz; encoder, which --encoder implies; or codes, of an encoder that quantises: no k-means, the codes that occur are counted.
        encoder: experiment folder, checkpoint, `s3prl:NAME` or `FILE.py:CLASS` whose layer is clustered, or whose codes are counted.
        layer: its block, counted from 1, whose output is clustered; 0 is the input of the first.
        clusters: number of units; of codes, at most so many, the most frequent.
        fraction: share of the utterances to draw frames from; unset, all up to 100 hours and 10 % or 100 hours above.
        max_frames: frames kept in memory; unset, as many as fill 512 MiB.
        iterations: Lloyd steps of each start.
        redo: starts of k-means; the best is kept.
        seed: of the choice of utterances and frames and of the k-means++ seeds.
        codebooks: with more than one, each clusters what those before it leave over, and `apply` writes NAME_0, NAME_1 ...
        batch_seconds: seconds of audio read at a time.
        num_workers: processes that read audio.
        max_bad_fraction: share of the recordings that may be unusable; they are named and left out.
        device: where the encoder runs: auto, cpu, cuda or cuda:N.
        overwrite: replace a codebook that is already in `out`.
        allow_commands: run the programs that wav.scp names.
        json: print what was fitted as JSON.
    """
    from audiossl.data.manifest import Manifest
    from audiossl.units.codebook import exists, save
    from audiossl.units.features import make_features
    from audiossl.units.fit import FitConfig, fit_codebook
    from audiossl.units.stream import StreamConfig

    require_folder(out)
    if exists(out) and not overwrite:
        raise ValueError(f"{out}: holds a codebook already; give another --out, or --overwrite")
    if encoder and not layer and feature != "codes":
        log("warning: --layer is 0: the input of the encoder's first block is clustered")
    config = FitConfig(clusters, fraction, max_frames, iterations, redo, seed, codebooks)
    manifest = Manifest.open(data, allow_commands=allow_commands)
    chosen = chosen_device(device)
    kind: Any = feature or ("encoder" if encoder else "mfcc")
    features = make_features(kind, encoder, layer, device=chosen, own_code=True)
    codebook = fit_codebook(
        manifest, features, config, StreamConfig(batch_seconds, num_workers, max_bad_fraction), log=log
    )
    save(codebook, out)
    card = codebook.card
    codes = f"{card.codebooks} x {card.size}" if card.codebooks > 1 else f"{card.size}"
    said = f"{out}: {codes} codes of {card.dim} numbers, {card.frames} frames, inertia {card.inertia:.6g}"
    answer({"codebook": str(out), **asdict(card), "hash": codebook.hash}, said, json=json)


def apply(
    data: tuple[Path, ...],
    codebook: Path,
    name: str,
    encoder: str = "",
    batch_seconds: float = 100.0,
    num_workers: int = 2,
    max_bad_fraction: float = 0.01,
    device: str = "auto",
    overwrite: bool = False,
    allow_commands: bool = False,
    json: bool = False,
) -> None:
    """Label data directories with a codebook: DATA/units/NAME and DATA/units/NAME.json.

    Labels of the same codebook are made again, those of another one are not replaced unless told so.

    Example: audiossl units apply --data data/train data/dev --codebook exp/mfcc_km100 --name mfcc_km100

    Args:
        data: data directories.
        codebook: folder written by `audiossl units fit`.
        name: of the labels; of several codebooks, NAME_0 and so on.
        encoder: the codebook's, where it lies elsewhere now, or is code of your own, which is run only where it is named here.
        batch_seconds: seconds of audio read at a time.
        num_workers: processes that read audio.
        max_bad_fraction: share of the recordings that may be unusable; they are named and left out.
        device: where the encoder runs: auto, cpu, cuda or cuda:N.
        overwrite: replace labels NAME of another codebook.
        allow_commands: run the programs that wav.scp names.
        json: print what was written as JSON.
    """
    from audiossl.data.manifest import Manifest
    from audiossl.units import codebook as codebooks
    from audiossl.units.apply import apply_codebook, labelling
    from audiossl.units.features import make_features
    from audiossl.units.labels import set_names
    from audiossl.units.stream import StreamConfig

    book = codebooks.load(codebook)
    manifests = [Manifest.open(folder, allow_commands=allow_commands) for folder in data]
    names, rows = set_names(name, book.card.codebooks), []
    stream = StreamConfig(batch_seconds, num_workers, max_bad_fraction)
    with labelling(data, log):
        if not overwrite:
            for folder in data:
                _refuse_others(folder, names, book.hash)
        of, chosen = book.card, chosen_device(device)
        where, given = encoder or of.encoder, bool(encoder)
        features = make_features(of.feature, where, of.layer, device=chosen, full_scale=of.full_scale, own_code=given)
        for manifest in manifests:
            card = apply_codebook(manifest, book, features, name, stream, log=log)
            rows += _written(manifest.path, names, card, quiet=json)
    answer({"written": rows}, json=json)


def import_(
    data: tuple[Path, ...],
    codes: Path,
    name: str,
    rate: float,
    clusters: int,
    codec: str = "",
    max_bad_fraction: float = 0.01,
    overwrite: bool = False,
    allow_commands: bool = False,
    json: bool = False,
) -> None:
    """Make labels of codes that another program made: DATA/units/NAME, or NAME_0, NAME_1 ... of several codebooks, and their cards.

    The codes are plain arrays of whole numbers, (frame,) or (codebook, frame), by utterance; nothing is unpickled.

    Example: audiossl units import --data data/train data/dev --codes codes.npz --rate 75 --clusters 1024 --name rvq --codec encodec_24khz

    Args:
        data: data directories.
        codes: a .npz whose arrays are named like utterances, or a folder of UTTERANCE.npy; arrays of other utterances are not looked at.
        name: of the labels; of several codebooks, NAME_0 and so on.
        rate: codes per second.
        clusters: size of each codebook.
        codec: what made the codes, by which labels of two are told apart; unset, NAME.
        max_bad_fraction: share of the utterances that may lack codes; they are named and left out.
        overwrite: replace labels NAME of another codebook.
        allow_commands: run the programs that wav.scp names.
        json: print what was written as JSON.
    """
    from audiossl.data.manifest import Manifest
    from audiossl.units.apply import labelling
    from audiossl.units.import_codes import CodesFile, CodesFormat, import_codes
    from audiossl.units.labels import set_names

    manifests, form, source = (
        [Manifest.open(folder, allow_commands=allow_commands) for folder in data],
        CodesFormat(rate, clusters, codec or name),
        CodesFile(codes),
    )
    form = replace(form, books=source.books(manifests, rate))
    names, rows = set_names(name, form.books), []
    with labelling(data, log):
        if not overwrite:
            for folder in data:
                _refuse_others(folder, names, form.hash)
        for manifest in manifests:
            card = import_codes(manifest, source, name, form, max_bad_fraction=max_bad_fraction, log=log)
            rows += _written(manifest.path, names, card, quiet=json)
    answer({"written": rows}, json=json)


def _written(data: Path, names: list[str], card: UnitsCard, *, quiet: bool) -> list[dict[str, Any]]:
    """Say what label sets were written, unless `quiet`; the same as rows for JSON."""
    from audiossl.units.labels import labels_path

    rows = [{"units": str(labels_path(data, name)), **asdict(card)} for name in names]
    for row in () if quiet else rows:
        print(
            f"{row['units']}: {card.utterances} utterances, {card.labels} labels at {card.rate:g} Hz, {card.left_out} left out"
        )
    return rows


def _refuse_others(data: Path, names: list[str], codebook_hash: str) -> None:
    """Raise ValueError where `data` holds labels of these names that another codebook made."""
    from audiossl.units.labels import card_path, has_labels, labels_path, read_card

    for name in names:
        if not has_labels(data, name):
            continue
        try:
            found = read_card(data, name).codebook_hash
        except ValueError:
            raise ValueError(
                f"{card_path(data, name)}: does not say which codebook made these labels; choose another --name, or --overwrite"
            ) from None
        if found != codebook_hash:
            raise ValueError(
                f"{labels_path(data, name)}: labels of another codebook ({found[:12]}, not {codebook_hash[:12]}); "
                "choose another --name, or --overwrite"
            )


def quality(data: Path, name: str, out: Path | None = None, label: str = "", json: bool = False) -> None:
    """Measure units: use of the codes, and purity and PNMI against DATA/phones.ctm where there is one.

    Example: audiossl units quality --data data/dev --name mfcc_km100 --json

    Args:
        data: data directory with units/NAME.
        name: of the labels.
        out: experiment whose results.json the numbers are added to, for `audiossl report`.
        label: added to their names there, as in `PNMI layer 6`.
        json: print JSON instead of a table.
    """
    from audiossl.data.kaldi import PHONES_CTM
    from audiossl.data.manifest import Manifest
    from audiossl.units.guards import check_units
    from audiossl.units.quality import measure

    if label and out is None:
        raise ValueError(f"--label {label}: names results that are kept; add --out EXPERIMENT")
    check_units(Manifest.open(data), name, log=log)
    use, match = measure(data, name)
    if match is None:
        log(f"{data / PHONES_CTM}: no such file; only the use of the codes is measured")
    row = {"data": str(data), "name": name, "use": asdict(use), "phones": asdict(match) if match else None}
    answer(row, _spoken(name, use, match), json=json)
    if out is not None:
        _keep(out, use, match, label=label, units=name, data=str(data))


def _keep(out: Path, use: CodeUse, match: PhoneMatch | None, *, label: str, units: str, data: str) -> None:
    """Put the numbers into an experiment's results, in the place of those of the same units on the same data."""
    from audiossl.diagnostics.results import add_result

    numbers = {"code perplexity": use.perplexity}
    if match:
        numbers |= {
            "PNMI": match.pnmi,
            "phone purity": match.phone_purity,
            "cluster purity": match.cluster_purity,
        }
    for name, value in numbers.items():
        add_result(out, f"{name} {label}".strip(), value, "", same=("units", "data"), units=units, data=data)


def _spoken(name: str, use: CodeUse, match: PhoneMatch | None) -> str:
    rows = [
        ("utterances", f"{use.utterances}"),
        ("labels", f"{use.labels}"),
        ("active codes", f"{use.active_codes} of {use.codebook_size}"),
        ("code entropy", f"{use.entropy:.3f} bits"),
        ("code perplexity", f"{use.perplexity:.1f}"),
    ]
    if match:
        rows += [
            ("phones", f"{match.phones}, over {match.frames} labels of {match.utterances} utterances"),
            ("phone purity", f"{match.phone_purity:.4f}"),
            ("cluster purity", f"{match.cluster_purity:.4f}"),
            ("PNMI", f"{match.pnmi:.4f}"),
        ]
    return "\n".join([f"units {name}", *(f"  {label:<16} {value}" for label, value in rows)])


SUBVERBS = {"fit": fit, "apply": apply, "import": import_, "quality": quality}
