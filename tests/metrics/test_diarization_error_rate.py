"""Diarisation error rate against loops over frames and permutations, and against numbers worked out by hand."""

import itertools
from itertools import permutations

import numpy as np
import pytest

from audiossl import registry
from audiossl.metrics.diarization_error_rate import diarization_error_rate, diarization_errors


def slow(predictions, references, threshold, median, collar, overlap):
    errors = total = 0
    for probabilities, wanted in zip(predictions, references, strict=True):
        frames, num_active = probabilities.shape
        num_wanted = wanted.shape[1]
        active = np.zeros((frames, num_active), bool)
        for t in range(frames):
            for s in range(num_active):
                window = [u for u in range(t - median // 2, t + median // 2 + 1) if 0 <= u < frames]
                active[t, s] = sum(probabilities[u, s] > threshold for u in window) > median / 2
        scored = []
        for t in range(frames):
            near = False
            for edge in range(frames + 1):
                for s in range(num_wanted):
                    before = wanted[edge - 1, s] if edge else False
                    after = wanted[edge, s] if edge < frames else False
                    # frame t is the time from t to t + 1
                    near |= before != after and max(t, edge - collar) < min(t + 1, edge + collar)
            if not near and (overlap or sum(wanted[t]) < 2):
                scored.append(t)
        size = max(num_active, num_wanted)
        a = np.pad(active[scored], ((0, 0), (0, size - num_active)))
        w = np.pad(wanted[scored], ((0, 0), (0, size - num_wanted)))
        best = min(
            sum(max(x.sum(), y.sum()) - (x & y).sum() for x, y in zip(a[:, list(order)], w, strict=True))
            for order in permutations(range(size))
        )
        errors += best
        total += w.sum()
    return 100 * errors / total


def recordings(seed, num_active, num_wanted):
    rng = np.random.default_rng(seed)
    wanted = [np.repeat(rng.random((7, num_wanted)) < 0.5, 6, axis=0)[: 40 - k] for k in range(3)]
    probabilities = []
    for labels in wanted:
        columns = labels[:, rng.permutation(num_wanted)]
        columns = np.pad(columns, ((0, 0), (0, num_active)))[:, :num_active]
        probabilities.append(np.clip(0.7 * columns + rng.normal(0.15, 0.45, columns.shape), 0, 1))
    return probabilities, wanted


@pytest.mark.parametrize("speakers", [(2, 2), (3, 2), (1, 3), (4, 4)])
@pytest.mark.parametrize("settings", [(0.5, 1, 0, True), (0.3, 11, 0, True), (0.6, 3, 1, False), (0.5, 5, 2, True)])
def test_equals_the_loops(speakers, settings):
    probabilities, wanted = recordings(sum(speakers), *speakers)
    threshold, median, collar, overlap = settings
    found = diarization_error_rate(
        probabilities, wanted, threshold=threshold, median=median, collar=collar, overlap=overlap
    )
    assert found == pytest.approx(slow(probabilities, wanted, *settings), rel=1e-12)
    assert found > 0


def test_median_is_that_of_scipy():
    signal = pytest.importorskip("scipy.signal")
    probabilities, wanted = recordings(5, 2, 2)
    filtered = [signal.medfilt((rows > 0.4).astype(float), (11, 1)) for rows in probabilities]
    settings = {"collar": 1}
    assert diarization_error_rate(probabilities, wanted, threshold=0.4, median=11, **settings) == (
        diarization_error_rate(filtered, wanted, **settings)
    )


def intervals(rows, rate):
    """Turns in seconds, as an RTTM file has them: (speaker, start, end)."""
    found = []
    for speaker, talks in enumerate(rows.T):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], talks.astype(int), [0]])))
        found += [(speaker, start / rate, end / rate) for start, end in edges.reshape(-1, 2)]
    return found


def in_seconds(predictions, references, rate):
    """Sweep over the time between any two edges of turns, as scoring tools do that read RTTM files, and try every mapping."""
    wrong = total = 0.0
    for system, truth in zip(predictions, references, strict=True):
        ours, theirs = intervals(system, rate), intervals(truth, rate)
        times = sorted({edge for _, *pair in [*ours, *theirs] for edge in pair})
        size = max(system.shape[1], truth.shape[1])
        options = []
        for mapping in permutations(range(size)):
            errors = 0.0
            for start, end in itertools.pairwise(times):
                middle = (start + end) / 2
                heard = {mapping[s] for s, a, b in ours if a < middle < b}
                talking = {s for s, a, b in theirs if a < middle < b}
                errors += (end - start) * (max(len(heard), len(talking)) - len(heard & talking))
            options.append(errors)
        wrong += min(options)
        total += sum(b - a for _, a, b in theirs)
    return 100 * wrong / total


@pytest.mark.parametrize("speakers", [(2, 2), (3, 2), (1, 3)])
def test_is_the_rate_of_time_where_turns_end_with_frames(speakers):
    probabilities, wanted = recordings(sum(speakers), *speakers)
    active = [rows > 0.4 for rows in probabilities]
    found = diarization_error_rate(probabilities, wanted, threshold=0.4)
    assert found == pytest.approx(in_seconds(active, wanted, 50.0), rel=1e-9)
    assert found > 0


def test_by_hand():
    wanted = np.array([[1, 0], [1, 0], [1, 1], [0, 1], [0, 0]], bool)
    assert diarization_error_rate([wanted[:, ::-1]], [wanted]) == 0
    assert diarization_errors(np.zeros((5, 0)), wanted) == (5, 0, 0, 5)
    active = np.array([[0, 1], [1, 0], [0, 1], [0, 0], [1, 0]], bool)
    # second for first: frame 1 confused, the overlap and frame 3 miss one each, frame 4 is invented
    assert diarization_errors(active, wanted) == (2, 1, 1, 5)
    assert diarization_error_rate([active], [wanted]) == 80
    assert diarization_errors(active, wanted, overlap=False) == (1, 1, 1, 3)
    # mapping is per recording: swapping one recording's columns changes nothing
    assert diarization_error_rate([active, active[:, ::-1]], [wanted, wanted]) == 80


def test_errors_say_what_to_do():
    rows = np.ones((4, 2), bool)
    with pytest.raises(ValueError, match="1 predictions for 2 references"):
        diarization_error_rate([rows], [rows, rows])
    with pytest.raises(ValueError, match="as many frames"):
        diarization_error_rate([rows[:3]], [rows])
    with pytest.raises(ValueError, match="odd number"):
        diarization_error_rate([rows], [rows], median=10)
    with pytest.raises(ValueError, match="collar of -1"):
        diarization_error_rate([rows], [rows], collar=-1)
    with pytest.raises(ValueError, match="no frame of speech"):
        diarization_error_rate([rows], [~rows])
    assert registry.get("metrics", "diarization_error_rate") is diarization_error_rate


@pytest.mark.parametrize(
    ("prediction", "reference", "message"),
    [
        (np.nan, 1.0, "prediction of frame 2 for speaker 1 is nan; give finite numbers"),
        (np.inf, 1.0, "prediction of frame 2 for speaker 1 is inf"),
        (0.9, 0.2, "0.2 in a reference is neither 0 nor 1; give 1 where a speaker speaks and 0 elsewhere"),
        (0.9, np.nan, "nan in a reference is neither 0 nor 1"),
    ],
)
def test_values_that_mean_nothing_are_refused(prediction, reference, message):
    with pytest.raises(ValueError, match=message):
        diarization_error_rate([np.array([[0.9], [prediction]])], [np.array([[1.0], [reference]])])


def test_references_of_numbers_are_those_of_truths():
    predictions, references = [np.array([[0.9, 0.1], [0.2, 0.8]])], [np.eye(2)]
    assert diarization_error_rate(predictions, references) == 0
    assert diarization_error_rate(predictions, [references[0].astype(int)]) == 0
