"""All settings at once against the metric called for each."""

from __future__ import annotations

import numpy as np
import pytest

from audiossl.metrics._diarization_grid import diarization_grid
from audiossl.metrics.diarization_error_rate import diarization_error_rate

THRESHOLDS, MEDIANS = (0.3, 0.4, 0.5, 0.6, 0.7), (1, 11)


def recordings(lengths, outputs, speakers, seed=0):
    rng = np.random.default_rng(seed)
    predictions, references = [], []
    for length in lengths:
        spans = rng.random((length // 9 + 1, speakers)) < 0.5
        wanted = np.repeat(spans, 9, axis=0)[:length]
        heard = np.zeros((length, outputs))
        heard[:, : min(outputs, speakers)] = wanted[:, ::-1][:, : min(outputs, speakers)]
        predictions.append((0.5 + (heard - 0.5) * rng.random((length, outputs))).astype(np.float32))
        references.append(wanted)
    return predictions, references


@pytest.mark.parametrize(("outputs", "speakers"), [(2, 2), (2, 1), (2, 3), (3, 2)])
def test_equals_the_metric_called_for_each_setting(outputs, speakers):
    predictions, references = recordings((70, 1, 33, 200, 11), outputs, speakers)
    found = diarization_grid(predictions, references, thresholds=THRESHOLDS, medians=MEDIANS)
    assert len(np.unique(found)) == found.size == 10
    for row, threshold in enumerate(THRESHOLDS):
        for column, median in enumerate(MEDIANS):
            wanted = diarization_error_rate(predictions, references, threshold=threshold, median=median)
            assert found[row, column] == pytest.approx(wanted, abs=1e-10)


def test_speech_at_both_sides_of_a_border_does_not_meet():
    predictions = [np.ones((6, 1), np.float32)] * 2
    references = [np.ones((6, 1), np.bool_)] * 2
    found = diarization_grid(predictions, references, thresholds=(0.5,), medians=(11,))
    assert found[0, 0] == pytest.approx(diarization_error_rate(predictions, references, median=11))


def test_faults():
    silent = [np.zeros((4, 2), np.bool_)]
    with pytest.raises(ValueError, match="hold no frame of speech"):
        diarization_grid([np.ones((4, 2))], silent, thresholds=(0.5,), medians=(1,))
    with pytest.raises(ValueError, match="a median over 4 frames has no middle"):
        diarization_grid([np.ones((4, 2))], silent, thresholds=(0.5,), medians=(4,))
    with pytest.raises(ValueError, match="prediction of recording 2 has frames that are nan; give probabilities"):
        diarization_grid([np.ones((4, 2)), np.full((4, 2), np.nan)], 2 * silent, thresholds=(0.5,), medians=(1,))
