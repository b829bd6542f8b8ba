"""JSON files: written atomically, and read with errors that name the place."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from audiossl.files import whole_file

if TYPE_CHECKING:
    from pathlib import Path


def read_json(path: Path, cure: str = "mend or make it again") -> Any:
    """Read a JSON file; ValueError names the place of a fault and the cure."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; {cure}") from None
    except PermissionError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}); {cure}") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}:{error.lineno}: not valid JSON: {error.msg}; {cure}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not valid JSON: {error}; {cure}") from error


def read_json_table(path: Path, cure: str) -> dict[str, Any]:
    """Read a JSON object; ValueError with `cure` where there is none."""
    table = read_json(path, cure)
    if not isinstance(table, dict):
        raise ValueError(f"{path}: not a JSON object; {cure}")
    return table


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file, atomically."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, indent=1) + "\n"
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")
