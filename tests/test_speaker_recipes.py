"""The VoxCeleb script trains and scores each recipe as the recipe's file says it was published."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "egs" / "voxceleb" / "ssl_speaker" / "run.sh"
NAMES = ("simclr_am_785", "simclr_am_750", "infonce_vicreg_847", "moco_am", "dino_speaker", "ssps_simclr", "ssps_dino")


def published(name):
    function = re.search(r"^published\(\) \{.*?^\}", SCRIPT.read_text(), re.DOTALL | re.MULTILINE)[0]
    words = ["bash", "-c", f"{function}\npublished {name}"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.parametrize("name", NAMES)
def test_the_table_agrees_with_the_recipe(name):
    text = " ".join((ROOT / "recipes" / f"{name}.toml").read_text().replace("\n#", " ").split())
    train, crops, duration, mean, choose = published(name)
    assert train == re.search(r"Train on (VoxCeleb\d dev)", text)[1].lower().replace(" ", "/")
    if said := re.search(r"(mean embedding )?of (\d+) crops of ([\d.]+) s", text):
        assert (crops, duration) == (said[2], said[3])
        assert mean == ("raw" if said[1] else "unit")
    averaged = re.search(r"mean of the last (\d+)", text)
    assert choose == ("mean" if averaged else "last")
    if averaged:
        assert f"keep_checkpoints = {averaged[1]} " in f"{text} "
        assert re.search(rf"^last={averaged[1]} ", SCRIPT.read_text(), re.MULTILINE)
