"""The files beside a score: each printed number again from what is written, by a few lines of its own, and never files without their score."""

from __future__ import annotations

from dataclasses import replace

import jiwer
import pytest
import torch
from frame_runs import job, make_corpus, phones, train

from audiossl.data.json_files import read_json
from audiossl.superb import score as score_module
from audiossl.superb.answers import NAMES, of_folds
from audiossl.superb.score import Score
from audiossl.train.ledger import Cost

GIVEN = {
    "task": "ks", "upstream": "fbank", "values": {"accuracy": 90.0}, "metric": "accuracy", "learning_rate": 1e-3, "seed": 0,
    "selection": "dev accuracy", "step": 50, "parameters": 10, "cost": Cost(5, 500, 2.0, 10**9, None),
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("corpus"))


def table(path):
    """Kaldi's lines: first words to the rest."""
    lines = path.read_text().splitlines()
    assert lines == sorted(lines, key=lambda line: line.split()[0])
    return {line.partition(" ")[0]: line.partition(" ")[2] for line in lines}


def texts(folder, kind="hyp"):
    hyp, ref = table(folder / f"test.{kind}"), table(folder / "test.ref")
    assert list(hyp) == list(ref) == ["test0", "test1", "test2"]
    return list(ref.values()), list(hyp.values())


def test_texts_give_the_error_rates(data, tmp_path):
    asr = job(learning_rates=[1e-2, 1e-6], steps=30, eval_every=15)
    for score in train([asr], data, tmp_path) + train([phones(steps=30, eval_every=15)], data, tmp_path):
        score.write(tmp_path / score.task)
    said = texts(tmp_path / "asr")
    asr, pr = (read_json(tmp_path / name / "results.json") for name in ("asr", "pr"))
    values = {row["name"]: row["value"] for row in (*asr, *pr)}
    assert values["superb asr wer"] == pytest.approx(100 * jiwer.wer(*said))
    assert values["superb asr cer"] == pytest.approx(100 * jiwer.cer(*said))
    assert values["superb pr per"] == pytest.approx(100 * jiwer.wer(*texts(tmp_path / "pr")))
    assert (tmp_path / "pr" / "test.ref").read_text().startswith("test0 y e s n o\n")


def test_slots_and_translations_are_texts_too(data, tmp_path):
    pytest.importorskip("sacrebleu", reason="translation needs the extra `st`")
    tables = {"sf": "slot_filling", "st": "speech_translation", "ood": "ood_recognition"}
    for name, task in tables.items():
        (score,) = train(job(name, task, steps=2, eval_every=2), data, tmp_path)
        score.write(tmp_path / name)
        assert texts(tmp_path / name)[0] == [
            f"B-word {text} E-word" if name == "sf" else text for text in ("yes no", "no", "so yes")
        ]


def test_a_run_that_is_only_scored_again_says_the_same(data, tmp_path):
    first, again = (train(job(), data, tmp_path)[0] for _ in range(2))
    assert {name: list(lines) for name, lines in first.answers.items()} == {
        name: list(lines) for name, lines in again.answers.items()
    }


def test_those_of_an_earlier_score_go_before_a_new_one(tmp_path, monkeypatch):
    Score(**GIVEN, answers={"hyp": ["u a"], "lm.hyp": iter(["u b"])}).write(tmp_path)
    assert (tmp_path / "test.hyp").read_text() == "u a\n"
    (tmp_path / "test.notes").write_text("mine")
    Score(**GIVEN, answers={"hyp": ["u é"]}).write(tmp_path)
    assert (tmp_path / "test.hyp").read_bytes() == "u é\n".encode()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results.json", "test.hyp", "test.notes"]

    def fail(*_, **__):
        assert not any((tmp_path / name).exists() for name in NAMES)
        raise OSError("full")

    monkeypatch.setattr(score_module, "add_result", fail)
    with pytest.raises(OSError, match="full"):
        Score(**GIVEN, answers={"hyp": ["u c"]}).write(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results.json", "test.notes"]


def test_answers_that_cannot_be_made_leave_the_earlier_ones(tmp_path):
    Score(**GIVEN, answers={"hyp": ["u a"]}).write(tmp_path)
    with pytest.raises(ZeroDivisionError):
        Score(**GIVEN, answers={"hyp": (f"{1 / number}" for number in (1, 0))}).write(tmp_path)
    assert (tmp_path / "test.hyp").read_text() == "u a\n"
    assert len(read_json(tmp_path / "results.json")) == 1
    assert not list(tmp_path.glob("*.partial"))


def test_lines_end_with_their_fold():
    found = of_folds([("x y", {"predictions": ["u a b"]}), ("z", {"predictions": iter(["v a a", "w b a"])})])
    assert list(found["predictions"]) == ["u a b x_y", "v a a z", "w b a z"]
    assert list(of_folds([("", {"predictions": ["u a b"]})])["predictions"]) == ["u a b"]


def test_a_head_that_test_chose_is_not_asked_again(data, tmp_path):
    given = job("sf", "slot_filling", learning_rates=[1e-2, 1e-3])
    given = replace(given, task_class=type("Chosen", (given.task_class,), {"selects_on_test": True}))
    (score,) = train(given, data, tmp_path)
    (folder,) = (tmp_path / "sf").glob("heads-*")
    best = folder / f"official_{score.official_choice.learning_rate:g}.hyp"
    assert "".join(f"{line}\n" for line in score.answers["official.hyp"]) == best.read_text()
    best.unlink()  # of a checkpoint that was made before there were any
    state = torch.load(folder / "heads.pt", weights_only=True)
    (again,) = train(given, data, tmp_path)
    assert state["position"] == torch.load(folder / "heads.pt", weights_only=True)["position"]
    assert "official.hyp" not in again.answers
    assert again.official == score.official
