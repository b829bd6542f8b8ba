"""Units for encoders that read them in the place of recordings: whether they are there, and the right ones; or how they are made."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from audiossl.config import build
from audiossl.data.kaldi import UNITS
from audiossl.interop.encoder import RANDOM, open_source, require_base
from audiossl.units import codebook as codebooks
from audiossl.units.features import make_features
from audiossl.units.guards import check_units
from audiossl.units.labels import has_labels, labels_path, read_card
from audiossl.units.recipe import UnitsConfig
from audiossl.units.residual import ResidualQuantiser
from audiossl.units.stream import stream_frames

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from audiossl.contracts import UnitsInput
    from audiossl.data.manifest import Manifest
    from audiossl.data.whole import FileList
    from audiossl.units.codebook import Codebook
    from audiossl.units.stream import StreamConfig


@dataclass(frozen=True)
class Origin:
    """The codebook that an experiment holds of the units that it reads. name: of `audiossl units apply`; stage: which of several residual codebooks."""

    folder: Path
    name: str
    stage: int

    def load(self) -> Codebook:
        """Read it."""
        return codebooks.load(self.folder)


def origin(source: str, reads: UnitsInput) -> Origin | None:
    """Return the codebook behind the units that an experiment was pretrained on; None where it does not hold it, or has random weights.

    A fine-tuned experiment has that of the one that it started from.
    """
    if source.startswith(RANDOM):
        return None
    checkpoint, tables = open_source(source)
    if "task" in tables:
        init = tables["run"]["init"]
        require_base(checkpoint.parent.parent, init)
        return origin(init.removeprefix(RANDOM), reads)
    folder, name = checkpoint.parent.parent / "units", reads.column.removeprefix(f"{UNITS}/")
    if "units" not in tables or not codebooks.exists(folder):
        return None
    config = build(UnitsConfig, tables["units"], f"{source}: units")
    return Origin(folder, config.name, config.names.index(name)) if name in config.names else None


def check_readable(manifest: Manifest, reads: UnitsInput | None, source: str, *, log: Callable[[str], None]) -> None:
    """ValueError where a data directory lacks the units that `source` reads, or has others than it was trained on; nothing for one that reads recordings."""
    if reads is None:
        return
    name, found = reads.column.removeprefix(f"{UNITS}/"), origin(source, reads)
    path, known = labels_path(manifest.path, name), (found.folder, found.name) if found else ("CODEBOOK", name)
    cure = f"run `audiossl units apply --data {manifest.path} --codebook {known[0]} --name {known[1]}`"
    if not has_labels(manifest.path, name):
        raise ValueError(f"{path}: not there, but {source} reads these units instead of recordings; {cure}")
    card = read_card(manifest.path, name)
    if found is not None and card.codebook_hash != found.load().hash:
        raise ValueError(f"{path}: made by another codebook than those that {source} was trained on; {cure}")
    if card.rate != reads.rate or card.codebook_size > reads.num_codes:
        raise ValueError(
            f"{path}: {card.codebook_size} codes at {card.rate:g} Hz, but {source} reads at most {reads.num_codes} at {reads.rate} Hz; {cure}"
        )
    check_units(manifest, name, log=log)


def with_units(
    files: FileList, reads: UnitsInput, source: str, config: StreamConfig, *, device: str, log: Callable[[str], None]
) -> FileList:
    """Label loose recordings as the data was that `source` was trained on; those that cannot be used are named through `log` and left out.

    device: where an encoder runs whose frames are clustered. ValueError where the experiment does not hold the codebook.
    """
    found = origin(source, reads)
    if found is None:
        raise ValueError(
            f"{files.ids[0]}: {source} reads {reads.column}, and does not hold the codebook that makes them; put recordings into a data directory and "
            f"run `audiossl units apply --name {reads.column.removeprefix(f'{UNITS}/')}`"
        )
    codebook = found.load()
    card = codebook.card
    features = make_features(card.feature, card.encoder, card.layer, device=device, full_scale=card.full_scale)
    codebook.check_features(features)
    quantise = ResidualQuantiser(codebook.stages, features.device)
    labels: dict[str, str] = {}
    for batch in stream_frames(files, features, config, label="labelling recordings", log=log):
        flat = quantise(batch.frames)[found.stage].tolist()
        ends = np.cumsum(batch.lengths).tolist()
        for utterance, begin, end in zip(batch.ids, [0, *ends], ends, strict=False):
            labels[utterance] = " ".join(map(str, flat[begin:end]))
    usable = [(path, labels[name]) for path, name in zip(files.files, files.ids, strict=True) if name in labels]
    return replace(files, files=tuple(path for path, _ in usable), columns={reads.column: [text for _, text in usable]})
