"""Subset and combine carry every file, and what they choose is what was asked for."""

from __future__ import annotations

import itertools
import json
import re
import shutil

import numpy as np
import pytest
from kaldi_dirs import RATE, make

from audiossl.data import edit
from audiossl.data.manifest import Manifest
from audiossl.data.validate import faults

IDS = ["s0-0", "s0-1", "s0-2", "s1-0", "s1-1", "s1-2"]


@pytest.fixture
def data(tmp_path):
    return make(tmp_path)


def files(folder):
    return {
        p.relative_to(folder).as_posix(): p.read_text()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and ".index" not in p.parts
    }


def lines_of(text, ids):
    return "".join(line for line in text.splitlines(keepends=True) if line.split()[0] in ids)


def renamed(data, old="s", new="t"):
    """The same directory with other ids."""
    for path in data.rglob("*"):
        if path.is_file() and path.suffix != ".json" and ".index" not in path.parts:
            words = [line.split(" ") for line in path.read_text().splitlines()]
            names = [
                [w.replace(old, new, 1) if w.startswith((f"{old}0", f"{old}1")) else w for w in line] for line in words
            ]
            path.write_text("".join(" ".join(line) + "\n" for line in names))
    return data


@pytest.mark.parametrize("segments", [True, False])
def test_a_subset_carries_every_file(tmp_path, segments):
    data = make(tmp_path, segments=segments)
    (data / "spk2gender").write_text("s0 f\ns1 m\n")
    (data / "README").write_text("notes\n")
    edit.subset(data, np.array([2, 0]), tmp_path / "part")
    before, after = files(data), files(tmp_path / "part")
    assert set(after) == set(before)
    for name in ("segments", "utt2spk", "utt2dur", "text", "utt2lang", "phones.ctm", "units/km4"):
        if name in before:
            assert after[name] == lines_of(before[name], ["s0-0", "s0-2"])
    assert after["wav.scp"] == lines_of(before["wav.scp"], ["s0"] if segments else ["s0-0", "s0-2"])
    assert after["spk2utt"] == "s0 s0-0 s0-2\n"
    assert after["spk2gender"] == "s0 f\n"
    assert after["trials"] == ""
    assert after["README"] == "notes\n"
    assert list(faults(tmp_path / "part", check_audio=True)) == []
    assert np.array_equal(
        Manifest.open(tmp_path / "part").audio(1, sample_rate=RATE), Manifest.open(data).audio(2, sample_rate=RATE)
    )


def test_trials_stay_where_both_utterances_do(data, tmp_path):
    edit.subset(data, np.array([0, 1]), tmp_path / "part")
    assert (tmp_path / "part" / "trials").read_text() == "s0-0 s0-1 target\n"


def test_counts_of_units_are_made_anew(data, tmp_path):
    card = {"rate": 10.0, "codebook_size": 4, "codebook_hash": "x", "utterances": 6, "labels": 60, "left_out": 0}
    (data / "units" / "km4.json").write_text(json.dumps(card))
    labels = (data / "units" / "km4").read_text().splitlines(keepends=True)
    (data / "units" / "km4").write_text("".join(labels[1:]))
    edit.subset(data, np.array([0, 1, 2]), tmp_path / "part")
    made = json.loads((tmp_path / "part" / "units" / "km4.json").read_text())
    assert made == card | {"utterances": 2, "labels": 20, "left_out": 1}


def test_a_relative_path_still_leads_to_its_file(data, tmp_path, monkeypatch):
    (data / "wav.scp").write_text("s0 ../audio/s0.wav\ns1 audio/s1.wav\n")
    monkeypatch.chdir(tmp_path)
    edit.subset(data, np.arange(6), tmp_path / "deep" / "er" / "part")
    written = (tmp_path / "deep" / "er" / "part" / "wav.scp").read_text()
    assert written == f"s0 {data}/../audio/s0.wav\ns1 audio/s1.wav\n"


def test_choosing(data, tmp_path):
    manifest = Manifest.open(data)
    (tmp_path / "list").write_text("s1-1 anything\ns0-2\ns1-1\n")
    assert edit.listed(manifest, tmp_path / "list").tolist() == [2, 4]
    assert edit.first(manifest, 2).tolist() == [0, 1]
    draws = {tuple(edit.drawn(manifest, 3, seed).tolist()) for seed in range(20)}
    assert all(len(set(draw)) == 3 and list(draw) == sorted(draw) for draw in draws)
    assert len(draws) > 5
    assert edit.drawn(manifest, 3, 7).tolist() == edit.drawn(manifest, 3, 7).tolist()


@pytest.mark.parametrize("count", [1, 2, 4, 6])
def test_parts_are_equal_and_lose_nothing(data, count):
    manifest = Manifest.open(data)
    parts = [edit.part(manifest, f"{k}/{count}").tolist() for k in range(1, count + 1)]
    assert list(itertools.chain.from_iterable(parts)) == [0, 1, 2, 3, 4, 5]
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("text", ["0/2", "3/2", "1/7", "1", "1/2/3", "-1/2", "a/b", ""])
def test_parts_that_cannot_be(data, text):
    with pytest.raises(ValueError, match=f"data: '{text}' is no part of 6 utterances; give K/N, such as 1/2"):
        edit.part(Manifest.open(data), text)


def test_choosing_per_speaker(tmp_path):
    data = make(tmp_path, speakers=3, per_speaker=4)
    (data / "utt2spk").write_text((data / "utt2spk").read_text().replace("s1-3 s1", "s1-3 s0"))
    manifest = Manifest.open(data)
    speakers = np.array(list(manifest.column("utt2spk")))
    for count in (1, 2, 4, 9):
        chosen = edit.per_speaker(manifest, count, 1)
        assert chosen.tolist() == sorted(set(chosen.tolist()))
        sizes = {s: int((speakers == s).sum()) for s in ("s0", "s1", "s2")}
        assert {s: int((speakers[chosen] == s).sum()) for s in sizes} == {s: min(n, count) for s, n in sizes.items()}
    assert len({tuple(edit.per_speaker(manifest, 1, seed).tolist()) for seed in range(20)}) > 5


def test_choosing_speakers(tmp_path):
    manifest = Manifest.open(make(tmp_path, speakers=3, per_speaker=4))
    speakers = np.array(list(manifest.column("utt2spk")))
    draws = {tuple(edit.of_speakers(manifest, 2, seed).tolist()) for seed in range(20)}
    assert len(draws) == 3
    for draw in draws:
        kept = speakers[list(draw)]
        assert len(set(kept)) == 2
        assert len(kept) == 8
    for count in (0, 4):
        with pytest.raises(ValueError, match=f"{count} of 3 speakers cannot be chosen"):
            edit.of_speakers(manifest, count, 0)


def test_choosing_by_seconds(tmp_path):
    data = make(tmp_path)
    (data / "utt2dur").write_text("".join(f"{name} {0.3 * (i + 1)}\n" for i, name in enumerate(IDS)))
    manifest = Manifest.open(data)
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(6)
        total, expected = 0.0, []
        for index in order:
            if total + 0.3 * (index + 1) > 3.0 + 1e-9:
                break
            total += 0.3 * (index + 1)
            expected.append(int(index))
        assert edit.seconds_of(manifest, 3.0, seed).tolist() == sorted(expected)


def test_choices_that_cannot_be(data, tmp_path):
    manifest = Manifest.open(data)
    (tmp_path / "list").write_text("s0-0\nx\n")
    with pytest.raises(ValueError, match=r"list:2: 'x' is not in .*data"):
        edit.listed(manifest, tmp_path / "list")
    for count in (0, 7, -1):
        with pytest.raises(ValueError, match="of 6 utterances cannot be chosen"):
            edit.first(manifest, count)
        with pytest.raises(ValueError, match="of 6 utterances cannot be chosen"):
            edit.drawn(manifest, count, 0)
    with pytest.raises(ValueError, match="at least 1"):
        edit.per_speaker(manifest, 0, 0)
    with pytest.raises(ValueError, match="no utterance is chosen"):
        edit.subset(data, edit.seconds_of(manifest, 0.5, 0), tmp_path / "part")
    (tmp_path / "part").mkdir()
    with pytest.raises(ValueError, match="exists"):
        edit.subset(data, np.arange(2), tmp_path / "part")


def test_shards_are_refused(tmp_path):
    (tmp_path / "shards.json").write_text("{}")
    with pytest.raises(ValueError, match="a folder of shards"):
        edit.subset(tmp_path, np.arange(2), tmp_path / "part")
    with pytest.raises(ValueError, match="a folder of shards"):
        edit.combine([tmp_path], tmp_path / "all")


def test_the_parts_together_are_the_whole(data, tmp_path):
    edit.subset(data, np.array([0, 3, 4]), tmp_path / "a")
    edit.subset(data, np.array([1, 2, 5]), tmp_path / "b")
    assert edit.combine([tmp_path / "b", tmp_path / "a"], tmp_path / "all") == []
    whole, again = files(data), files(tmp_path / "all")
    for name in set(whole) - {"trials", "units/km4.json"}:
        assert again[name] == whole[name]
    assert set(again) == set(whole)
    assert list(faults(tmp_path / "all")) == []


def test_with_and_without_segments_and_text(tmp_path):
    one = make(tmp_path / "1")
    two = renamed(make(tmp_path / "2", segments=False))
    for name in ("text", "utt2dur"):
        (two / name).unlink()
    (two / "notes").touch()
    said = edit.combine([one, two], tmp_path / "all")
    assert said == [f"text is left out: it is not in {two}", f"{two / 'notes'} is left out"]
    assert not (tmp_path / "all" / "text").exists()
    assert "s1-2 s1 2 3\nt0-0 t0-0 0 1\n" in (tmp_path / "all" / "segments").read_text()
    assert (tmp_path / "all" / "utt2dur").read_text().count(" 1\n") == 12
    assert (tmp_path / "all" / "trials").read_text().count("\n") == 4
    assert list(faults(tmp_path / "all", check_audio=True)) == []


def test_directories_that_do_not_fit(data, tmp_path):
    with pytest.raises(ValueError, match=r"utterance 's0-0' is in .* and in "):
        edit.combine([data, data], tmp_path / "all")
    again = shutil.copytree(data, tmp_path / "again")
    with pytest.raises(ValueError, match=re.escape(f"is in {again} and in {data};")):
        edit.combine([again, data], tmp_path / "all")
    with pytest.raises(ValueError, match="at least one"):
        edit.combine([], tmp_path / "all")
    other = renamed(make(tmp_path / "2"))
    (other / "units" / "km4.json").write_text(json.dumps({"rate": 10.0, "codebook_size": 5}))
    with pytest.raises(ValueError, match=r"km4\.json: codebook_size is 5, in .* 4; make the units of both"):
        edit.combine([data, other], tmp_path / "all")
    (other / "units" / "km4.json").unlink()
    with pytest.raises(ValueError, match="audiossl units apply"):
        edit.combine([data, other], tmp_path / "all")
    assert not (tmp_path / "all").exists()
    assert not (tmp_path / "all.partial").exists()


def test_one_recording_id_for_two_files(data, tmp_path):
    edit.subset(data, np.array([0]), tmp_path / "a")
    edit.subset(data, np.array([1]), tmp_path / "b")
    (tmp_path / "b" / "wav.scp").write_text("s0 /other.wav\n")
    with pytest.raises(ValueError, match=r"wav\.scp: 's0' is '/other\.wav' in one directory"):
        edit.combine([tmp_path / "a", tmp_path / "b"], tmp_path / "all")


def test_unsorted_phones_and_bad_trials_are_named(data, tmp_path):
    (data / "phones.ctm").write_text("s0-1 1 0 1 A\ns0-0 1 0 1 A\n")
    with pytest.raises(ValueError, match=r"phones\.ctm:2: 's0-0' comes after 's0-1'"):
        edit.subset(data, np.arange(2), tmp_path / "part")
    (data / "phones.ctm").unlink()
    (data / "trials").write_text("nothing\n")
    with pytest.raises(ValueError, match="trials:1: not a trial"):
        edit.subset(data, np.arange(2), tmp_path / "part")
