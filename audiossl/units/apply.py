"""Label a data directory with the units of a codebook."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

import numpy as np

from audiossl.units.features import default_device
from audiossl.units.guards import LabelGuard
from audiossl.units.kmeans import NearestCentroid
from audiossl.units.labels import LabelWriter, UnitsCard, card_path, labels_path, write_card
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

    Memory: one batch, and bytes per utterance. ValueError (see `units.guards`), and no file, where the labels are no use.
    """
    codebook.check_features(features)
    path, size, rate = labels_path(manifest.path, name), codebook.card.size, codebook.card.rate
    nearest = NearestCentroid(codebook.centroids, "cpu" if features.in_workers else default_device())
    guard = LabelGuard(str(path), rate=rate, size=size, log=log)
    with LabelWriter(path, size) as writer:
        for batch in stream_frames(manifest, features, stream, label=f"labelling {manifest.path}", log=log):
            labels = nearest(batch.frames).numpy()
            numbers = [bisect_left(manifest.ids, utterance) for utterance in batch.ids]
            guard.add(batch.ids, labels, batch.lengths, manifest.durations[numbers])
            flat, ends = labels.tolist(), np.cumsum(batch.lengths).tolist()
            for number, utterance, begin, end in zip(numbers, batch.ids, [0, *ends], ends, strict=False):
                writer.add(number, utterance, flat[begin:end])
        guard.finish()
        # From here to the new card the table counts as unfinished: a kill between them leads to a new run, not to a table
        # with another table's card.
        card_path(manifest.path, name).unlink(missing_ok=True)
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
    write_card(manifest.path, name, card)
    return card
