from __future__ import annotations

import numpy as np
import pytest
import torch

from audiossl.data.collate import collate, to_tensors


def views():
    return [
        {
            "waveform": np.array([1, 2, 3], np.float32),
            "units": np.array([4, 5], np.int16),
            "voiced": np.array([True]),
            "features": np.ones((2, 3), np.float16),
            "speaker": 7,
            "rate": 0.5,
            "text": "a b",
        },
        {
            "waveform": np.array([9], np.float32),
            "units": np.array([6, 7, 8], np.int16),
            "voiced": np.array([True, True]),
            "features": np.zeros((0, 3), np.float16),
            "speaker": np.int64(8),
            "rate": np.float32(0.25),
            "text": "",
        },
    ]


def test_arrays_are_padded_scalars_stacked_strings_listed():
    batch = collate(views(), ["u1", "u2"])
    expected = {
        "waveform": [[1, 2, 3], [9, 0, 0]],
        "waveform_lengths": [3, 1],
        "units": [[4, 5, -1], [6, 7, 8]],
        "units_lengths": [2, 3],
        "voiced": [[True, False], [True, True]],
        "voiced_lengths": [1, 2],
        "features": [[[1, 1, 1]] * 2, [[0, 0, 0]] * 2],
        "features_lengths": [2, 0],
        "speaker": [7, 8],
        "rate": [0.5, 0.25],
        "text": ["a b", ""],
        "utt_ids": ["u1", "u2"],
    }
    assert set(batch) == set(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(batch[name], value, err_msg=name)
    assert batch["waveform"].dtype == np.float32
    assert batch["waveform_lengths"].dtype == np.int64
    assert batch["voiced"].dtype == np.bool_


def test_unsigned_integers_become_signed():
    batch = collate([{"a": np.array([200], np.uint8)}, {"a": np.array([1, 2], np.uint8)}], ["u", "v"])
    assert batch["a"].tolist() == [[200, -1], [1, 2]]


def test_the_caller_s_arrays_are_not_shared():
    waveform = np.ones(4, np.float32)
    batch = collate([{"waveform": waveform}], ["u"])
    batch["waveform"][:] = 0
    assert waveform.sum() == 4


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"a": np.zeros(2)}, "utterance v: views differ from u in b"),
        ({"a": np.zeros((2, 2)), "b": 1}, "utterance v: a is float64"),
        ({"a": np.zeros(2, int), "b": 1}, "utterance v: a is int64"),
    ],
)
def test_utterances_that_disagree_are_named(second, message):
    with pytest.raises(ValueError, match=message):
        collate([{"a": np.zeros(3), "b": 1}, second], ["u", "v"])


def test_reserved_names_and_odd_types_are_refused():
    with pytest.raises(ValueError, match="'a_lengths'"):
        collate([{"a": np.zeros(2), "a_lengths": 2}], ["u"])
    with pytest.raises(ValueError, match="'utt_ids'"):
        collate([{"utt_ids": "u"}], ["u"])
    with pytest.raises(ValueError, match="a: cannot pad"):
        collate([{"a": np.array(["x"])}], ["u"])


def test_to_tensors_turns_all_numbers_into_tensors():
    backwards = np.arange(3.0, dtype=np.float32)[::-1]
    fixed = np.arange(2)
    fixed.setflags(write=False)
    batch = to_tensors(collate(views(), ["u1", "u2"]) | {"bad": [], "shift": 3, "back": backwards, "fixed": fixed})
    strings = {"text", "utt_ids", "bad"}
    assert all(isinstance(value, torch.Tensor) for name, value in batch.items() if name not in strings)
    assert batch["rate"].dtype == torch.float32
    assert batch["units"].dtype == torch.int16
    assert batch["voiced"].dtype == torch.bool
    assert batch["shift"].item() == 3
    assert batch["back"].tolist() == [2, 1, 0]
    assert batch["fixed"].tolist() == [0, 1]
    assert batch["text"] == ["a b", ""]
