"""Wall time of `audiossl --help` and of each verb's, in fresh processes; goals: 0.7 s, and 1.5 s for the verbs.

The first run, which may have to compile and to read from disk, is not counted. `python -c pass` stands beside them as what no
program written in Python can beat.

Example: python benchmarks/startup.py --check
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

from _machine import add_check, describe, finish

from audiossl.cli.main import verbs

GOAL, VERB_GOAL = 0.7, 1.5


def measure(words: list[str], runs: int) -> tuple[float, float]:
    """Least and median wall time of the interpreter with these arguments, s."""
    times = []
    for _ in range(runs + 1):
        start = time.perf_counter()
        subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - start)
    return min(times[1:]), statistics.median(times[1:])


def main() -> None:
    """Print a line per command; the goals are for the median."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10)
    add_check(parser)
    options = parser.parse_args()
    print(describe())
    print(f"{'command':<28} {'least':>8} {'median':>8} {'goal':>7}")
    least, median = measure(["-c", "pass"], options.runs)
    print(f"{'python -c pass':<28} {least:6.3f} s {median:6.3f} s {'':>7}")
    goals = {}
    for verb in ("", *verbs()):
        command, goal = " ".join(filter(None, ("audiossl", verb, "--help"))), VERB_GOAL if verb else GOAL
        least, median = measure(["-m", *command.split()], options.runs)
        print(f"{command:<28} {least:6.3f} s {median:6.3f} s {goal:5.1f} s")
        goals[f"{command}: {median:.2f} of {goal} s"] = median <= goal
    finish(goals, check=options.check)


if __name__ == "__main__":
    main()
