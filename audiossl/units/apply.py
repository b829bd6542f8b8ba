"""Label a data directory with the units of a codebook."""

from __future__ import annotations

from bisect import bisect_left
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import numpy as np

from audiossl.config import to_table
from audiossl.data.json_files import write_json
from audiossl.files import locked, whole_set
from audiossl.units.guards import LabelGuard
from audiossl.units.labels import LabelWriter, UnitsCard, card_path, labels_path, require_place, set_names
from audiossl.units.residual import ResidualQuantiser
from audiossl.units.stream import stream_frames

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from audiossl.data.manifest import Manifest
    from audiossl.units.codebook import Codebook
    from audiossl.units.features import Features
    from audiossl.units.stream import StreamConfig


@contextmanager
def labelling(folders: Iterable[Path], log: Callable[[str], None]) -> Iterator[None]:
    """Keep other processes from labelling these data directories: two at once would leave the table of one with the card of the other."""
    with ExitStack() as held:
        for folder in sorted(
            {folder.resolve() for folder in folders}
        ):  # in one order, or two would wait for each other
            held.enter_context(locked(folder, log))
        yield


def apply_codebook(
    manifest: Manifest,
    codebook: Codebook,
    features: Features,
    name: str,
    stream: StreamConfig,
    *,
    log: Callable[[str], None],
) -> UnitsCard:
    """Write `units/<name>` and its card: for each frame the index of the nearest centroid.

    Of a codebook with several residual ones, a set each: `units/<name>_0` and so on, in one pass. Returns the card, the same for all of them. Memory: one
    batch, and bytes per utterance. Labels that were there stay until all is written. ValueError (see `units.guards`), and no file, where the labels are no use.
    """
    codebook.check_features(features)
    require_place(manifest.path)
    names = set_names(name, codebook.card.codebooks)
    paths = [labels_path(manifest.path, each) for each in names]
    cards = [card_path(manifest.path, each) for each in names]
    # A kill while they are replaced leaves tables that count as unfinished, not a table with another table's card.
    with whole_set(paths, cards) as (new_paths, new_cards):
        guard = _label(manifest, codebook, features, dict(zip(paths, new_paths, strict=True)), stream, log)
        card = UnitsCard(
            feature=codebook.card.feature,
            encoder=codebook.card.encoder,
            layer=codebook.card.layer,
            encoder_hash=codebook.card.encoder_hash,
            rate=codebook.card.rate,
            codebook_hash=codebook.hash,
            codebook_size=codebook.card.size,
            utterances=guard.utterances,
            labels=int(guard.counts.sum()),
            left_out=len(manifest) - guard.utterances,
            full_scale=codebook.card.full_scale,
        )
        for place in new_cards:
            write_json(place, to_table(card))
    return card


def _label(
    manifest: Manifest,
    codebook: Codebook,
    features: Features,
    places: dict[Path, Path],
    stream: StreamConfig,
    log: Callable[[str], None],
) -> LabelGuard:
    """Write the tables of all label sets; returns the guard of the first. places: where each of them is written for now."""
    size, rate, kind = codebook.card.size, codebook.card.rate, codebook.card.feature
    quantise = ResidualQuantiser(codebook.stages, features.device)
    guards = [LabelGuard(str(path), rate=rate, size=size, feature=kind, log=log) for path in places]
    with ExitStack() as stack:
        writers = [stack.enter_context(LabelWriter(place, size)) for place in places.values()]
        for batch in stream_frames(manifest, features, stream, label=f"labelling {manifest.path}", log=log):
            numbers = [bisect_left(manifest.ids, utterance) for utterance in batch.ids]
            for labels, guard, writer in zip(quantise(batch.frames).numpy(), guards, writers, strict=True):
                guard.add(batch.ids, labels, batch.lengths, manifest.durations[numbers])
                flat, ends = labels.tolist(), np.cumsum(batch.lengths).tolist()
                for number, utterance, begin, end in zip(numbers, batch.ids, [0, *ends], ends, strict=False):
                    writer.add(number, utterance, flat[begin:end])
        for guard in guards:
            guard.finish()
    return guards[0]
