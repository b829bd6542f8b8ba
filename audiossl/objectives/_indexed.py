"""What objectives that remember utterances share: the place of an utterance in their memory, beside its crops."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np

    from audiossl.contracts import Batch, Utterance
    from audiossl.objectives._speaker import CropViews


@dataclass(frozen=True)
class IndexedViews:
    """Crops, and the utterance's place in memory. ids: of the training data, in C order."""

    crops: CropViews
    ids: Sequence[str]

    def views(self, utterance: Utterance, rng: np.random.Generator) -> Mapping[str, Any]:
        """waveform: (sample,). index: the place, -1 for an utterance of other data."""
        place = bisect_left(self.ids, utterance.id)
        known = place < len(self.ids) and self.ids[place] == utterance.id
        return {**self.crops.views(utterance, rng), "index": place if known else -1}

    def batch_views(self, batch: Batch, rng: np.random.Generator) -> Batch:
        """Change nothing."""
        return self.crops.batch_views(batch, rng)
