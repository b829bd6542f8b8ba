"""What a score cost: forwards of the upstream, seconds, peak memory, and energy where the machine tells it."""

from __future__ import annotations

import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

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
        return {
            "forwards": self.forwards,
            "alone_forwards": self.alone_forwards,
            "seconds": round(self.seconds, 2),
            "peak_bytes": self.peak_bytes,
            "joules": self.joules,
        }


class Ledger:
    """Counts from its creation on; `cost()` may be asked any number of times."""

    def __init__(self) -> None:
        self.forwards = 0
        self.alone_forwards = 0
        self._start = time.monotonic()
        self._energy = dict(_counters())

    def cost(self) -> Cost:
        """Return what was used so far."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        return Cost(self.forwards, self.alone_forwards, time.monotonic() - self._start, peak, self._joules())

    def _joules(self) -> float | None:
        """Energy since the start. A counter that ran over began again at 0, once: it takes minutes at full power."""
        now = dict(_counters())
        if not now or now.keys() != self._energy.keys():
            return None
        used = 0
        for zone, value in now.items():
            used += value - self._energy[zone] + (_range(zone) if value < self._energy[zone] else 0)
        return used / 1e6


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
