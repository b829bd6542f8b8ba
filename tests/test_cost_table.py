"""The table of scores and costs of egs/lebenchmark."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "egs" / "utils" / "cost_table.py"


def test_joules_are_of_whatever_computed(tmp_path):
    (tmp_path / "agnostic").mkdir()
    (tmp_path / "agnostic" / "cost.json").write_text(json.dumps({"seconds": 12.0, "joules": 900.0}))
    (tmp_path / "continued").mkdir()
    (tmp_path / "continued" / "cost.json").write_text(json.dumps({"seconds": 3.0, "joules": None}))
    done = subprocess.run([sys.executable, SCRIPT, tmp_path], capture_output=True, text=True, check=True)
    *_, agnostic, continued, _, note = done.stdout.splitlines()
    assert (agnostic, continued) == ("* agnostic: 12 s, 900 J", "* continued: 3 s, - J")
    assert note == "Joules are those of the device that computed; `-`: this machine does not tell."
