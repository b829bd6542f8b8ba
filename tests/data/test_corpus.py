from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from audiossl.data.audio import audio_info
from audiossl.data.corpus import compare_numbers, identifier, listed, published, write_imitation


def test_published_says_what_was_looked_for(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    assert published(Path(), "here") == tmp_path
    with pytest.raises(ValueError, match=r"there: not found; --corpus must be the folder that holds here, there"):
        published(tmp_path, "here", "there")
    with pytest.raises(ValueError, match="give --corpus DIR"):
        published(None, "here")
    (tmp_path / "train.tsv").touch()
    with pytest.raises(ValueError, match=r"train\.tsv: is a file; give its folder, which holds here$"):
        published(Path("train.tsv"), "here")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("zoom in", "zoom_in"), ("a b/c\td", "a_b-c_d"), (" كلمة ", "كلمة"), ("a\u00a0b\u3000c", "a_b_c")],
)
def test_identifiers_have_no_white_space(text, expected):
    assert identifier(text) == expected


def test_hidden_files_are_not_listed(tmp_path):
    for name in ("b/1.wav", "a/2.wav", "a/1.flac", "a/._2.wav", ".AppleDouble/2.wav", "a/note.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    names = [path.relative_to(tmp_path).as_posix() for path in listed(tmp_path, "*/*.wav", "*/*.flac")]
    assert names == ["a/1.flac", "a/2.wav", "b/1.wav"]


def test_other_numbers_than_published_are_told_in_one_line(tmp_path, caplog):
    for name, count in (("train", 3), ("dev", 2)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "spk2utt").write_text("x y\n" * count)
    compare_numbers(Path("corpus"), tmp_path, {"train": 3, "dev": 2, "test": 9}, "speakers")
    assert not caplog.messages
    compare_numbers(Path("corpus"), tmp_path, {"train": 5994, "dev": 1, "test": 9}, "speakers")
    (line,) = caplog.messages
    assert line.startswith("corpus: not as many speakers as published: train 3 of 5,994, dev 2 of 1; ")


def test_imitations_have_the_asked_length(tmp_path):
    write_imitation(tmp_path / "a" / "b.flac", np.random.default_rng(0), duration=0.25, sample_rate=8000)
    info = audio_info(tmp_path / "a" / "b.flac")
    assert (info.num_samples, info.sample_rate) == (2000, 8000)
