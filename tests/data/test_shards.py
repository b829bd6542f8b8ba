from __future__ import annotations

import json
import os
import pickle
import resource
import tarfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from audiossl.data import shards as shards_module
from audiossl.data.audio import AudioError, decode_audio, write_audio
from audiossl.data.manifest import Manifest
from audiossl.data.shards import ShardManifest, write_shards

RATE = 16_000
IDS = ["s1-a.1", "s1-b", "s2/c", "s2/d-ü"]


@pytest.fixture
def manifest(tmp_path):
    folder = tmp_path / "data"
    (folder / "units").mkdir(parents=True)
    tables = {"wav.scp": "", "utt2spk": "", "text": "", "units/km5": ""}
    for number, utterance in enumerate(IDS):
        path = folder / f"{number}.flac"
        write_audio(path, np.random.default_rng(number).uniform(-1, 1, 4000 * (number + 1)).astype(np.float32), RATE)
        tables["wav.scp"] += f"{utterance} {path}\n"
        tables["utt2spk"] += f"{utterance} s{1 + number // 2}\n"
        tables["units/km5"] += f"{utterance} {number} {number + 1}\n"
        if number != 1:
            tables["text"] += f"{utterance} word {number}\n"
    for name, content in tables.items():
        (folder / name).write_text(content, encoding="utf-8")
    (folder / "units" / "km5.json").write_text('{"rate": 50}')
    return Manifest.open(folder)


@pytest.fixture
def shards(manifest, tmp_path):
    write_shards(manifest, tmp_path / "shards", max_bytes=45_000)
    return Manifest.open(tmp_path / "shards")


def test_shards_say_what_the_manifest_says(manifest, shards):
    assert isinstance(shards, ShardManifest)
    assert list(shards.ids) == list(manifest.ids) == IDS
    assert len(shards) == 4
    np.testing.assert_array_equal(shards.durations, manifest.durations)
    for index in (3, 0, 2, 1, -1):
        np.testing.assert_array_equal(shards.audio(index, sample_rate=RATE), manifest.audio(index, sample_rate=RATE))
    assert shards.audio(0, sample_rate=8000).shape == (2000,)
    assert shards.column_names() == ["text", "units/km5", "utt2dur", "utt2spk"]
    for name in ("utt2spk", "units/km5"):
        assert list(shards.column(name)) == list(manifest.column(name))
    assert shards.column("text")[3] == "word 3"
    with pytest.raises(ValueError, match="s1-b"):
        shards.column("text")[1]
    assert json.loads((shards.path / "units" / "km5.json").read_text()) == {"rate": 50}


def test_the_tars_are_webdataset_and_within_the_limit(manifest, shards):
    tars = sorted(shards.path.glob("*.tar"))
    assert [path.name for path in tars] == json.loads((shards.path / "shards.json").read_text())["shards"]
    assert len(tars) > 1
    seen = {}
    for path in tars:
        assert path.stat().st_size <= 45_000
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, suffix = member.name.partition(".")  # as WebDataset does
                seen.setdefault(key, {})[suffix] = tar.extractfile(member).read()
    assert list(seen) == ["s1-a%2E1", "s1-b", "s2%2Fc", "s2%2Fd-ü"]
    facts = [json.loads(sample["json"]) for sample in seen.values()]
    assert facts[0] == {"id": "s1-a.1", "duration": 0.25, "speaker": "s1", "text": "word 0"}
    assert "text" not in facts[1]
    audio = decode_audio(seen["s2%2Fc"]["flac"], "c")
    np.testing.assert_array_equal(audio, manifest.audio(2, sample_rate=RATE))


@pytest.mark.parametrize("max_bytes", [1, 41_000, 55_000, 62_000, 93_000, 110_000])
def test_no_shard_of_several_utterances_passes_the_limit(manifest, tmp_path, max_bytes):
    write_shards(manifest, tmp_path / "out", max_bytes=max_bytes)
    for path in (tmp_path / "out").glob("*.tar"):
        with tarfile.open(path) as tar:
            assert path.stat().st_size <= max_bytes or len(tar.getmembers()) == 2


def test_subsets_and_pickles(shards):
    subset = shards.subset(np.array([3, 1])).subset(np.array([1, 0, 0]))
    for copy in (subset, pickle.loads(pickle.dumps(subset))):
        assert list(copy.ids) == [IDS[1], IDS[3], IDS[3]]
        np.testing.assert_array_equal(copy.durations, [0.5, 1.0, 1.0])
        np.testing.assert_array_equal(copy.audio(0, sample_rate=RATE), shards.audio(1, sample_rate=RATE))
        assert list(copy.column("utt2spk")) == ["s1", "s2", "s2"]
    with pytest.raises(ValueError, match="utterances 0 to 9 of 4"):
        shards.subset(np.array([0, 9]))


def test_equal_input_gives_equal_bytes(manifest, shards, tmp_path):
    write_shards(manifest, tmp_path / "again", max_bytes=45_000)
    files = sorted(path.relative_to(shards.path) for path in shards.path.rglob("*") if path.is_file())
    for name in files:
        if ".index" not in name.parts:
            assert (shards.path / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name


def test_wav_shards_hold_the_same_audio(manifest, tmp_path):
    write_shards(manifest, tmp_path / "wav", audio_format="wav")
    wav = ShardManifest.open(tmp_path / "wav")
    np.testing.assert_array_equal(wav.audio(1, sample_rate=RATE), manifest.audio(1, sample_rate=RATE))


def test_a_failure_leaves_nothing(manifest, tmp_path):
    (manifest.path / "2.flac").write_bytes(b"")
    with pytest.raises(AudioError, match=r"2\.flac"):
        write_shards(manifest, tmp_path / "out")
    assert not list(tmp_path.glob("out*"))


def test_bad_arguments_are_named(manifest, tmp_path):
    with pytest.raises(ValueError, match="'mp3'"):
        write_shards(manifest, tmp_path / "out", audio_format="mp3")
    with pytest.raises(ValueError, match="max_bytes is 0"):
        write_shards(manifest, tmp_path / "out", max_bytes=0)
    with pytest.raises(ValueError, match="exists; remove it or choose another"):
        write_shards(manifest, manifest.path)
    with pytest.raises(ValueError, match="in C order"):
        write_shards(manifest.subset(np.array([1, 0])), tmp_path / "out")


def test_damaged_shards_are_named(shards):
    last = max(shards.path.glob("*.tar"))
    content = last.read_bytes()
    last.write_bytes(content[:1000])
    with pytest.raises(AudioError, match=r"s2/d-ü\.flac: shard-0000\d\d\.tar ends before byte"):
        ShardManifest.open(shards.path).audio(3, sample_rate=RATE)
    last.unlink()
    with pytest.raises(AudioError, match="cannot be read"):
        ShardManifest.open(shards.path).audio(3, sample_rate=RATE)
    np.save(shards.path / "index.npy", np.zeros(3))
    with pytest.raises(ValueError, match="does not fit"):
        ShardManifest.open(shards.path)
    (shards.path / "shards.json").write_text("{}")
    with pytest.raises(ValueError, match="no whole folder of shards"):
        ShardManifest.open(shards.path)


def test_older_shards_do_not_say_which_recording(shards):
    path = shards.path / "shards.json"
    description = json.loads(path.read_text())
    assert description.pop("recordings") is False  # each utterance is its own
    path.write_text(json.dumps(description))
    with pytest.raises(ValueError, match="does not say of which recording an utterance is; write the shards again"):
        ShardManifest.open(shards.path).recording(0)


@pytest.mark.parametrize(("allowed", "held"), [(4000, 100), (16, 4), (2, 1), (resource.RLIM_INFINITY, 100)])
def test_as_many_shards_stay_open_as_the_system_allows(tmp_path, monkeypatch, allowed, held):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (allowed, allowed))
    paths = [tmp_path / f"{number}.tar" for number in range(100)]
    for number, path in enumerate(paths):
        path.write_bytes(bytes([number]))
    files, opened = shards_module._Files(paths), []
    open_one = os.open
    monkeypatch.setattr(os, "open", lambda *a: opened.append(a) or open_one(*a))
    for _ in range(2):
        assert [files.read(number, 0, 1, "")[0] for number in range(100)] == list(range(100))
        assert len(files._open) == held
    assert len(opened) == (100 if held == 100 else 200)


def test_threads_may_close_each_others_files(tmp_path):
    paths = [tmp_path / f"{number}.tar" for number in range(20)]
    for number, path in enumerate(paths):
        path.write_bytes(bytes([number]))
    files = shards_module._Files(paths)
    files._most = 1
    wanted = [number for _ in range(200) for number in range(20)]
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(lambda number: files.read(number, 0, 1, "")[0], wanted))
    assert read == wanted
    assert len(files._open) == 1
