"""What several tasks ask of the sizes of their heads."""

from __future__ import annotations

from typing import Any


def check_sizes(config: Any, least: int, *names: str) -> None:
    """Raise ValueError for a size of `[task]` that is below the least one."""
    for name in names:
        if getattr(config, name) < least:
            raise ValueError(f"task.{name}: {getattr(config, name)} is below {least}; give {least} or more")
