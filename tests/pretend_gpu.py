"""A GPU that is not there: tensors stay in the processor's memory, and everything that a real one refuses is refused.

Tests run code with `--device cuda` inside `pretend_gpu()`. Which tensors lie "on the GPU" is kept per storage: those moved or made there, and what is
computed from them. An operation that mixes both raises the RuntimeError of a real one; so does `numpy()`. What it cannot show: speed, memory,
kernels that are missing on a GPU, and numbers.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

GPU = torch.device("cuda", 0)
_TENSOR = torch.Tensor
_FREE = ("copy_", "_to_copy", "lift", "is_same_size", "_nested_view_from_jagged")
_PACKING = "_pack_padded_sequence"  # wants its lengths, and leaves sizes, in the processor's memory
_WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "_unique", "unique_", "equal", "is_nonzero")
_INDEXING = ("index.", "index_put", "_index_put_impl_", "_unsafe_index")


class _Storages:
    """Which storages lie on the GPU. A weak reference keeps its address from being given to another."""

    def __init__(self) -> None:
        self.there: dict[int, StorageWeakRef] = {}

    @staticmethod
    def key(tensor: torch.Tensor) -> int:
        return tensor.untyped_storage()._cdata

    def holds(self, tensor: torch.Tensor) -> bool:
        return self.key(tensor) in self.there

    def put(self, tensor: torch.Tensor, there: bool) -> None:
        if there:
            self.there[self.key(tensor)] = StorageWeakRef(tensor.untyped_storage())
        else:
            self.there.pop(self.key(tensor), None)


def _tensors(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_flatten(tree)[0] if isinstance(leaf, torch.Tensor)]


class _Operations(TorchDispatchMode):
    """Every operation, in backward too: refuses mixed places, and passes the place on to what it makes."""

    def __init__(self, storages: _Storages) -> None:
        super().__init__()
        self.storages = storages
        self.making = False  # whether a factory was told to make its tensor there
        self.waits = 0  # how often the processor has to wait for what the GPU finds, before it can go on
        self.inside = False  # whether torch works on tensors there: what it makes for itself is there too

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = _tensors((args, kwargs))
        name = func.name().removeprefix("aten::")
        there = self.making or (self.inside and not given) or any(self.storages.holds(tensor) for tensor in given)
        compared = given
        if name.startswith(_INDEXING) and self.storages.holds(args[0]):  # its indices may be in the processor's memory
            compared = _tensors((args[0], args[2:], kwargs))
        elif name.startswith(_PACKING):
            compared = [args[0]]
        if not name.startswith(_FREE) and there and not self.making:
            self._check(name, compared)
        self.waits += there and (name.startswith(_WAITS) or _chooses(name, args))
        known = {self.storages.key(tensor) for tensor in given}
        result = func(*args, **(kwargs or {}))
        if there:
            made = _tensors(result)
            for tensor in made[:1] if name.startswith(_PACKING) else made:
                if self.storages.key(tensor) not in known:
                    self.storages.put(tensor, True)
        return result

    def _check(self, name: str, given: list[torch.Tensor]) -> None:
        """A tensor without dimensions may come from the processor's memory, no other one."""
        if any(tensor.dim() and not self.storages.holds(tensor) for tensor in given):
            places = (f"{tuple(t.shape)} on {'cuda' if self.storages.holds(t) else 'cpu'}" for t in given)
            raise RuntimeError(f"Expected all tensors to be on the same device: {name} of {', '.join(places)}")


def _chooses(name: str, args: Any) -> bool:
    """Whether it indexes with truth values, of which somebody has to count the true ones."""
    return name.startswith(_INDEXING) and any(t.dtype == torch.bool for t in _tensors(args[1]))


class _Move(torch.autograd.Function):
    """A copy on the other side, and its gradient back."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, there: bool, calls: _Calls) -> torch.Tensor:
        ctx.calls, ctx.was = calls, calls.storages.holds(tensor)
        return calls.copy(tensor, there)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return ctx.calls.copy(grads[0], ctx.was), None, None


class _Calls(TorchFunctionMode):
    """What Python asks of torch: devices in arguments are turned into the processor, and those of tensors are made up."""

    def __init__(self, storages: _Storages, operations: _Operations) -> None:
        super().__init__()
        self.storages, self.operations = storages, operations

    def copy(self, tensor: torch.Tensor, there: bool) -> torch.Tensor:
        result = tensor.detach().clone()
        self.storages.put(result, there)
        return result

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in {torch.device, torch._C._nn._parse_to}:
            return func(*args, **kwargs)
        if func == _TENSOR.device.__get__:
            return GPU if self.storages.holds(args[0]) else torch.device("cpu")
        if func == _TENSOR.is_cuda.__get__:
            return self.storages.holds(args[0])
        if func == _TENSOR.get_device:
            return 0 if self.storages.holds(args[0]) else -1
        if func in {_TENSOR.numpy, _TENSOR.__array__} and self.storages.holds(args[0]):
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")
        if func in {_TENSOR.cpu, _TENSOR.cuda}:
            return self._moved(args[0], func is _TENSOR.cuda)
        if func is _TENSOR.to:
            like = next((arg for arg in args[1:2] if isinstance(arg, torch.Tensor)), None)
            device, dtype, *_ = torch._C._nn._parse_to(*args[1:], **{k: v for k, v in kwargs.items() if k != "copy"})
            there = device is not None and device.type == "cuda" if like is None else self.storages.holds(like)
            stays = device is None and like is None
            changed = args[0].to(dtype or args[0].dtype, copy=kwargs.get("copy", False))
            return changed if stays else self._moved(changed, there)
        wanted = [leaf for leaf in tree_flatten((args, kwargs))[0] if _device(leaf) is not None]
        if func is _TENSOR.new_tensor and not wanted:
            wanted = [GPU if self.storages.holds(args[0]) else torch.device("cpu")]
        if func in {torch.tensor, torch.as_tensor, _TENSOR.new_tensor} and wanted:
            args, kwargs = tree_map(lambda leaf: "cpu" if _device(leaf) else leaf, (args, kwargs))
            return self._moved(func(*args, **kwargs), _device(wanted[0]) == "cuda")
        before = self.operations.making, self.operations.inside
        if wanted:
            args, kwargs = tree_map(lambda leaf: "cpu" if _device(leaf) else leaf, (args, kwargs))
            self.operations.making = _device(wanted[0]) == "cuda"
        else:
            self.operations.inside |= any(map(self.storages.holds, _tensors((args, kwargs))))
        try:
            return func(*args, **kwargs)
        finally:
            self.operations.making, self.operations.inside = before

    def _moved(self, tensor: torch.Tensor, there: bool) -> torch.Tensor:
        return tensor if self.storages.holds(tensor) == there else _Move.apply(tensor, there, self)


def _device(leaf: Any) -> str | None:
    """Whether an argument names a device: which type."""
    if isinstance(leaf, torch.device):
        return leaf.type
    return leaf.split(":")[0] if isinstance(leaf, str) and leaf.split(":")[0] in {"cpu", "cuda"} else None


class _Autocast(torch.autocast):
    """That of the processor, which casts what is really computed."""

    def __init__(self, device_type: str, *args: Any, **kwargs: Any) -> None:
        super().__init__("cpu" if device_type == "cuda" else device_type, *args, **kwargs)


_STORAGES = _Storages()
"""Of all bodies: what one caches there, another finds there."""


@contextmanager
def pretend_gpu():
    """Run the body on a machine with one GPU, in this thread; yields what counts the `waits` for it."""
    operations = _Operations(_STORAGES)
    facts = {
        "is_available": True,
        "device_count": 1,
        "current_device": 0,
        "set_device": None,
        "synchronize": None,
        "reset_peak_memory_stats": None,
        "max_memory_allocated": 1,
        "get_device_name": "pretended",
        "get_device_properties": SimpleNamespace(major=9, minor=0, uuid="0", total_memory=2**34),
    }
    with ExitStack() as stack:
        stack.enter_context(patch.object(torch, "autocast", _Autocast))
        enabled = torch.is_autocast_enabled
        stack.enter_context(patch.object(torch, "is_autocast_enabled", lambda *_: enabled("cpu")))
        stack.enter_context(patch.object(torch.backends.cudnn, "is_acceptable", lambda _: False))
        for name, value in facts.items():
            stack.enter_context(patch.object(torch.cuda, name, lambda *_, value=value, **__: value))
        stack.enter_context(operations)
        stack.enter_context(_Calls(_STORAGES, operations))
        yield operations
