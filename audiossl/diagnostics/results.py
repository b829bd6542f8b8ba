"""Results as files: every number with the command that printed it, its date, machine and seed.

`results.json` in an experiment folder is a list of rows; `audiossl report` gathers them into tables.
"""

from __future__ import annotations

import math
import os
import platform
import shlex
import sys
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audiossl.data.json_files import read_json, write_json
from audiossl.files import locked

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

FILE_NAME = "results.json"


@dataclass(frozen=True)
class Result:
    """One number and where it came from. seed None: nothing was random. more: anything else that was said of it."""

    name: str
    value: float
    unit: str
    command: str
    date: str
    seed: int | None
    machine: str
    more: dict[str, Any] = field(default_factory=dict)


_OWN = ("name", "value", "unit", "command", "date", "seed", "machine")


def add_result(
    path: Path, name: str, value: float, unit: str, *, same: Sequence[str] | None = None, **context: Any
) -> Result:
    """Append a number to a results file, atomically; several processes may do so at once.

    path: the file, or the folder whose `results.json` is meant. same: what tells one measurement from another; earlier rows of this name
    that say the same by all these keys, of the context or `seed`, are replaced. None keeps all. context: `seed`; `command`, `date` and `machine`
    where the ones found here are not meant; any other value that JSON can hold.
    """
    if not math.isfinite(value):
        raise ValueError(f"{path}: result {name!r} is {value}; only finite numbers are results")
    known = {
        "command": context.pop("command", None) or command_line(),
        "date": context.pop("date", None) or datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": context.pop("seed", None),
        "machine": context.pop("machine", None) or machine(),
    }
    result = Result(name, float(value), unit, **known, more=context)
    path = _file(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path.parent):
        rows = read_results(path) if path.exists() else []
        kept = [_row(row) for row in rows if same is None or not _same(row, result, same)]
        write_json(path, [*kept, _row(result)])
    return result


def _same(one: Result, other: Result, keys: Sequence[str]) -> bool:
    ours, theirs = _row(one), _row(other)
    return one.name == other.name and all(ours.get(key) == theirs.get(key) for key in keys)


def read_results(path: Path) -> list[Result]:
    """Read a results file (or the one in a folder), oldest first; ValueError names the row at fault."""
    path = _file(path)
    rows = read_json(path)
    if not isinstance(rows, list):
        raise ValueError(f"{path}: holds no list of results; remove it and score again")
    found = []
    for number, row in enumerate(rows, start=1):
        fault = next((key for key in _OWN if not isinstance(row, dict) or not _usable(row, key)), None)
        if fault:
            raise ValueError(f"{path}: row {number} has no usable {fault!r}; remove that row")
        more = {key: value for key, value in row.items() if key not in _OWN}
        found.append(Result(**{key: row[key] for key in _OWN}, more=more))
    return found


def is_number(value: Any) -> bool:
    """Whether a value from a JSON file is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _usable(row: dict[str, Any], key: str) -> bool:
    if key == "value":
        return is_number(row.get(key))
    return key in row and isinstance(row[key], int | None if key == "seed" else str)


def results_table(results: Sequence[tuple[str, Result]], *, title: str = "") -> Table:
    """Lay out (experiment, result) pairs for the terminal."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title or None, title_justify="left")
    for heading, justify in (("experiment", "left"), ("result", "left"), ("value", "right"), ("unit", "left")):
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]
    table.add_column("seed", justify="right")
    table.add_column("date")
    for experiment, result in results:
        seed = "" if result.seed is None else str(result.seed)
        cells = (experiment, result.name, shown(result.value), result.unit, seed, result.date[:10])
        # Names may hold brackets, which a plain string would lose as markup.
        table.add_row(*(Text(cell) for cell in cells))
    return table


def shown(value: float) -> str:
    """Write a number as tables show it: two decimals, four significant digits where it is small."""
    return f"{value:.2f}" if value == 0 or abs(value) >= 1 else f"{value:.4g}"


def command_line() -> str:
    """Return the command that started this process, as one would type it."""
    program = Path(sys.argv[0]).name
    return shlex.join(["audiossl" if program == "__main__.py" else program, *sys.argv[1:]])


def machine() -> str:
    """Say in one line what the numbers were computed on."""
    text = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    torch = sys.modules.get("torch")
    return f"{text}, {torch.cuda.get_device_name()}" if torch is not None and torch.cuda.is_available() else text


def _row(result: Result) -> dict[str, Any]:
    row = asdict(result)
    more: dict[str, Any] = row.pop("more")
    return row | more


def _file(path: Path) -> Path:
    return path if path.suffix == ".json" else path / FILE_NAME
