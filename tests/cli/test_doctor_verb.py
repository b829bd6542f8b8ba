"""`audiossl doctor`: everything that the package requires is looked at, and what is missing has a cure."""

from __future__ import annotations

import importlib.metadata
import json
import tomllib
from pathlib import Path

from audiossl.cli import doctor

PROJECT = Path(__file__).parents[2] / "pyproject.toml"


def findings(capsys):
    status = doctor.main(json=True)
    found = json.loads(capsys.readouterr().out)
    return status, {row["name"]: row for row in found["findings"]}


def test_every_requirement_is_looked_at(capsys, monkeypatch):
    lines = tomllib.loads(PROJECT.read_text())["project"]["dependencies"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda _: [*lines, "sentencepiece>=0.2; extra == 'asr'"])
    status, rows = findings(capsys)
    assert status == 0
    assert len(set(rows)) == len(lines) + 2 + len(doctor._OPTIONAL)  # and Python, and the devices
    assert {"faiss", "matplotlib", "numba", "rich", "scipy", "sklearn", "tomli_w", "tyro"} <= set(rows)
    assert "sentencepiece" not in rows


def test_what_is_missing_is_broken_and_has_a_cure(capsys, monkeypatch):
    monkeypatch.setattr(importlib.metadata, "requires", lambda _: ["torch>=2.6", "no-such-wheel>=1"])
    status, rows = findings(capsys)
    assert status == 1
    assert (rows["no-such-wheel"]["state"], rows["no-such-wheel"]["note"]) == ("broken", "pip install no-such-wheel")


def test_a_checkout_that_is_not_installed_is_said(capsys, monkeypatch):
    def absent(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", absent)
    monkeypatch.setattr(doctor.importlib.metadata, "version", absent)
    status, rows = findings(capsys)
    assert status == 1
    assert (rows["audiossl"]["state"], rows["audiossl"]["note"]) == ("broken", "pip install .")
