from __future__ import annotations

import threading

import numpy as np
import pytest

from audiossl import registry
from audiossl.data.corpus import write_imitation
from audiossl.data.manifest import Manifest
from audiossl.data.validate import faults

folder = registry.get("data_prep", "folder")


@pytest.fixture
def corpus(tmp_path):
    folder.fake(tmp_path / "corpus")
    return tmp_path / "corpus"


def test_each_file_is_its_own_speaker_by_default(corpus, tmp_path):
    folder.prepare(corpus, tmp_path / "out")
    made = Manifest.open(tmp_path / "out/all")
    assert list(made.ids) == sorted(
        f"{speaker}-{session}-{name}" for speaker in ("ann", "bob_lee") for session in ("one", "two") for name in "ab"
    )
    assert list(made.column("utt2spk")) == list(made.ids)
    assert len(made.audio(0, sample_rate=16000)) == 3200


@pytest.mark.parametrize(
    ("level", "expected"),
    [(0, {"ann-one-a": "ann", "bob_lee-two-b": "bob_lee"}), (-1, {"one-ann-one-a": "one", "two-bob_lee-two-b": "two"})],
)
def test_speakers_from_folders(corpus, tmp_path, level, expected):
    folder.prepare(corpus, tmp_path / "out", folder.Config(speaker_from_folder=True, speaker_level=level))
    made = Manifest.open(tmp_path / "out/all")
    speakers = dict(zip(made.ids, made.column("utt2spk"), strict=True))
    assert len(speakers) == 8
    assert expected.items() <= speakers.items()


def test_ids_sort_as_their_speakers_do(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("ann/a", "ann/zoe", "ann-lee/x", "ann-lee/ann/b"):
        write_imitation(tmp_path / "corpus" / f"{name}.wav", rng, duration=0.1, sample_rate=8000)
    folder.prepare(tmp_path / "corpus", tmp_path / "out", folder.Config(speaker_from_folder=True))
    lines = (tmp_path / "out/all/utt2spk").read_text().splitlines()
    assert lines == ["ann--a ann", "ann--lee-ann-b ann", "ann--zoe ann", "ann-lee--x ann-lee"]
    assert not list(faults(tmp_path / "out/all"))


def test_links_to_folders_are_followed_once(corpus, tmp_path, caplog):
    write_imitation(tmp_path / "other" / "x.wav", np.random.default_rng(0), duration=0.2, sample_rate=8000)
    (corpus / "ann" / "loop").symlink_to(corpus)
    (corpus / "again").symlink_to(corpus / "bob lee")
    (corpus / "beyond").symlink_to(tmp_path / "other")
    folder.prepare(corpus, tmp_path / "out")
    ids = list(Manifest.open(tmp_path / "out/all").ids)
    assert (len(ids), "beyond-x" in ids, "bob_lee-one-a" in ids) == (9, True, True)
    assert caplog.messages == [
        f"passed over: {corpus / 'again'} is {corpus / 'bob lee'} again",
        f"passed over: {corpus / 'ann' / 'loop'} is {corpus} again",
    ]


def test_what_has_to_be_converted_is_counted(corpus, tmp_path, caplog):
    for name in ("ann/a.M4A", "b.wma", "bob lee/c.caf"):
        (corpus / name).write_bytes(b"x")
    folder.prepare(corpus, tmp_path / "out", folder.Config(speaker_from_folder=True, speaker_level=0))
    assert len(Manifest.open(tmp_path / "out/all")) == 8
    (line,) = caplog.messages
    assert line.startswith(
        f"left out: {corpus}: 3 recordings are in formats that are not read, as {corpus}/b.wma; convert them: ffmpeg"
    )
    for path in [*corpus.rglob("*.wav"), *corpus.rglob("*.flac")]:
        path.unlink()
    with pytest.raises(ValueError, match="3 recordings are in formats that are not read, as .*; convert them: ffmpeg"):
        folder.prepare(corpus, tmp_path / "none")


def test_broken_files_are_named_up_to_a_share(corpus, tmp_path, caplog):
    (corpus / "ann" / "broken.wav").write_bytes(b"RIFF")
    with pytest.raises(ValueError, match=r"1 of 9 recordings cannot be used .* raise --prep\.max_bad_fraction"):
        folder.prepare(corpus, tmp_path / "strict")
    assert not (tmp_path / "strict" / "all").exists()
    caplog.clear()
    folder.prepare(corpus, tmp_path / "out", folder.Config(max_bad_fraction=0.2))
    assert len(Manifest.open(tmp_path / "out/all")) == 8
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "broken.wav" in caplog.text


def test_headers_are_read_side_by_side(corpus, tmp_path, monkeypatch):
    both = threading.Barrier(2, timeout=10)

    def wait(path):
        both.wait()
        return ""

    monkeypatch.setattr(folder, "header_fault", wait)
    folder.prepare(corpus, tmp_path / "out")
    assert len(Manifest.open(tmp_path / "out/all")) == 8


def test_faults_are_named(tmp_path):
    with pytest.raises(ValueError, match="holds the recordings"):
        folder.prepare(None, tmp_path / "out")
    with pytest.raises(ValueError, match="no such folder"):
        folder.prepare(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(ValueError, match="no audio file below it"):
        folder.prepare(tmp_path, tmp_path / "out")
    rng = np.random.default_rng(0)
    for name in ("a.wav", "a.flac"):
        write_imitation(tmp_path / name, rng, duration=0.1, sample_rate=8000)
    with pytest.raises(ValueError, match=r"a\.wav: gives the id 'a', as does .*a\.flac"):
        folder.prepare(tmp_path, tmp_path / "out")
    (tmp_path / "a.wav").unlink()
    with pytest.raises(ValueError, match="no folder at level -1 names its speaker"):
        folder.prepare(tmp_path, tmp_path / "out", folder.Config(speaker_from_folder=True))
    with pytest.raises(ValueError, match="max_bad_fraction: 2"):
        folder.Config(max_bad_fraction=2.0)
