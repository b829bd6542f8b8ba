"""Processes: what `torchrun` and Slurm start, as one value; a plain run is a world of one."""

from __future__ import annotations

import atexit
import os
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, NoReturn, TypeVar

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

T = TypeVar("T")
_LONG = timedelta(days=7)


@dataclass(frozen=True)
class World:
    """This process among all: `rank` of `size`, and the device that it computes on.

    patient: a group of gloo in which processes may wait for one another for days, as while the main one makes units; None: the default group.
    """

    rank: int
    size: int
    device: torch.device
    patient: torch.distributed.ProcessGroup | None = None

    @property
    def main(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    def add_up(self, values: torch.Tensor) -> torch.Tensor:
        """Sum a tensor over all processes, in place."""
        if self.size > 1:
            torch.distributed.all_reduce(values)
        return values

    def average(self, tensors: list[torch.Tensor]) -> None:
        """Replace tensors of floats by their means over all processes, in place and in one exchange."""
        if self.size == 1 or not tensors:
            return
        flat = self.add_up(torch.cat([tensor.float().flatten() for tensor in tensors])) / self.size
        for tensor, mean in zip(tensors, torch.split(flat, [tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(mean.view_as(tensor))

    def gather(self, items: list[T]) -> list[T]:
        """Collect the items of all processes, in the order of their ranks; every process must call it."""
        if self.size == 1:
            return items
        parts: list[list[T]] = [[] for _ in range(self.size)]
        torch.distributed.all_gather_object(parts, items)
        return [item for part in parts for item in part]

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.size > 1:
            torch.distributed.barrier(self.patient)


@contextmanager
def join_world(device: str = "auto") -> Iterator[World]:
    """Join the processes that torchrun started (NCCL on GPUs, gloo on CPUs), or be alone; end a script of several with `leave`.

    device: `auto` (a GPU if there is one), `cpu`, `cuda` or `cuda:1`, which is for one process on a machine. ValueError where it cannot be used.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    rank = int(os.environ.get("RANK", "0"))
    local_rank, local_size = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    chosen = _device(device, local_rank, local_size)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if size == 1:
        yield World(0, 1, chosen)
        return
    torch.distributed.init_process_group("nccl" if chosen.type == "cuda" else "gloo", rank=rank, world_size=size)
    try:
        yield World(rank, size, chosen, torch.distributed.new_group(backend="gloo", timeout=_LONG))
    finally:
        torch.distributed.destroy_process_group()


def leave(status: int) -> NoReturn:
    """End one of several processes without taking the interpreter down.

    A thread of gloo may still be letting go of the last tensors that it summed; when it then asks an interpreter that is being
    taken down for its lock, the process aborts after all its work is done.
    """
    atexit._run_exitfuncs()  # noqa: SLF001  # what the interpreter itself would run first: loader workers end, logs close
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _device(name: str, local_rank: int, local_size: int) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        name = f"cuda:{local_rank}"
    elif name.startswith("cuda:") and local_size > 1:
        raise ValueError(
            f"--device {name}: {local_size} processes would share this GPU; use --device cuda, one for each"
        )
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"--device {name}: no such device; use auto, cpu, cuda or cuda:0") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"--device {name}: this torch sees no GPU; use --device cpu, or see `audiossl doctor`")
    if device.type == "cuda" and device.index >= (gpus := torch.cuda.device_count()):
        cure = f"start no more than {gpus} processes on it" if local_size > 1 else f"give a number below {gpus}"
        raise ValueError(f"--device {name}: this machine shows {gpus} GPU(s); {cure}")
    return device
