"""Short-time objective intelligibility."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from audiossl.metrics._waveforms import checked_pair

if TYPE_CHECKING:
    import numpy as np

_SHORTEST = 0.39  # seconds, in which there are no 30 frames; pystoi fails without a single one


def stoi(estimate: np.ndarray, reference: np.ndarray, sample_rate: int) -> float:
    """Intelligibility in percent (Taal et al., 2011), by the package `pystoi`, not its extended form.

    estimate, reference: (sample,). ValueError without the package, where fewer than 30 frames of the reference are loud enough, and as in `checked_pair`.
    """
    try:
        from pystoi import stoi as measured
    except ImportError:
        raise ValueError("STOI needs the package pystoi; pip install 'audiossl[enh]'") from None
    checked_pair("STOI", estimate, reference)
    short = ValueError(f"STOI: a reference of {len(reference)} samples has less than 0.4 s of speech; leave it out")
    if len(reference) < _SHORTEST * sample_rate:
        raise short
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Not enough STFT frames", category=RuntimeWarning)
        try:
            return 100.0 * float(measured(reference, estimate, sample_rate))
        except RuntimeWarning:
            raise short from None
