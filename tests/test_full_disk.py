"""A disk that is full in the middle of a verb: one line with the file and the cure, exit status 1, and nothing lost or half-written."""

from __future__ import annotations

import errno
import os

import numpy as np
import pytest
from chain_runs import make_data
from command import audiossl, fails, succeed
from disk import file_limit

from audiossl.data.audio import write_audio
from audiossl.units import labels

FIT = ["--clusters", "8", "--num-workers", "0"]


@pytest.fixture
def data(tmp_path):
    return make_data(tmp_path / "corpus")


def fails_full(size, *words):
    """Run a verb whose files may have so many bytes; returns its last line."""
    with file_limit(size):
        last = fails(*words)
    assert last.endswith(": File too large; free space or choose another --out")
    return last


def files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and ".index" not in path.parts}


def test_units(tmp_path, data):
    assert f"{tmp_path}/book/codebook.safetensors: " in fails_full(
        500, "units", "fit", "--data", data, "--out", tmp_path / "book", *FIT
    )
    assert not (tmp_path / "book").exists()
    succeed("units", "fit", "--data", data, "--out", tmp_path / "book", *FIT)
    apply = ["units", "apply", "--data", data, "--codebook", tmp_path / "book", "--name", "km", "--num-workers", "0"]
    succeed(*apply)
    before = files(tmp_path)
    assert f"{data}/units/km" in fails_full(500, *apply)
    assert files(tmp_path) == before
    again = ["units", "fit", "--data", data, "--out", tmp_path / "book", *FIT, "--seed", "1", "--overwrite"]
    fails_full(500, *again)
    assert files(tmp_path) == before


def test_a_card_that_cannot_be_written_costs_no_labels(tmp_path, data, monkeypatch):
    from audiossl.units import apply as applying

    succeed("units", "fit", "--data", data, "--out", tmp_path / "book", *FIT)
    apply = ["units", "apply", "--data", data, "--codebook", tmp_path / "book", "--name", "km", "--num-workers", "0"]
    succeed(*apply)
    before = files(tmp_path)

    def full(path, content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    # Whoever writes the card.
    monkeypatch.setattr(applying, "write_json", full, raising=False)
    monkeypatch.setattr(labels, "write_json", full)
    status, _, err = audiossl(*apply)
    assert status == 1
    assert err.endswith(f"{data}/units/km: No space left on device; free space or choose another --out\n")
    assert files(tmp_path) == before
    assert labels.has_labels(data, "km")


def test_recordings(tmp_path):
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 16_000)
    for name in ("a.wav", "a.flac"):
        with pytest.raises(OSError, match=rf"File too large: '.*/{name}'"), file_limit(5000):
            write_audio(tmp_path / name, noise, 16_000)
    assert not list(tmp_path.iterdir())


def test_prep(tmp_path):
    assert "/fake.partial/" in fails_full(500, "prep", "free_spoken_digits", "--fake", tmp_path / "fake")
    assert not list(tmp_path.iterdir())


def test_data_shard(tmp_path, data):
    audiossl("data", "info", data)  # the index of the tables is no matter of this test
    assert f"{tmp_path}/shards" in fails_full(15_000, "data", "shard", data, tmp_path / "shards")
    assert not list(tmp_path.glob("shards*"))


def test_data_fix(tmp_path, data):
    text = data / "text"
    text.write_text("".join(f"{line} {'A' * 200}\n" for line in reversed(text.read_text().splitlines())))
    before = files(data)
    assert f"{data}/" in fails_full(1500, "data", "fix", data)
    assert files(data) == before


def test_what_is_printed(data, monkeypatch):
    class Full:
        def write(self, text):
            return len(text)

        def flush(self):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def fileno(self):
            return spare

    import contextlib
    import io

    from audiossl.cli.main import main

    spare, err = os.open(os.devnull, os.O_WRONLY), io.StringIO()
    with contextlib.redirect_stdout(Full()), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as stop:
        main(["data", "info", str(data)])
    os.close(spare)
    assert stop.value.code == 1
    assert err.getvalue().splitlines()[-1].startswith("audiossl: standard output: No space left on device; ")
