"""What all benchmarks share: a line about the machine, its peak, the best of several times, and the verdict."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    import torch


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


def measure_each(
    forms: Collection[str], measure: Callable[[str], dict[str, Any]], *, description: str | None
) -> tuple[dict[str, dict[str, Any]], bool]:
    """Measure each form in a fresh process of the script that calls, so that none inherits memory; returns what was found and `--check`.

    The script's own processes name one form, print it as JSON and end here.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "form", nargs="?", choices=forms, help="measure this one alone, in this process, and print JSON"
    )
    add_check(parser)
    options = parser.parse_args()
    if options.form:
        print(json.dumps(measure(options.form)))
        sys.exit()
    print(f"{describe()}; peak: {matmul_gflops():.0f} GFLOP/s")
    results = {}
    for form in forms:
        command = [sys.executable, sys.argv[0], form]
        results[form] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return results, options.check


def peak_bytes(profile: torch.profiler.profile) -> int:
    """Highest running sum of what the allocator gave and took."""
    assert profile.profiler is not None
    assert profile.profiler.kineto_results is not None
    live = peak = 0
    events = profile.profiler.kineto_results.events()
    for event in sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak
