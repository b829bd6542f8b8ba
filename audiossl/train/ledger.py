"""What a run or a score cost: forwards of the upstream, seconds, peak memory, and energy where the machine tells it."""

from __future__ import annotations

import contextlib
import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audiossl.data.json_files import read_json_table, write_json
from audiossl.train import gpu_cost

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

COST = "cost.json"
_RAPL = Path("/sys/class/powercap")
_PROCESS = Path("/proc/self")


@dataclass(frozen=True)
class Cost:
    """What was used.

    forwards: utterances (or crops) that went through the upstream. alone_forwards: how many training each head alone would have taken, at
    every step. seconds: wall clock. peak_bytes: resident memory of this process without its workers. joules: of the device that computed, the
    processor or the GPU, and of all that ran there; None where the machine does not tell. gpu_peak_bytes: None without a GPU. cached_forwards: utterances
    whose pooled features, or frames that are searched, were there from an earlier call, which are not among `forwards`.
    """

    forwards: int
    alone_forwards: int
    seconds: float
    peak_bytes: int
    joules: float | None
    gpu_peak_bytes: int | None = None
    cached_forwards: int = 0

    def row(self) -> dict[str, Any]:
        """Return it under the names that results have."""
        counts = {"forwards": self.forwards, "alone_forwards": self.alone_forwards}
        kept = {"cached_forwards": self.cached_forwards} if self.cached_forwards else {}
        return {**counts, **kept, **self.training_row()}

    def training_row(self) -> dict[str, Any]:
        """Return what there is of a run that trains, which has no upstream."""
        row = {"seconds": round(self.seconds, 2), "peak_bytes": self.peak_bytes, "joules": self.joules}
        return row if self.gpu_peak_bytes is None else {**row, "gpu_peak_bytes": self.gpu_peak_bytes}


class Ledger:
    """Counts from its creation on; `cost()` may be asked any number of times.

    Creating one sets the peaks of memory back, of others that still count as well: of several at once, create all before the work. Where the
    system cannot set them back (it is not Linux, or does not let us), the peak of memory is that of the process since its start.
    """

    def __init__(self, device: object = "cpu") -> None:
        """device: what computes, `cpu` or `cuda:0`."""
        self.forwards = 0
        self.alone_forwards = 0
        self.cached_forwards = 0
        self._gpu = str(device) if str(device).startswith("cuda") else None
        self._start = time.monotonic()
        self._earlier_seconds, self._earlier_peak = 0.0, 0
        self._earlier_joules: float | None = 0.0
        self._earlier_gpu_peak: int | None = None
        _reset_peak()
        if self._gpu is None:
            self._energy = dict(_counters())
        else:
            gpu_cost.reset_peak(self._gpu)
            self._gpu_energy = gpu_cost.joules(self._gpu)

    def go_on(self, earlier: Mapping[str, Any]) -> None:
        """Add what was used before an interruption: the fields of a `Cost`, by name."""
        self.forwards += earlier["forwards"]
        self.alone_forwards += earlier["alone_forwards"]
        self._earlier_seconds, self._earlier_peak = earlier["seconds"], earlier["peak_bytes"]
        self._earlier_joules = earlier["joules"]
        self._earlier_gpu_peak = earlier.get("gpu_peak_bytes")

    def cost(self) -> Cost:
        """Return what was used so far; the energy is None where a part of it is not known."""
        seconds, joules = time.monotonic() - self._start, self._joules()
        if joules is not None:
            joules = None if self._earlier_joules is None else joules + self._earlier_joules
        peaks = [self._earlier_gpu_peak, None if self._gpu is None else gpu_cost.peak_bytes(self._gpu)]
        return Cost(
            self.forwards,
            self.alone_forwards,
            seconds + self._earlier_seconds,
            max(_peak(), self._earlier_peak),
            joules,
            max((peak for peak in peaks if peak is not None), default=None),
            self.cached_forwards,
        )

    def _joules(self) -> float | None:
        """Energy since the start. A counter of a processor that ran over began again at 0, once: it takes minutes at full power."""
        if self._gpu is not None:
            reached = gpu_cost.joules(self._gpu)
            return None if reached is None or self._gpu_energy is None else reached - self._gpu_energy
        now = dict(_counters())
        if not now or now.keys() != self._energy.keys():
            return None
        used = 0
        for zone, value in now.items():
            used += value - self._energy[zone] + (_range(zone) if value < self._energy[zone] else 0)
        return used / 1e6


def write_cost(experiment: Path, cost: Cost) -> None:
    """Write what training cost so far into the experiment, atomically."""
    write_json(experiment / COST, cost.training_row())


def read_cost(experiment: Path) -> dict[str, Any] | None:
    """Return what training cost: `seconds`, `peak_bytes`, `joules`; None for an experiment that did not note it."""
    path = experiment / COST
    return read_json_table(path, "remove it") if path.is_file() else None


def _reset_peak() -> None:
    """Let the kernel count the peak of this process from now on."""
    with contextlib.suppress(OSError):
        (_PROCESS / "clear_refs").write_text("5\n", encoding="ascii")


def _peak() -> int:
    """Most bytes of resident memory, since `_reset_peak` on Linux."""
    try:
        lines = (_PROCESS / "status").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    high = next((line.split()[1] for line in lines if line.startswith("VmHWM:")), None)
    if high is not None:
        return 1024 * int(high)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _counters() -> Iterator[tuple[Path, int]]:
    """Microjoules of each processor package, where they may be read."""
    for zone in sorted(_RAPL.glob("intel-rapl:*")):
        if zone.name.count(":") == 1:
            try:
                yield zone, int((zone / "energy_uj").read_text())
            except OSError:
                return


def _range(zone: Path) -> int:
    return int((zone / "max_energy_range_uj").read_text())
