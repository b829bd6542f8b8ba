"""Print RESULTS.md lines for the same recipe run with several seeds: means, extremes, trained parameters, and where they came from.

Usage: seed_table.py EXP_OF_SEED_0 EXP_OF_SEED_1 ...
"""

import sys
from collections import defaultdict
from pathlib import Path

from audiossl.diagnostics.results import Result, read_results


def gather(experiments: list[Path]) -> dict[tuple[str, str], list[Result]]:
    """Last result of each name in each experiment's sub-folders: (sub-folder, name) -> one result per experiment."""
    found: dict[tuple[str, str], list[Result]] = defaultdict(list)
    for experiment in experiments:
        for path in sorted(experiment.rglob("results.json")):
            latest = {result.name: result for result in read_results(path)}
            for name, result in latest.items():
                found[str(path.parent.relative_to(experiment)), name].append(result)
    return found


def main() -> None:
    """Print a Markdown table and, below it, the commands of the first experiment."""
    experiments = [Path(word) for word in sys.argv[1:]]
    if not experiments:
        sys.exit("usage: seed_table.py EXP...")
    rows = gather(experiments)
    print("| experiment | result | mean | min to max | runs | trained | date |\n|---|---|---|---|---|---|---|")
    for (place, name), results in sorted(rows.items()):
        values = [result.value for result in results]
        unit = f" {results[0].unit}" if results[0].unit else ""
        mean = sum(values) / len(values)
        spread = f"{min(values):.4g} to {max(values):.4g}"
        trained = results[0].more.get("parameters", "")
        print(
            f"| {place} | {name} | {mean:.4g}{unit} | {spread} | {len(values)} | {trained} | {results[0].date[:10]} |"
        )
    machines = sorted({result.machine for results in rows.values() for result in results})
    print("\nMachine: " + "; ".join(machines) + ".\n\nCommands (first run):\n")
    for command in dict.fromkeys(results[0].command for results in rows.values()):
        print(f"    {command}")


if __name__ == "__main__":
    main()
