"""Trial lists in every format that is read, and each way in which one can be wrong."""

from __future__ import annotations

import numpy as np
import pytest

from audiossl.verification import _columns
from audiossl.verification.trials import read_trials

ROWS = [("a", "b", 1), ("b", "c/0.wav", 0), ("a", "b", 1), ("é", "a", 0)]
FORMATS = {
    "kaldi": lambda e, t, y: f"{e} {t} {'target' if y else 'nontarget'}\n",
    "voxceleb": lambda e, t, y: f"{y} {e} {t}\n",
    "numbers last": lambda e, t, y: f"{e}\t{t}  {y}\r\n",
    "words first": lambda e, t, y: f"{'target' if y else 'nontarget'} {e} {t}\n",
}


@pytest.mark.parametrize("form", FORMATS)
def test_formats(tmp_path, form, monkeypatch):
    monkeypatch.setattr(_columns, "_BLOCK", 20)  # several blocks
    path = tmp_path / "trials"
    path.write_bytes("".join(FORMATS[form](*row) for row in ROWS).encode())
    trials = read_trials(path)
    assert sorted(trials.names) == ["a", "b", "c/0.wav", "é"]
    read = [
        (trials.names[e], trials.names[t], int(y))
        for e, t, y in zip(trials.enrol, trials.test, trials.labels, strict=True)
    ]
    assert read == ROWS
    assert trials.enrol.dtype == trials.test.dtype == np.int32
    assert trials.labels.dtype == bool
    assert len(trials) == 4
    assert trials.place(2) == f"{path}:3"


def test_an_utterance_may_be_called_one(tmp_path):
    path = tmp_path / "trials"
    path.write_text("1 2 target\n0 1 nontarget\n")
    trials = read_trials(path)
    assert [trials.names[number] for number in (*trials.enrol, *trials.test)] == ["1", "0", "2", "1"]
    path.write_text("1 2 3\n0 1 2\n")
    assert read_trials(path).labels.tolist() == [True, False]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "trials: is empty; "),
        (b"a b target\na b\n", ":2: 'a b' is not `enrol test target"),
        (b"a b target\n\na b target\n", ":2: '' is not "),
        (b"a b target\nc d target x\ne target\n", ":2: 'c d target x' is not "),
        (b"a b target\nc d impostor\n", ":2: 'impostor' is no label"),
        (b"a b target\n1 c d\n", ":2: 'd' is no label; .* where the first line has it"),
        (b"a b c\n", ":1: 'a b c' has no label"),
        (b"1 b 0\n", ":1: a label stands first and last"),
        (b"a b target\n\xff b target\n", ":2: not UTF-8"),
        (b"a b target\na \xff target\n\xff b target\n", ":2: not UTF-8"),
    ],
)
def test_faults_name_file_line_and_cure(tmp_path, content, message):
    path = tmp_path / "trials"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as fault:
        read_trials(path)
    assert "\n" not in str(fault.value)
    assert ";" in str(fault.value)


@pytest.mark.parametrize("pair", ["a b", "b a"])
def test_contradictory_labels_name_both_lines(tmp_path, pair):
    path = tmp_path / "trials"
    path.write_text(f"a b target\nc d nontarget\na b target\n{pair} nontarget\n")
    with pytest.raises(ValueError, match=rf"trials:4: '{'a b'}' is nontarget, and target in line 1; remove") as fault:
        read_trials(path)
    assert "\n" not in str(fault.value)
    path.write_text(f"c d nontarget\n{pair} nontarget\na b target\n")
    with pytest.raises(ValueError, match=r"trials:3: '.*' is target, and nontarget in line 2"):
        read_trials(path)


def test_repeats_count_twice_and_an_utterance_may_be_its_own_target(tmp_path):
    path = tmp_path / "trials"
    path.write_text("a b target\nb a target\na a target\nc a nontarget\nc a nontarget\n")
    trials = read_trials(path)
    assert len(trials) == 5
    assert trials.pairs[0] == trials.pairs[1]
    assert len(set(trials.pairs.tolist())) == 3
    path.write_text("a b target\nb b nontarget\n")
    with pytest.raises(ValueError, match="trials:2: 'b' is a non-target of itself; remove"):
        read_trials(path)


def test_own_trials_are_those_of_an_utterance_with_itself_or_with_a_mean_that_has_it(tmp_path):
    path = tmp_path / "trials"
    path.write_text("m a target\nm c target\nb m nontarget\na a target\nn a nontarget\nn c target\n")
    models = {"m": ["a", "b"], "n": ["b", "c", "never"], "never tried": ["a"]}
    assert read_trials(path, models).own.tolist() == [True, False, False, True, False, True]
    assert read_trials(path).own.tolist() == [False, False, False, True, False, False]


def test_missing_file(tmp_path):
    with pytest.raises(ValueError, match="no such file"):
        read_trials(tmp_path / "nothing")


def test_line_numbers_count_on_over_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(_columns, "_BLOCK", 16)
    path = tmp_path / "trials"
    path.write_text("a b target\n" * 50 + "a b\n")
    with pytest.raises(ValueError, match=":51: 'a b' is not"):
        read_trials(path)


def test_a_line_ends_where_the_file_ends_and_a_carriage_return_is_a_space(tmp_path):
    path = tmp_path / "trials"
    path.write_bytes(b"a b\rtarget\n  c\x0bd \ttarget  ")
    trials = read_trials(path)
    assert sorted(trials.names) == ["a", "b", "c", "d"]
    assert len(trials) == 2
