"""`audiossl trials`: what it writes and says, and one line for each misuse."""

from __future__ import annotations

import json

import numpy as np
import pytest
from command import audiossl, complains

from audiossl.data.audio import write_audio
from audiossl.data.writer import CorpusUtterance, write_data_dir
from audiossl.verification.trials import read_trials


@pytest.fixture
def data(tmp_path):
    write_audio(tmp_path / "a.wav", 0.1 * np.ones(160), 16000)
    names = [f"s{speaker}-{word}-{take}" for speaker in range(3) for word in "xy" for take in range(2)]
    rows = [CorpusUtterance(n, n, tmp_path / "a.wav", n[:2], columns={"utt2keyword": n[3]}) for n in names]
    write_data_dir(rows, tmp_path / "data")
    return tmp_path / "data"


def run(*words):
    return audiossl("trials", *words)


def test_all_pairs_with_different_words(data):
    code, out, _ = run(data, "--out", data / "trials", "--different", "utt2keyword", "--json")
    assert code == 0
    # 3 speakers x 2 takes x 2 takes of the other word; 3 pairs of speakers x 2 orders of the words x 4.
    assert json.loads(out) == {"trials": str(data / "trials"), "target": 12, "nontarget": 24}
    trials = read_trials(data / "trials")
    assert all(trials.names[i][3] != trials.names[j][3] for i, j in zip(trials.enrol, trials.test, strict=True))


def test_a_sample_depends_on_the_seed_alone(data, tmp_path):
    texts = []
    for number, seed in enumerate((["--seed", "0"], [], ["--seed", "3"])):
        place = tmp_path / f"t{number}"
        code, out, _ = run(data, "--out", place, "--random", "12", *seed)
        assert (code, out) == (0, f"{place}: 6 target and 6 non-target trials\n")
        texts.append(place.read_text())
    assert texts[0] == texts[1] != texts[2]


def test_another_list_is_not_replaced(data, tmp_path):
    words = [data, "--out", tmp_path / "t", "--random", "12"]
    for seed in ("0", "0"):  # the same again
        assert run(*words, "--seed", seed)[0] == 0
    before = (tmp_path / "t").read_text()
    code, out, err = run(*words, "--seed", "3")
    assert (code, out) == (1, "")
    assert err.endswith("t: exists already and holds something else; choose another --out, or --overwrite\n")
    assert (tmp_path / "t").read_text() == before
    assert [path.name for path in tmp_path.glob("t*")] == ["t"]
    assert run(*words, "--seed", "3", "--overwrite")[0] == 0
    assert (tmp_path / "t").read_text() != before


def test_faults_are_one_line_each(data, tmp_path):
    cases = (
        ([data, "--out", tmp_path / "t", "--seed", "1"], 2, "--seed goes with --random"),
        ([data, "--out", tmp_path / "t", "--random", "6", "--seed", "-1"], 2, "audiossl trials: --seed -1 is negative"),
        ([tmp_path / "none", "--out", tmp_path / "t"], 1, "no data directory"),
        ([data, "--out", tmp_path / "t", "--random", "1000"], 1, "ask for 2 to 37"),
        ([data, "--out", tmp_path / "t", "--different", "utt2x"], 1, "utt2x: no such file"),
    )
    for words, status, message in cases:
        assert message in complains("trials", *words, status=status)
        assert not (tmp_path / "t").exists()
