"""Print one Markdown table of fine-tuned experiments: a row for each, a column for each value of one data directory.

Usage: task_table.py DATA_NAME SEED_FOLDER ...

Each folder holds the same experiments, with results that `score_task.py` kept. Numbers are means over seeds, with the smallest and largest of several.
"""

import sys
from collections import defaultdict
from pathlib import Path

from audiossl.diagnostics.results import read_results


def gather(data: str, folders: list[Path]) -> dict[str, dict[str, list[float]]]:
    """Experiment -> name of the value -> the last result of it in each folder."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for folder in folders:
        for path in sorted(folder.glob("*/results.json")):
            latest = {
                row.name.removeprefix(f"{data} "): row.value
                for row in read_results(path)
                if row.name.startswith(f"{data} ")
            }
            for name, value in latest.items():
                found[path.parent.name][name].append(value)
    return found


def cell(values: list[float]) -> str:
    """Mean, and the range of several."""
    if not values:
        return "-"
    mean = f"{sum(values) / len(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.1f} to {max(values):.1f})"


def main() -> None:
    """Print the table."""
    if len(sys.argv) < 3:
        sys.exit("usage: task_table.py DATA_NAME SEED_FOLDER ...")
    rows = gather(sys.argv[1], [Path(word) for word in sys.argv[2:]])
    columns = list(dict.fromkeys(name for values in rows.values() for name in values))
    print(f"| {sys.argv[1]}, % | {' | '.join(columns)} |\n|---{'|---' * len(columns)}|")
    for name, values in rows.items():
        print(f"| {name} | {' | '.join(cell(values.get(column, [])) for column in columns)} |")


if __name__ == "__main__":
    main()
