"""Print one Markdown table of recipes that trained for the same time: speed, probes and units, or why there are none.

Usage: objectives_table.py SECONDS SEED_FOLDER ...

Each folder holds one per recipe, as `masked_objectives.sh` makes them. Numbers are means over seeds, with the smallest and largest of several.
"""

import re
import statistics
import sys
from collections import defaultdict
from pathlib import Path

from audiossl.config import load_toml
from audiossl.diagnostics.results import Result, machine, read_results

PROBES = {"keyword": "keyword %", "babble": "keyword in babble %", "speaker": "speaker %"}
COLUMNS = ("updates", "audio h per h", *PROBES.values(), "phone purity %", "layer")
_BATCHES = re.compile(r"([\d.]+) h, in (\d+) batches")


def measured(folder: Path, seconds: float) -> dict[str, float | str]:
    """What is known of one recipe with one seed, by column; `failed` is what it said where it ended early, `note` what else is to say.

    seconds: into which its updates fit, with the machine to themselves.
    """
    found: dict[str, float | str] = {}
    log = folder / "ssl" / "log" / "train.log"
    if log.exists():
        metrics = folder / "ssl" / "metrics.jsonl"
        updates = len(metrics.read_text(encoding="utf-8").splitlines())
        found["updates"] = updates
        batches = _BATCHES.search(log.read_text(encoding="utf-8"))
        if batches:
            hours, count = map(float, batches.groups())
            found["audio h per h"] = 3600 * updates * hours / count / seconds
    for name, column in PROBES.items():
        rows = _results(folder / name)
        if rows:
            found[column] = rows[-1].value
    found |= _best_units(folder)
    for name in ("failed", "note"):
        if (folder / name).exists():
            found[name] = (folder / name).read_text(encoding="utf-8").strip().removeprefix("audiossl: ")
    return found


def _results(folder: Path) -> list[Result]:
    return read_results(folder) if (folder / "results.json").exists() else []


def _best_units(folder: Path) -> dict[str, float | str]:
    """Phone purity on test of the layer whose units have the highest on dev."""
    dev, test = (
        {
            row.name.removeprefix("phone purity layer "): row.value
            for row in _results(folder / part)
            if "phone" in row.name
        }
        for part in ("units_dev", "units_test")
    )
    if not dev or dev.keys() != test.keys():
        return {}
    layer = max(dev, key=lambda name: dev[name])
    return {"phone purity %": 100 * test[layer], "layer": layer}


def cell(values: list[float | str]) -> str:
    """Mean and range of numbers, or the different words."""
    numbers = [value for value in values if not isinstance(value, str)]
    if not numbers:
        return ", ".join(dict.fromkeys(map(str, values))) or "-"
    form = "{:.0f}" if max(numbers) >= 1000 or all(isinstance(value, int) for value in numbers) else "{:.1f}"
    mean, low, high = (form.format(value) for value in (statistics.mean(numbers), min(numbers), max(numbers)))
    return mean if low == high else f"{mean} ({low} to {high})"


def _keyword(runs: list[dict[str, float | str]]) -> float:
    """Mean of the keyword probe, by which rows are sorted; -1 where it was not made."""
    values = [float(run["keyword %"]) for run in runs if "keyword %" in run]
    return statistics.mean(values) if values else -1.0


def main() -> None:
    """Print the table, and below it what it says nothing of."""
    if len(sys.argv) < 3:
        sys.exit("usage: objectives_table.py SECONDS SEED_FOLDER ...")
    seconds, *folders = sys.argv[1:]
    rows: dict[str, list[dict[str, float | str]]] = defaultdict(list)
    commands: dict[str, str] = {}
    for seed in map(Path, folders):
        for folder in sorted(path for path in seed.iterdir() if path.is_dir()):
            rows[folder.name].append(measured(folder, float(seconds)))
            config = folder / "ssl" / "config.toml"
            if config.exists():
                commands.setdefault(folder.name, load_toml(config)["run"]["command"])
    print(f"{seconds} s of pretraining for each, {len(folders)} seed(s), {machine()}.\n")
    columns = [column for column in COLUMNS if any(column in run for runs in rows.values() for run in runs)]
    print("| recipe | " + " | ".join(columns) + " | note |\n" + "|---" * (len(columns) + 2) + "|")
    for name, runs in sorted(rows.items(), key=lambda row: _keyword(row[1]), reverse=True):
        cells = [cell([run[column] for run in runs if column in run]) for column in columns]
        failed = [str(run["failed"]) for run in runs if "failed" in run]
        notes = list(dict.fromkeys(str(run["note"]) for run in runs if "note" in run))
        if failed:
            notes.append(f"**failed**, {len(failed)} of {len(runs)}: {'; '.join(dict.fromkeys(failed))}")
        note = "; ".join(notes)
        print(f"| {name} | " + " | ".join(cells) + f" | {note.replace('|', '/')} |")
    if "phone purity %" in columns:
        print(
            "\nPhone purity: 100 units of k-means, on test, of the layer that is best on dev; of vq-wav2vec its 100 most frequent codes."
        )
    print(
        "\nAudio h per h: what the batches of all updates hold, over the time that these were measured to fit into.\n\n"
        "Commands (first seed):\n"
    )
    for command in commands.values():
        print(f"    {command}")


if __name__ == "__main__":
    main()
