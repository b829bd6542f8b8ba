"""Score files: written, read, and matched with trials in another order."""

from __future__ import annotations

import numpy as np
import pytest

from audiossl.verification import scores as module
from audiossl.verification.scores import read_scores, scores_of, write_scores
from audiossl.verification.trials import read_trials


@pytest.fixture
def trials(tmp_path):
    (tmp_path / "trials").write_text("a b target\nb a target\nc a target\na b target\nd c nontarget\n")
    return read_trials(tmp_path / "trials")


def test_round_trip_keeps_every_float32(trials, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_BLOCK", 2)
    values = np.array([1 / 3, -1e-7, 12345.678, 1 / 3, 0], dtype=np.float32)
    write_scores(tmp_path / "scores", trials, values)
    assert (tmp_path / "scores").read_text().splitlines()[0] == "a b 0.333333343"
    got = scores_of(trials, read_scores(tmp_path / "scores")).astype(np.float32)
    np.testing.assert_array_equal(got, values)
    assert not (tmp_path / "scores.partial").exists()


def test_a_byte_order_mark_is_passed_over(tmp_path):
    (tmp_path / "trials").write_bytes(b"\xef\xbb\xbf1 a b\n0 a c\n")
    (tmp_path / "scores").write_bytes(b"\xef\xbb\xbfa b 2\na c 1\n")
    found = read_trials(tmp_path / "trials")
    assert (found.names, found.labels.tolist()) == (["a", "b", "c"], [True, False])
    np.testing.assert_array_equal(scores_of(found, read_scores(tmp_path / "scores")), [2, 1])
    (tmp_path / "scores").write_bytes(b"\xef\xbb\xbf")
    with pytest.raises(ValueError, match="scores: is empty"):
        read_scores(tmp_path / "scores")


def test_any_order_and_further_pairs(trials, tmp_path):
    (tmp_path / "scores").write_text("d c 4\nx y 9\nc a 3\nb a 2\nc d 8\na b 1\na b 1.0\na x 7\n")
    np.testing.assert_array_equal(scores_of(trials, read_scores(tmp_path / "scores")), [1, 2, 3, 1, 4])


@pytest.mark.parametrize("further", ["target", "target 3.1415 2.7183 0.1000 -0.2000"])
def test_columns_after_the_score_are_left_aside_and_said(trials, tmp_path, caplog, further):
    """As in WeSpeaker's files, before and after score normalisation."""
    lines = [f"{pair} {value} {further}\n" for value, pair in enumerate(("a b", "b a", "c a", "d c"))]
    (tmp_path / "scores").write_text("".join(lines))
    np.testing.assert_array_equal(scores_of(trials, read_scores(tmp_path / "scores")), [0, 1, 2, 0, 3])
    width = 3 + len(further.split())
    assert caplog.messages == [
        f"{tmp_path / 'scores'}: lines of {width} words: what follows `enrol test score` is not read"
    ]
    (tmp_path / "scores").write_text("".join([*lines, "d c 3\n"]))
    with pytest.raises(ValueError, match=rf"scores:5: 'd c 3' is not `enrol test score` and {width - 3} more words"):
        read_scores(tmp_path / "scores")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a b 1\nb a 2\nc a 3\n", "trials:5: 'd c' has no score in .*scores; score them, or give"),
        (
            "a b 1\nb a 2\na c 3\n",
            "trials:3: 'c a' and 1 further trials have no score in .*, which holds 1 as `test enrol`; exch",
        ),
        (
            "a b 1\nb a 2\nc a 3\nc d 4\n",
            "trials:5: 'd c' has no score in .*, which holds 1 as `test enrol`; exchange the columns",
        ),
        ("a b 1\n", "trials:2: 'b a' and 2 further"),
        ("x y 1\n", "trials:1: 'a b' and 4 further"),
        ("a b 1\nb a 2\na b 1.5\n", "scores:3: 'a b' has another score further up"),
        ("a b 1\nb a high\n", "scores:2: 'high' is no finite score"),
        ("a b 1\nb a 1_0\n", "scores:2: '1_0' is no finite score"),
        ("a b 1\nb a nan\n", "scores:2: 'nan' is no finite score"),
        ("a b 1\nb a -1e308\n", "scores:2: the score -1e308 is beyond 1e.30; scale all scores down"),
        ("a b 1\nb a\n", "scores:2: 'b a' is not `enrol test score`"),
        ("a b 1\nb a 2 target\n", "scores:2: 'b a 2 target' is not `enrol test score`;"),
        ("a b target 1\n", "scores:1: 'target' is no finite score"),
    ],
)
def test_faults_of_score_files(trials, tmp_path, content, message):
    (tmp_path / "scores").write_text(content)
    with pytest.raises(ValueError, match=message):
        scores_of(trials, read_scores(tmp_path / "scores"))
