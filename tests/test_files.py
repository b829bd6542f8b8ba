"""Files are written whole or not at all, and a full disk is an OSError that names the file."""

from __future__ import annotations

import errno

import numpy as np
import pytest
import torch
from disk import file_limit
from safetensors.numpy import save_file

from audiossl.files import naming, require_folder, whole_file, whole_set


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_when_all_went_well(tmp_path):
    path = tmp_path / "a"
    for text in ("old", "new"):
        with whole_file(path) as partial:
            partial.write_text(text)
            assert not path.exists() or path.read_text() == "old"
        assert path.read_text() == text
    with pytest.raises(FileNotFoundError), whole_file(path) as partial:
        partial.write_text((tmp_path / "none").read_text())
    assert path.read_text() == "new"
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("fails", [0, 1, 2])
def test_files_that_belong_together_stay_together(tmp_path, fails):
    paths = [tmp_path / name for name in ("table", "other", "card")]
    for path in paths:
        path.write_text("old")

    def write():
        with whole_set(paths[:2], paths[2:]) as (tables, cards):
            for number, place in enumerate([*tables, *cards]):
                if number == fails:
                    raise OSError(errno.ENOSPC, "No space left on device")
                place.write_text("new")

    with pytest.raises(OSError, match=r"No space left on device: '.*/table'"):
        write()
    assert {path.read_text() for path in paths} == {"old"}
    assert names(tmp_path) == ["card", "other", "table"]
    fails = 3
    write()
    assert {path.read_text() for path in paths} == {"new"}


def test_the_mark_is_away_while_the_others_are_replaced(tmp_path, monkeypatch):
    table, card = tmp_path / "table", tmp_path / "card"
    card.write_text("old")
    kind, seen = type(table), []
    replace = kind.replace
    monkeypatch.setattr(kind, "replace", lambda path, to: (seen.append((to.name, card.exists())), replace(path, to)))
    with whole_set([table], [card]) as ([first], [second]):
        first.write_text("new")
        second.write_text("new")
        assert card.read_text() == "old"
    assert seen == [("table", False), ("card", False)]
    assert card.read_text() == "new"


def save_array(path):
    with path.open("wb") as file:
        np.save(file, np.zeros(50_000))


WRITERS = {
    "bytes": lambda path: path.write_bytes(bytes(50_000)),
    "numpy": save_array,
    "safetensors": lambda path: save_file({"x": np.zeros(50_000)}, str(path)),
    "torch": lambda path: torch.save(torch.zeros(50_000), path),
}


@pytest.mark.parametrize("name", WRITERS)
def test_whoever_writes_the_file_is_named(tmp_path, name):
    with pytest.raises(OSError, match=r"/a'") as raised, file_limit(1000), whole_file(tmp_path / "a") as partial:
        WRITERS[name](partial)
    assert raised.value.errno in {errno.EFBIG, errno.ENOSPC}
    assert raised.value.filename == str(tmp_path / "a")
    assert names(tmp_path) == []


@pytest.mark.parametrize("error", [OSError(errno.EACCES, "denied"), RuntimeError("os error"), OSError("odd")])
def test_other_errors_pass_unchanged(tmp_path, error):
    with pytest.raises(type(error)) as raised, naming(tmp_path):
        raise error
    assert raised.value is error
    full = OSError(errno.ENOSPC, "full", "elsewhere")
    with pytest.raises(OSError, match="elsewhere") as raised, naming(tmp_path):
        raise full
    assert raised.value is full


def test_where_no_folder_can_be(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    require_folder(tmp_path)
    require_folder(tmp_path / "new" / "folder")
    for place, words in {
        "file": "file: is a file, no folder; choose another --out",
        "file/a/b": "file is a file, no folder; ",
        "link": "link: is a link to nothing, no folder; ",
    }.items():
        with pytest.raises(ValueError, match=words):
            require_folder(tmp_path / place)
