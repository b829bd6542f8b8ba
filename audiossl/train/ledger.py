"""What a run or a score cost: forwards of the upstream, seconds, peak memory, and energy where the machine tells it."""

from __future__ import annotations

import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audiossl.data.json_files import read_json_table, write_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

COST = "cost.json"
_RAPL = Path("/sys/class/powercap")


@dataclass(frozen=True)
class Cost:
    """What was used.

    forwards: utterances (or crops) that went through the upstream. alone_forwards: how many training each head alone would have taken, at
    every step. seconds: wall clock. peak_bytes: of this process. joules: of the processor, None where the machine does not tell.
    """

    forwards: int
    alone_forwards: int
    seconds: float
    peak_bytes: int
    joules: float | None

    def row(self) -> dict[str, Any]:
        """Return it under the names that results have."""
        return {"forwards": self.forwards, "alone_forwards": self.alone_forwards, **self.training_row()}

    def training_row(self) -> dict[str, Any]:
        """Return what there is of a run that trains, which has no upstream."""
        return {"seconds": round(self.seconds, 2), "peak_bytes": self.peak_bytes, "joules": self.joules}


class Ledger:
    """Counts from its creation on; `cost()` may be asked any number of times."""

    def __init__(self) -> None:
        self.forwards = 0
        self.alone_forwards = 0
        self._start = time.monotonic()
        self._energy = dict(_counters())
        self._earlier_seconds, self._earlier_peak = 0.0, 0
        self._earlier_joules: float | None = 0.0

    def go_on(self, earlier: Mapping[str, Any]) -> None:
        """Add what was used before an interruption: the fields of a `Cost`, by name."""
        self.forwards += earlier["forwards"]
        self.alone_forwards += earlier["alone_forwards"]
        self._earlier_seconds, self._earlier_peak = earlier["seconds"], earlier["peak_bytes"]
        self._earlier_joules = earlier["joules"]

    def cost(self) -> Cost:
        """Return what was used so far; the energy is None where a part of it is not known."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        seconds, joules = time.monotonic() - self._start, self._joules()
        if joules is not None:
            joules = None if self._earlier_joules is None else joules + self._earlier_joules
        return Cost(
            self.forwards, self.alone_forwards, seconds + self._earlier_seconds, max(peak, self._earlier_peak), joules
        )

    def _joules(self) -> float | None:
        """Energy since the start. A counter that ran over began again at 0, once: it takes minutes at full power."""
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
