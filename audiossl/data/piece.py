"""An utterance, or a crop of one, as a frozen encoder and the labels of its task see it."""

from __future__ import annotations

from dataclasses import dataclass

from audiossl.contracts import Utterance


@dataclass
class Piece(Utterance):
    """`seconds` of an utterance from `start` on; all of it where nothing was cropped, and then `start` is 0.

    waveform: of the piece; without samples where its frames are known already. Labels therefore look at `start` and `duration`.
    """

    start: float = 0.0
    seconds: float = 0.0

    @property
    def duration(self) -> float:
        """Seconds of the piece."""
        return self.seconds
