"""What all benchmarks share: a line about the machine, its peak, the best of several times, and the verdict."""

from __future__ import annotations

import os
import platform
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable


def describe() -> str:
    """Processor, cores this process may use, load, Python and NumPy, in one line."""
    names = {}
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        names = dict(line.replace("\t", "").split(":", 1) for line in lines if ":" in line)
    processor = names.get("model name", platform.processor() or platform.machine()).strip()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    return (
        f"{processor}, {cores} cores, load {load}, {platform.system()}, "
        f"Python {platform.python_version()}, NumPy {np.__version__}"
    )


def matmul_gflops(size: int = 1024) -> float:
    """Float32 matrix product of NumPy on as many threads as it takes: GFLOP/s, best of five."""
    left = np.random.default_rng(0).standard_normal((size, size), dtype=np.float32)
    return 2 * size**3 / best(lambda: left @ left, 5) / 1e9


def best(function: Callable[[], object], repeats: int) -> float:
    """Smallest of several times, s."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def add_check(parser: argparse.ArgumentParser) -> None:
    """Add `--check`, which `finish` heeds."""
    parser.add_argument("--check", action="store_true", help="exit with 1 where a goal is missed")


def finish(goals: dict[str, bool], *, check: bool) -> None:
    """Print each goal and whether it was met; with `check`, exit with 1 unless all were."""
    for goal, met in goals.items():
        print(f"goal: {goal}: {'met' if met else 'MISSED'}")
    if check and not all(goals.values()):
        sys.exit(1)
