"""What verbs print: their answer on standard output, all else on standard error."""

from __future__ import annotations

import json as json_module
import sys
from typing import Any


def answer(facts: Any, spoken: str | None = None, *, json: bool) -> None:
    """Print `facts` with --json, otherwise what was spoken of them; None: nothing more is to be printed."""
    if json:
        print(json_module.dumps(facts))
    elif spoken is not None:
        print(spoken)


def log(line: str) -> None:
    """Print a line about the work on standard error."""
    print(line, file=sys.stderr, flush=True)


def say(line: str) -> None:
    """Print on standard error what the reader should heed, with the program's name before it."""
    log(f"audiossl: {line}")
