"""Another process that holds a folder, as a run does that writes there."""

from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager

HOLDS = """
import sys
from pathlib import Path
from types import SimpleNamespace
from audiossl.train.experiment import only_run

with only_run(Path(sys.argv[1]), SimpleNamespace(main=True)):
    print("begun", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held(folder):
    """Gives the id of the process."""
    words = [sys.executable, "-c", HOLDS, folder]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        try:
            yield process.pid
        finally:
            process.communicate()
