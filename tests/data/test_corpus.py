from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from audiossl.data.audio import audio_info
from audiossl.data.corpus import identifier, published, write_imitation


def test_published_says_what_was_looked_for(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    assert published(Path(), "here") == tmp_path
    with pytest.raises(ValueError, match=r"there: not found; --corpus must be the folder that holds here, there"):
        published(tmp_path, "here", "there")
    with pytest.raises(ValueError, match="give --corpus DIR"):
        published(None, "here")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("zoom in", "zoom_in"), ("a b/c\td", "a_b-c_d"), (" كلمة ", "كلمة"), ("a\u00a0b\u3000c", "a_b_c")],
)
def test_identifiers_have_no_white_space(text, expected):
    assert identifier(text) == expected


def test_imitations_have_the_asked_length(tmp_path):
    write_imitation(tmp_path / "a" / "b.flac", np.random.default_rng(0), duration=0.25, sample_rate=8000)
    info = audio_info(tmp_path / "a" / "b.flac")
    assert (info.num_samples, info.sample_rate) == (2000, 8000)
