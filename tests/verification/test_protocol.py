"""What trials a checkpoint was chosen on is known wherever its embeddings and scores go."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from audiossl.config import write_toml
from audiossl.interop.checkpoint import mark_best, save_checkpoint
from audiossl.verification.protocol import (
    Selection,
    is_test_list,
    judge_list,
    judge_selection,
    keep_selection,
    kept_selection,
    selection_of,
    shared_trials,
    shared_utterances,
)
from audiossl.verification.trials import read_trials


def listed(path, pairs):
    path.write_text("".join(f"{pair[0]} {pair[1]} target\n" for pair in pairs))
    return read_trials(path)


def experiment(folder, **run):
    for step in (2, 4):
        save_checkpoint(folder, step, {}, {}, keep=9)
    write_toml(folder / "config.toml", {"encoder": {"name": "xvector"}, "run": run})
    return folder


def test_shared_trials_against_sets_of_pairs(tmp_path):
    rng = np.random.default_rng(0)
    pairs = [[tuple(rng.choice(list("abcdefgh"), 2)) for _ in range(40)] for _ in range(2)]
    one, other = (listed(tmp_path / str(number), found) for number, found in enumerate(pairs))
    known = {frozenset(pair) for pair in pairs[1]}
    wanted = sum(frozenset(pair) in known for pair in pairs[0])
    assert 0 < wanted < 40
    assert shared_trials(one, other) == wanted


@pytest.mark.parametrize(
    ("used", "same"),
    [
        (["lk", "dc", "fe"], True),
        (["kl", "xy"], False),
        (["kl", "cd", "xy"], True),
        (["kl"], True),
        (["uv", "xy"], False),
    ],
)
def test_lists_are_the_same_where_most_of_either_is_in_the_other(tmp_path, used, same):
    scored = listed(tmp_path / "scored", ["kl", "cd", "ef", "gh"])
    listed(tmp_path / "used", used)
    found = judge_list(tmp_path / "used", "/dev", scored, what="it was fitted", allowed=True)
    assert found == ("test" if same else "/dev")
    if same:
        with pytest.raises(ValueError, match="it was fitted on these trials .* add --select-on-test"):
            judge_list(tmp_path / "used", "/dev", scored, what="it was fitted", allowed=False)


@pytest.mark.parametrize(
    ("used", "same"),
    [
        (["ac", "eg"], True),  # 4 of 8 are no more than half, but all of its own
        (["ac", "xy"], False),  # 2 of 8, 2 of 4
        (["ac", "ec", "ag", "xy", "zw", "uv"], False),  # 4 of 8, 4 of 10
        (["ac", "eg", "bx", "yz", "wv", "us"], True),  # 5 of 8
    ],
)
def test_lists_are_the_same_where_most_utterances_of_either_are_in_the_other(tmp_path, used, same):
    scored = listed(tmp_path / "scored", ["ab", "cd", "ef", "gh"])
    other = listed(tmp_path / "used", used)
    assert shared_trials(scored, other) == 0
    assert shared_utterances(scored, other) == len(set("abcdefgh") & set("".join(used)))
    found = judge_list(tmp_path / "used", "/dev", scored, what="it was chosen", allowed=True)
    assert found == ("test" if same else "/dev")
    if same:
        with pytest.raises(ValueError, match="it was chosen on trials of these utterances .* add --select-on-test"):
            judge_list(tmp_path / "used", "/dev", scored, what="it was chosen", allowed=False)


def test_selections_of_sources(tmp_path):
    place = experiment(tmp_path / "exp", dev="data/dev")
    steps = [str(place / "checkpoints" / f"step_0000000{step}") for step in (2, 4)]
    assert selection_of(str(place)) == Selection("none")
    assert selection_of(f"random:{place}") == Selection("none")
    assert selection_of(steps[0]) == Selection("unknown")  # chosen by hand
    mark_best(place, 2, {"wer": 10.0})  # by fine-tuning
    assert selection_of(str(place)) == Selection("data/dev")
    (place / "selection.trials").write_text("a b target\n")
    mark_best(place, 2, {"eer": 10.0, "trials": "/data/dev/trials"})
    chosen = Selection("/data/dev/trials", place / "selection.trials")
    assert selection_of(str(place)) == selection_of(steps[0]) == chosen
    assert selection_of(steps[1]) == Selection("unknown")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "config.json").write_text("{}")
    assert selection_of(str(tmp_path / "foreign")) == Selection("none")


def selected(folder, trials, **run):
    """An experiment whose best checkpoint was chosen on a list of one pair."""
    experiment(folder, **run)
    (folder / "selection.trials").write_text(f"{trials[0]} {trials[1]} target\n")
    mark_best(folder, 2, {"eer": 10.0, "trials": f"/{trials}"})
    return Selection(f"/{trials}", folder / "selection.trials")


def test_a_selection_knows_what_the_checkpoint_was_started_from(tmp_path, monkeypatch):
    first = selected(tmp_path / "exp/first", "ab")
    second = selected(tmp_path / "exp/second", "cd", init="exp/first")
    experiment(tmp_path / "exp/third", init="exp/second")
    experiment(tmp_path / "exp/random", init="random:exp/second")
    experiment(tmp_path / "exp/orphan", init="exp/gone")
    experiment(tmp_path / "exp/itself", init="exp/itself")  # named like the one that it began with
    head = experiment(tmp_path / "exp/head")
    encoder = {"name": "mhfa_speaker", "init": "exp/first"}
    write_toml(head / "config.toml", {"encoder": encoder, "run": {"init": "exp/second"}})
    monkeypatch.chdir(tmp_path / "exp")  # what `init` says is seen from where it was trained

    def found(name):
        return selection_of(str(tmp_path / "exp" / name))

    assert found("second") == replace(second, earlier=(first,))
    assert found("third") == Selection("none", earlier=(second, first))
    assert found("third/checkpoints/step_00000002") == Selection("unknown", earlier=(second, first))
    assert found("head") == Selection("none", earlier=(second, first))
    assert found("random") == Selection("none")
    assert found("orphan") == found("itself") == Selection("none", earlier=(Selection("unknown"),))
    scored = listed(tmp_path / "scored", ["xy"])
    said = {name: judge_selection(found(name), scored, allowed=False) for name in ("third", "random", "orphan")}
    assert said == {"third": "/cd, /ab", "random": "none", "orphan": "unknown"}
    test = listed(tmp_path / "test", ["ab"])
    with pytest.raises(
        ValueError, match=r"a checkpoint that this one was started from was selected on these trials \(/ab\)"
    ):
        judge_selection(found("head"), test, allowed=False)
    assert judge_selection(found("head"), test, allowed=True) == "test"


def test_every_list_is_kept_and_replaced(tmp_path):
    one, other = (selected(tmp_path / name, name) for name in ("ab", "cd"))
    folder = tmp_path / "out"
    folder.mkdir()
    keep_selection(Selection("none", earlier=(one, Selection("data/dev"), other)), folder)
    kept = kept_selection(folder)
    assert [item.by for item in (kept, *kept.earlier)] == ["none", "/ab", "data/dev", "/cd"]
    assert [item.trials and item.trials.read_text() for item in kept.earlier] == [
        "a b target\n", None, "c d target\n"
    ]  # fmt: skip
    keep_selection(kept, folder)  # onto itself
    assert kept_selection(folder) == kept
    keep_selection(Selection("unknown", earlier=(other,)), folder)
    assert [item.by for item in kept_selection(folder).earlier] == ["/cd"]
    assert {path.name for path in folder.iterdir()} == {"selection.json", "selection_1.trials"}
    (folder / "selection_dev.trials").write_text("a list of somebody's own\n")
    keep_selection(Selection("unknown"), folder)
    assert [path.name for path in folder.iterdir()] == ["selection_dev.trials"]


@pytest.mark.parametrize(
    ("place", "is_test"),
    [
        ("voxceleb1/all/trials_o_cleaned", True),
        ("voxceleb1/all/trials_h", True),
        ("cn_celeb/test/trials", True),
        ("superb_asv/dev/trials", False),
        ("exp/dev_trials", False),
        ("voxceleb1/dev/trials_o_part", False),
        ("link/trials", True),
    ],
)
def test_lists_for_testing_are_known_by_their_names(tmp_path, place, is_test):
    for folder in ("cn_celeb/test", "link"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "cn_celeb/test/trials").touch()
    (tmp_path / "link/trials").symlink_to(tmp_path / "cn_celeb/test/trials")
    assert is_test_list(tmp_path / place) == is_test


def test_a_selection_is_kept_and_replaced(tmp_path):
    (tmp_path / "dev").write_text("a b target\n")
    folder = tmp_path / "out"
    folder.mkdir()
    assert kept_selection(folder) == Selection("unknown")
    keep_selection(Selection("/data/dev", tmp_path / "dev"), folder)
    kept = kept_selection(folder)
    assert kept == Selection("/data/dev", folder / "selection.trials")
    assert json.loads((folder / "selection.json").read_text()) == {"selection": "/data/dev"}
    keep_selection(kept, folder)  # onto itself
    assert kept_selection(folder) == kept
    keep_selection(Selection("none"), folder)
    assert kept_selection(folder) == Selection("none")
    assert not (folder / "selection.trials").exists()
    keep_selection(Selection("unknown"), folder)
    assert not list(folder.iterdir())
