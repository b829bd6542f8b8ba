"""Perceptual evaluation of speech quality."""

from __future__ import annotations

import numpy as np

from audiossl.metrics._waveforms import checked_pair

_LOWEST = 1.0


def pesq(estimate: np.ndarray, reference: np.ndarray, sample_rate: int) -> float:
    """Wide-band PESQ, a mean opinion score from 1 to 4.64 (ITU-T P.862.2), by the package `pesq`.

    An estimate that is silent, or in which P.862 finds no speech though it does in the reference, has 1.0 (our choice: the standard has no answer).
    estimate, reference: (sample,). ValueError without the package, at another rate than 16 kHz, and for a reference that P.862 cannot use, and as in `checked_pair`.
    """
    try:
        from pesq import NoUtterancesError, PesqError
        from pesq import pesq as measured
    except ImportError:
        raise ValueError("PESQ needs the package pesq; pip install 'audiossl[enh]'") from None
    if sample_rate != 16_000:
        raise ValueError(f"PESQ is wide-band at 16000 Hz, not {sample_rate}; give recordings at that rate")
    checked_pair("PESQ", estimate, reference)
    try:
        if np.any(estimate):
            return float(measured(sample_rate, reference, estimate, "wb"))
    except NoUtterancesError:
        pass
    except PesqError as error:
        raise ValueError(f"PESQ cannot judge {len(reference)} samples ({_said(error)}); leave them out") from None
    try:
        measured(sample_rate, reference, reference, "wb")  # whose fault it is
    except PesqError as error:
        raise ValueError(
            f"PESQ cannot use a reference of {len(reference)} samples ({_said(error)}); leave it out"
        ) from None
    return _LOWEST


def _said(error: Exception) -> str:
    words = error.args[0]
    return words.decode() if isinstance(words, bytes) else str(words)
