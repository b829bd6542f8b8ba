"""Label a data directory with the units of a codebook."""

from __future__ import annotations

from bisect import bisect_left
from contextlib import ExitStack
from typing import TYPE_CHECKING

import numpy as np

from audiossl.units.features import default_device
from audiossl.units.guards import LabelGuard
from audiossl.units.labels import LabelWriter, UnitsCard, card_path, labels_path, set_names, write_card
from audiossl.units.residual import ResidualQuantiser
from audiossl.units.stream import stream_frames

if TYPE_CHECKING:
    from collections.abc import Callable

    from audiossl.data.manifest import Manifest
    from audiossl.units.codebook import Codebook
    from audiossl.units.features import Features
    from audiossl.units.stream import StreamConfig


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
    batch, and bytes per utterance. ValueError (see `units.guards`), and no file, where the labels are no use.
    """
    codebook.check_features(features)
    names, size, rate = set_names(name, codebook.card.codebooks), codebook.card.size, codebook.card.rate
    paths = [labels_path(manifest.path, each) for each in names]
    quantise = ResidualQuantiser(codebook.stages, "cpu" if features.in_workers else default_device())
    guards = [LabelGuard(str(path), rate=rate, size=size, feature=codebook.card.feature, log=log) for path in paths]
    with ExitStack() as stack:
        writers = [stack.enter_context(LabelWriter(path, size)) for path in paths]
        for batch in stream_frames(manifest, features, stream, label=f"labelling {manifest.path}", log=log):
            numbers = [bisect_left(manifest.ids, utterance) for utterance in batch.ids]
            for labels, guard, writer in zip(quantise(batch.frames).numpy(), guards, writers, strict=True):
                guard.add(batch.ids, labels, batch.lengths, manifest.durations[numbers])
                flat, ends = labels.tolist(), np.cumsum(batch.lengths).tolist()
                for number, utterance, begin, end in zip(numbers, batch.ids, [0, *ends], ends, strict=False):
                    writer.add(number, utterance, flat[begin:end])
        for guard in guards:
            guard.finish()
        # From here to the new cards the tables count as unfinished: a kill between them leads to a new run, not to a table
        # with another table's card.
        for each in names:
            card_path(manifest.path, each).unlink(missing_ok=True)
    guard = guards[0]
    card = UnitsCard(
        feature=codebook.card.feature,
        encoder=codebook.card.encoder,
        layer=codebook.card.layer,
        encoder_hash=codebook.card.encoder_hash,
        rate=rate,
        codebook_hash=codebook.hash,
        codebook_size=size,
        utterances=guard.utterances,
        labels=int(guard.counts.sum()),
        left_out=len(manifest) - guard.utterances,
    )
    for each in names:
        write_card(manifest.path, each, card)
    return card
