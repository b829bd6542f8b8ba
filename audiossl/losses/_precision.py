"""What losses share about precision: float32 at least, also under autocast and for half-precision inputs."""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
R = TypeVar("R")


def full_precision(loss: Callable[P, R]) -> Callable[P, R]:
    """Decorate a loss: its half-precision tensors become float32, and autocast is off inside; the first argument is a tensor."""

    @wraps(loss)
    def computed(*args: P.args, **kwargs: P.kwargs) -> R:
        first = args[0]
        assert isinstance(first, Tensor)
        with torch.autocast(first.device.type, enabled=False):
            wide_args: Any = [_wide(value) for value in args]
            wide_kwargs: Any = {name: _wide(value) for name, value in kwargs.items()}
            return loss(*wide_args, **wide_kwargs)

    return computed


def unit(rows: Tensor) -> Tensor:
    """Rows of length 1 along the last dimension; a row of zeros stays 0."""
    return F.normalize(rows, dim=-1, eps=1e-8)


def _wide(value: object) -> object:
    if isinstance(value, Tensor) and value.dtype in {torch.bfloat16, torch.float16}:
        return value.float()
    return value
