"""Print how many updates of a training fit into some seconds on this machine, after a short run of it that is then thrown away.

Usage: updates_in_time.py SECONDS UPDATES COMMAND ...

COMMAND is an `audiossl pretrain` without --out and --train.max_steps. As many first updates as are measured warm it up; how long the rest took is
seen from the lines of its metrics.jsonl, so that neither start nor checkpoint counts. What the run says goes to stderr.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path


def seconds_per_update(command: list[str], updates: int) -> float:
    """Train for twice as many updates, and time the second half; exits as the command does where that fails."""
    with tempfile.TemporaryDirectory() as folder:
        metrics = Path(folder) / "run" / "metrics.jsonl"
        words = ["--out", str(metrics.parent), "--train.max_steps", str(2 * updates), "--train.tensorboard", "false"]
        process = subprocess.Popen([*command, *words], stdout=sys.stderr)  # noqa: S603 - the caller's own command
        began: dict[int, float] = {}
        while process.poll() is None:
            done = metrics.read_bytes().count(b"\n") if metrics.exists() else 0
            for mark in (updates, 2 * updates):
                if done >= mark:
                    began.setdefault(mark, time.monotonic())
            time.sleep(0.02)
    if process.returncode:
        sys.exit(process.returncode)
    if len(began) < 2:
        sys.exit(f"updates_in_time.py: {updates} updates are over too soon to be timed; give more")
    return (began[2 * updates] - began[updates]) / updates


def main() -> None:
    """Print the number."""
    if len(sys.argv) < 4:
        sys.exit("usage: updates_in_time.py SECONDS UPDATES COMMAND ...")
    seconds, updates, *command = sys.argv[1:]
    print(max(1, round(float(seconds) / seconds_per_update(command, int(updates)))))


if __name__ == "__main__":
    main()
