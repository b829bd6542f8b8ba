"""What losses ask of their arguments: of tensors the shape alone, since to look at their values would wait for the device."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def need_same_shape(axes: str, /, *, free_first: bool = False, may_be_empty: bool = False, **tensors: Tensor) -> None:
    """Refuse tensors that differ in shape, have other axes than these, such as "batch, dim", or hold nothing.

    free_first: the first axis, such as that of views, may differ in length. may_be_empty: as where no frame is masked.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    differ = len({shape[int(free_first) :] for shape in shapes.values()}) > 1
    other_axes = any(len(shape) != axes.count(",") + 1 for shape in shapes.values())
    empty = not may_be_empty and any(0 in shape for shape in shapes.values())
    if differ or other_axes or empty:
        given = ", ".join(f"{name} of shape {shape}" for name, shape in shapes.items())
        alike = f" of one shape{' but for the first axis' if free_first else ''}" if len(shapes) > 1 else ""
        raise ValueError(f"{given}; give ({axes}){alike}{'' if may_be_empty else ', not empty'}")


def need_one_label_each(embeddings: Tensor, **labels: Tensor) -> None:
    """Refuse labels that are not (row,) beside embeddings of (row, dim)."""
    for name, label in labels.items():
        if embeddings.ndim != 2 or label.shape != embeddings.shape[:1]:
            raise ValueError(
                f"embeddings of shape {tuple(embeddings.shape)}, {name} of shape {tuple(label.shape)}; give (row, dim) and one label per row"
            )


def need_positive(**numbers: object) -> None:
    """Refuse Python numbers that are not above 0; those in tensors are not looked at."""
    for name, number in numbers.items():
        if isinstance(number, int | float) and not number > 0:
            raise ValueError(f"{name}: {number} is not positive")
