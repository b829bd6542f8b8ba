"""What losses share about precision: float32 at least, also under autocast and for half-precision inputs."""

from __future__ import annotations

from functools import wraps
from inspect import signature
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
R = TypeVar("R")


def full_precision(loss: Callable[P, R]) -> Callable[P, R]:
    """Decorate a loss: its half-precision tensors become float32, and autocast is off inside.

    Arguments that are annotated as `Tensor` have to be that, positional or by name, and the first of them says what device this is for.
    """
    names = tuple(signature(loss).parameters)
    tensors = tuple(name for name in names if loss.__annotations__.get(name) in {"Tensor", "torch.Tensor", Tensor})

    @wraps(loss)
    def computed(*args: P.args, **kwargs: P.kwargs) -> R:
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        for name in tensors:
            if name in given and not isinstance(given[name], Tensor):
                raise ValueError(f"{loss.__name__}: {name} is a {type(given[name]).__name__}; give a torch.Tensor")
        first = given.get(tensors[0])
        device = first.device.type if isinstance(first, Tensor) else "cpu"  # missing: the call will say so
        with torch.autocast(device, enabled=False):
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
