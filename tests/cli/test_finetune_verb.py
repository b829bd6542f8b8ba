"""Where `audiossl finetune` writes when nobody says it."""

from pathlib import Path

import pytest
from command import succeed


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["ctc_adapters"], Path("exp/ctc_adapters")),
        (["recipes/mine.toml"], Path("exp/mine")),
        (["ctc_adapters", "--out", "here"], Path("here")),
    ],
)
def test_out_has_a_default_that_is_told(words, wanted, monkeypatch):
    given = {}
    monkeypatch.setattr("audiossl.train.run_finetune.finetune", lambda recipe, **options: given.update(options) or {})
    _, err = succeed("finetune", *words, "--init", "x", "--data", "y")
    assert given["out"] == wanted
    assert (f"writes {wanted}" in err) == ("--out" not in words)
