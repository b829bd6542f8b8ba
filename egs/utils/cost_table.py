"""Print what egs/lebenchmark reached and what training for it took, as a Markdown table; several experiments are seeds of one.

Usage: cost_table.py EXP ...
"""

import json
import statistics
import sys
from collections import defaultdict
from pathlib import Path

from audiossl.diagnostics.results import Result, read_results

SCORES = {
    "asr": ("WER test",),
    "ks": ("accuracy keywords_test", "superb ks accuracy"),
    "sf": ("slot_f1 test", "superb sf slot_f1"),
    "er": ("accuracy test", "superb er accuracy"),
}
TUNINGS = ("frozen", "adapters", "full")
ENCODERS = ("agnostic", "continued")


def score_of(folder: Path, names: tuple[str, ...]) -> Result | None:
    """Return the last score of an experiment, if it has one."""
    rows = [row for path in sorted(folder.rglob("results.json")) for row in read_results(path) if row.name in names]
    return rows[-1] if rows else None


def said(values: list[float | None], pattern: str) -> str:
    """Write the mean, with the deviation where there are several; a dash where one is not known."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return "-"
    mean = pattern.format(statistics.mean(known))
    return f"{mean} ± {pattern.format(statistics.stdev(known))}" if len(known) > 1 else mean


def spent(result: Result, name: str) -> float | None:
    """Return seconds or joules of the training: of heads alone they have the plain name."""
    value: float | None = result.more.get(f"train_{name}", result.more.get(name))
    return value


def main() -> None:
    """Print a row for each task, way of tuning and encoder, and below them what pretraining took."""
    experiments = [Path(word) for word in sys.argv[1:]]
    if not experiments:
        sys.exit("usage: cost_table.py EXP...")
    print(
        "| task | tuned | encoder | score | parameters | seconds | joules | runs |\n|---|---|---|---|---|---|---|---|"
    )
    for task, names in SCORES.items():
        for tuning in TUNINGS:
            for encoder in ENCODERS:
                found = [score_of(each / task / encoder / tuning, names) for each in experiments]
                rows = [row for row in found if row is not None]
                if rows:
                    metric = names[0].split()[0]
                    score = f"{metric} {said([row.value for row in rows], '{:.2f}')} %"
                    seconds = said([spent(row, "seconds") for row in rows], "{:.1f}")
                    joules = said([spent(row, "joules") for row in rows], "{:.0f}")
                    trained = rows[0].more["parameters"]
                    print(
                        f"| {task} | {tuning} | {encoder} | {score} | {trained} | {seconds} | {joules} | {len(rows)} |"
                    )
    costs: dict[str, list[dict[str, float | None]]] = defaultdict(list)
    for path in sorted(path for each in experiments for path in each.glob("*/cost.json")):
        costs[path.parent.name].append(json.loads(path.read_text()))
    print("\nPretraining, once for the rows that begin with it:\n")
    for name, rows_of in costs.items():
        seconds, joules = (said([row[key] for row in rows_of], "{:.0f}") for key in ("seconds", "joules"))
        print(f"* {name}: {seconds} s, {joules} J")
    print("\nJoules are those of the device that computed; `-`: this machine does not tell.")


if __name__ == "__main__":
    main()
