"""In what the batches of several tasks differ from those of the published recipes; for `variant`."""

from __future__ import annotations

CUT_BATCHES = "batches end at superb.batch_seconds of padded audio, where the published code halves those that begin with more than 300,000 samples"
"""Of PR, SF and OOD-ASR."""
BY_TEXT = "neighbours in duration share a batch, where the published code takes neighbours in length of the text"
"""Of PR and SF."""
BY_CHANCE = "neighbours in duration share a batch, where the published code draws them at random"
"""Of SD, SE, SS, VC and ASV."""
