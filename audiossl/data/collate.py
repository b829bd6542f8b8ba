"""From the views of single utterances to one padded batch, and from NumPy to torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from audiossl.contracts import Batch


def collate(views: Sequence[Mapping[str, Any]], utt_ids: Sequence[str]) -> Batch:
    """Stack what `views` gave for each utterance, under the same names.

    Arrays (length, ...) become (batch, longest, ...), padded with 0 (floats), -1 (integers) or False, beside `<name>_lengths`
    (batch,) int64; scalars become (batch,); strings become a list. `utt_ids` is added. ValueError where utterances disagree in
    names, kinds or shapes.
    """
    assert len(views) == len(utt_ids) > 0
    batch: Batch = {"utt_ids": list(utt_ids)}
    names = set(views[0])
    for view, utterance in zip(views, utt_ids, strict=True):
        if set(view) != names:
            odd = ", ".join(sorted(names ^ set(view)))
            raise ValueError(
                f"utterance {utterance}: views differ from {utt_ids[0]} in {odd}; give the same names for all"
            )
    for name in views[0]:
        values = [view[name] for view in views]
        if isinstance(values[0], str):
            stacked: dict[str, Any] = {name: values}
        elif np.ndim(values[0]) == 0:
            stacked = {name: np.asarray(values)}
        else:
            stacked = _pad(name, [np.asarray(value) for value in values], utt_ids)
        for key in stacked:
            if key in batch or (key != name and key in names):
                raise ValueError(f"views give {key!r}, which the batch makes itself; use another name")
        batch |= stacked
    return batch


def to_tensors(batch: Batch) -> Batch:
    """Turn arrays and numbers into tensors that share the arrays' memory; float64 becomes float32, strings stay."""
    import torch

    def convert(value: Any) -> Any:
        if isinstance(value, np.ndarray | np.generic | int | float):
            array = np.asarray(value)
            if array.dtype == np.float64:
                array = array.astype(np.float32)
            # torch can share only memory that it may write to and whose strides are positive.
            return torch.from_numpy(np.require(array, requirements=["C", "W"]))
        return value

    return {name: convert(value) for name, value in batch.items()}


def _pad(name: str, arrays: list[np.ndarray], utt_ids: Sequence[str]) -> dict[str, np.ndarray]:
    first = arrays[0]
    for array, utterance in zip(arrays, utt_ids, strict=True):
        if array.shape[1:] != first.shape[1:] or array.dtype.kind != first.dtype.kind or array.ndim != first.ndim:
            raise ValueError(
                f"utterance {utterance}: {name} is {array.dtype} {array.shape}, in {utt_ids[0]} {first.dtype} {first.shape};"
                " only the first dimension may differ"
            )
    lengths = np.asarray([len(array) for array in arrays], dtype=np.int64)
    dtype, padding = _padding(name, np.result_type(*arrays))
    padded = np.full((len(arrays), int(lengths.max()), *first.shape[1:]), padding, dtype=dtype)
    for row, array in zip(padded, arrays, strict=True):
        row[: len(array)] = array
    return {name: padded, f"{name}_lengths": lengths}


def _padding(name: str, dtype: np.dtype[Any]) -> tuple[np.dtype[Any], float]:
    match dtype.kind:
        case "f" | "c":
            return dtype, 0
        case "i":
            return dtype, -1
        case "u":  # has no -1
            return np.dtype(np.int64), -1
        case "b":
            return dtype, False
    raise ValueError(f"{name}: cannot pad an array of {dtype}; give floats, integers or booleans")
