"""Trial lists against loops over all pairs; random ones against counting and against uniformity."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import numpy as np
import pytest

from audiossl.data.audio import write_audio
from audiossl.data.manifest import Manifest
from audiossl.data.writer import CorpusUtterance, write_data_dir
from audiossl.verification import make_trials as module
from audiossl.verification.make_trials import all_pairs, count_pairs, make_trials, random_pairs, rename_trials
from audiossl.verification.trials import read_trials

SPEAKER = np.array([0, 0, 0, 1, 1, 2, 0, 1, 2, 3])
WORD = np.array([0, 1, 1, 0, 0, 2, 2, 1, 2, 0])


def slow_pairs(speaker, value):
    """(target, non-target) sets of (enrol, test)."""
    found = {True: set(), False: set()}
    for i, j in combinations(range(len(speaker)), 2):
        if value is None or value[i] != value[j]:
            found[bool(speaker[i] == speaker[j])].add((i, j))
    return found[True], found[False]


def as_set(pairs):
    rows = list(zip(*(side.tolist() for side in pairs), strict=True))
    assert len(set(rows)) == len(rows)
    return set(rows)


@pytest.fixture
def manifest(tmp_path):
    rows = []
    write_audio(tmp_path / "a.wav", 0.1 * np.ones(160), 16000)
    for index, (speaker, word) in enumerate(zip(SPEAKER, WORD, strict=True)):
        name = f"s{speaker}-{index}"
        rows.append(CorpusUtterance(name, name, tmp_path / "a.wav", f"s{speaker}", columns={"utt2keyword": f"w{word}"}))
    write_data_dir(rows, tmp_path / "data")
    return Manifest.open(tmp_path / "data")


@pytest.mark.parametrize("value", [None, WORD])
@pytest.mark.parametrize("block", [1, 25, 1 << 20])
def test_all_pairs_are_those_of_a_loop(value, block, monkeypatch):
    monkeypatch.setattr(module, "_BLOCK", block)
    target, nontarget = slow_pairs(SPEAKER, value)
    assert count_pairs(SPEAKER, value) == (len(target), len(nontarget))
    blocks = list(all_pairs(SPEAKER, value))
    pairs = tuple(np.concatenate(side) for side in zip(*blocks, strict=True))
    assert as_set(pairs) == target | nontarget
    assert list(zip(*map(list, pairs), strict=True)) == sorted(target | nontarget)


@pytest.mark.parametrize("value", [None, WORD])
def test_random_pairs_can_be_all_of_a_kind(value):
    target, nontarget = slow_pairs(SPEAKER, value)
    count = 2 * min(len(target), len(nontarget))
    drawn = as_set(random_pairs(SPEAKER, value, count, np.random.default_rng(0)))
    smaller = min(target, nontarget, key=len)
    assert smaller <= drawn
    assert len(drawn) == count
    assert drawn <= target | nontarget


def test_random_pairs_are_uniform():
    target, nontarget = slow_pairs(SPEAKER, WORD)
    rng = np.random.default_rng(1)
    counts = Counter()
    rounds = 4000
    for _ in range(rounds):
        counts.update(as_set(random_pairs(SPEAKER, WORD, 8, rng)))
    for kind in (target, nontarget):
        expected = rounds * 4 / len(kind)
        seen = np.array([counts[pair] for pair in sorted(kind)])
        assert seen.sum() == rounds * 4
        assert np.abs(seen - expected).max() < 5 * np.sqrt(expected)


def test_numbers_of_pairs_are_exact_where_the_root_is_not():
    groups = np.zeros(3_000_001, np.int64)
    triangles = module._Triangles.of(groups)
    later = np.array([1, 2, 2_999_999, 3_000_000])
    for earlier in (np.zeros(4, np.int64), later - 1):
        i, j = triangles.pairs(later * (later - 1) // 2 + earlier)
        np.testing.assert_array_equal(i, earlier)
        np.testing.assert_array_equal(j, later)


def test_a_list_of_a_data_directory(manifest, tmp_path):
    out = tmp_path / "new" / "trials"
    counts = make_trials(manifest, out, different="utt2keyword", rng=np.random.default_rng(0))
    trials = read_trials(out)
    assert counts == (trials.labels.sum(), (~trials.labels).sum())
    words = dict(zip(manifest.ids, manifest.column("utt2keyword"), strict=True))
    target, nontarget = slow_pairs(SPEAKER, WORD)
    assert len(trials) == len(target | nontarget)
    for i, j, label in zip(trials.enrol, trials.test, trials.labels, strict=True):
        one, other = trials.names[i], trials.names[j]
        assert one < other
        assert words[one] != words[other]
        assert label == (one[:2] == other[:2])
    assert not list(out.parent.glob("*.partial"))


def test_drawn_lists_are_balanced_and_depend_on_the_seed(manifest, tmp_path):
    texts = []
    for number, seed in enumerate((0, 0, 1)):
        out = tmp_path / f"trials{number}"
        assert make_trials(manifest, out, random=9, rng=np.random.default_rng(seed)) == (4, 5)
        assert read_trials(out).labels.sum() == 4
        texts.append(out.read_text())
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"random": 1}, "ask for 2 to 21"),
        ({"random": 22}, "22 trials, half of them targets, cannot be drawn from 10 target and 35 non-target pairs"),
        ({"different": "utt2lang"}, "utt2lang: no such file; the columns of this directory are"),
        ({"different": "utt2spk"}, "no two utterances of one speaker whose utt2spk differs"),
    ],
)
def test_impossible_lists_are_refused(manifest, tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        make_trials(manifest, tmp_path / "trials", rng=np.random.default_rng(0), **settings)
    assert not (tmp_path / "trials").exists()


def test_too_many_pairs_are_refused(manifest, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_MOST", 44)
    with pytest.raises(ValueError, match="45 pairs are more than 44; draw some with --random N"):
        make_trials(manifest, tmp_path / "trials", rng=np.random.default_rng(0))


def test_published_lists_are_renamed(tmp_path):
    (tmp_path / "list").write_text("1 a/1.wav a/2.wav\n0 a/1.wav b/1.wav\n")
    ids = {"a-1", "a-2", "b-1"}
    rename_trials(tmp_path / "list", tmp_path / "out", ids, lambda word: word[:-4].replace("/", "-"))
    assert (tmp_path / "out").read_text() == "a-1 a-2 target\na-1 b-1 nontarget\n"
    with pytest.raises(ValueError, match=r"list:2: b/1\.wav is not among the recordings, nor are 0 others"):
        rename_trials(tmp_path / "list", tmp_path / "out", {"a-1", "a-2"}, lambda word: word[:-4].replace("/", "-"))
