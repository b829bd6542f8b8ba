"""From names of tasks to scores: settings, what is finished, what is put together, and the verb on real recipes and a filterbank."""

from __future__ import annotations

import json

import numpy as np
import pytest

from audiossl.cli.main import main
from audiossl.data.audio import write_audio
from audiossl.data.writer import CorpusUtterance, write_data_dir
from audiossl.diagnostics.results import read_results
from audiossl.superb.run import (
    data_digest,
    folder_name,
    groups,
    is_finished,
    load_job,
    load_jobs,
    open_upstream,
    run_jobs,
)
from audiossl.superb.score import Score
from audiossl.superb.table import make_table, read_scores
from audiossl.train.ledger import Cost

WORDS = {"low": 300.0, "mid": 900.0, "high": 2500.0}
QUICK = ["--superb.steps", "60", "--superb.eval_every", "20", "--superb.num_workers", "0", "--device", "cpu"]


def write_tones(root, part, count, rng):
    """Chords in noise: their pitch is the keyword and the emotion."""
    (root / "audio" / part).mkdir(parents=True)
    rows = []
    for index in range(count):
        word, speaker = list(WORDS)[index % 3], f"s{index % 2}"
        time = np.arange(rng.integers(5000, 7000)) / 16_000
        wave = 0.1 * np.sin(2 * np.pi * WORDS[word] * np.linspace(1, 2, 5)[:, None] * time).sum(axis=0)
        path = root / "audio" / part / f"{index}.wav"
        write_audio(path, (wave + 0.003 * rng.standard_normal(len(time))).astype(np.float32), 16_000)
        columns = {"utt2keyword": word, "utt2emotion": word, "utt2session": f"x{index // 3 % 2}"}
        rows.append(CorpusUtterance(f"{speaker}-{index}", f"{speaker}-{index}", path, speaker, columns=columns))
    write_data_dir(rows, root / part)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for part, count in (("train", 24), ("dev", 9), ("test", 9)):
        write_tones(root / "ks", part, count, rng)
    write_tones(root / "er", "all", 24, rng)
    return root


def run(words, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["superb", *map(str, words)])
    out, err = capsys.readouterr()
    return stop.value.code, out, err


def test_settings_go_where_they_are_known():
    ks, er = load_jobs(
        ["ks", "er"], {"superb": {"steps": 7, "er": {"steps": 9, "eval_every": 3}}, "task": {"column": "utt2x"}}
    )
    assert (ks.config.steps, ks.config.eval_every, er.config.steps, er.config.eval_every) == (7, 5000, 9, 3)
    assert ks.task_config.column == er.task_config.column == "utt2x"
    with pytest.raises(ValueError, match=r"--superb.stepz: no setting of ks, er"):
        load_jobs(["ks", "er"], {"superb": {"stepz": 7}})
    with pytest.raises(ValueError, match=r"superb_ks: superb: unknown key 'stepz'; did you mean 'steps'"):
        load_jobs(["ks"], {"superb": {"ks": {"stepz": 7}}})
    with pytest.raises(ValueError, match=r"--sperb.steps: no setting of ks"):
        load_jobs(["ks"], {"sperb": {"steps": 7}})
    with pytest.raises(ValueError, match="unknown task 'qbee'; did you mean 'qbe'"):
        load_job("qbee")


def test_what_only_costs_is_no_part_of_the_protocol():
    one, other = (load_job("ks", {"superb": {"num_workers": count}}) for count in (0, 5))
    assert one.settings == other.settings
    assert one.settings != load_job("ks", {"superb": {"steps": 5}}).settings
    assert one.settings != load_job("ks", {"task": {"projector_dim": 5}}).settings


def test_digest_of_data_is_of_what_is_in_it(data, tmp_path):
    for name in ("one", "other", "less"):
        write_tones(tmp_path / name, "train", 4 if name == "less" else 5, np.random.default_rng(1))
        (tmp_path / name / "audio").rename(tmp_path / f"audio of {name}")
        table = tmp_path / name / "train" / "wav.scp"
        table.write_text(table.read_text().replace(f"/{name}/audio/", f"/audio of {name}/"))
    one, other, less = (data_digest(tmp_path / name) for name in ("one", "other", "less"))
    assert one == other != less
    assert data_digest(data / "ks") != data_digest(data / "er")


def test_tasks_of_one_folder_are_put_together_only_where_they_learn_from_frames(data, tmp_path):
    (tmp_path / "ks").symlink_to(data / "ks")
    (tmp_path / "er").symlink_to(data / "ks")
    jobs = load_jobs(["ks", "er"], {})
    assert [[job.name for job in group] for group in groups(jobs, tmp_path)] == [["ks"], ["er"]]


def test_upstreams(tmp_path, data):
    assert folder_name("transformers:/a/b c") == "transformers-a-b-c"
    assert folder_name("fbank+deltas") == "fbank+deltas"
    assert folder_name("exp/hubert/it2") == "exp-hubert-it2"
    with pytest.raises(ValueError, match=r"has no config.json; give a folder that transformers wrote"):
        open_upstream(f"transformers:{tmp_path}", data / "ks", seed=0, device="cpu")
    assert open_upstream("random:hubert_nano", data / "er", seed=0, device="cpu").name == "random:hubert_nano"


def test_one_task(data, tmp_path, capsys):
    words = ["ks", "--upstream", "fbank", "--data", data / "ks", "--out", tmp_path, *QUICK]
    code, out, err = run(words, capsys)
    assert code == 0, err
    assert "upstream forwards   42" in out
    assert "learning rate" in out
    [row] = read_results(tmp_path / "ks")
    assert (row.name, row.seed, row.more["upstream"]) == ("superb ks accuracy", 0, "fbank")
    assert row.value > 60
    assert row.more["protocol"]["superb.steps"] == 60
    job = load_job("ks", {"superb": {"steps": 60, "eval_every": 20}})
    known = {"digest": row.more["upstream_digest"], "data": row.more["data"]}
    assert is_finished(job, tmp_path, **known, seed=0)
    assert not is_finished(job, tmp_path, **known, seed=1)
    assert not is_finished(job, tmp_path, digest="another", data=known["data"], seed=0)
    assert not is_finished(load_job("ks"), tmp_path, **known, seed=0)
    code, out, _ = run([*words, "--json"], capsys)
    assert json.loads(out)["values"]["accuracy"] == row.value


def test_all_tasks_and_upstreams_and_again(data, tmp_path, capsys):
    words = ["all", "--upstream", "fbank", "random:hubert_nano", "--data", data, "--out", tmp_path, *QUICK]
    code, out, err = run(words, capsys)
    assert code == 0, err
    assert "not run, since" in err
    assert "sid" in err
    assert "| upstream | KS accuracy ↑ | ER accuracy ↑ | SUPERB score ↑ |" in out or "| fbank |" in out
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == {"table.md", "table.csv", "table.html"}
    assert (tmp_path / "random-hubert_nano" / "er" / "results.json").is_file()
    before = {path: path.read_bytes() for path in tmp_path.rglob("results.json")}
    assert len(before) == 4
    code, _, err = run([*words, "--json"], capsys)
    assert code == 0
    assert err.count("was finished before") == 4
    assert {path: path.read_bytes() for path in tmp_path.rglob("results.json")} == before


def test_a_task_that_fails_does_not_stop_the_others(data, tmp_path, capsys):
    (tmp_path / "data" / "ic").mkdir(parents=True)
    (tmp_path / "data" / "ks").symlink_to(data / "ks")
    words = ["all", "--upstream", "fbank", "--data", tmp_path / "data", "--out", tmp_path / "out", *QUICK]
    code, out, err = run(words, capsys)
    assert code == 1
    assert "ic of fbank failed:" in err
    assert "| fbank |" in out


def test_misuse(tmp_path, capsys):
    code, _, err = run(["all", "--upstream", "fbank", "--data", tmp_path, "--out", tmp_path / "o"], capsys)
    assert code == 1
    assert "has no folder of a task" in err
    code, _, err = run(["qbee"], capsys)
    assert code == 2
    assert "did you mean 'qbe'?" in err
    code, out, _ = run(["list", "--json"], capsys)
    assert code == 0
    assert json.loads(out)["ks"]["superb"]["steps"] == 200_000


def test_what_the_official_protocol_reports_is_shown(data, tmp_path, monkeypatch):
    """Diarisation chooses the step by accuracy and is told in DER."""
    values = {"der": 7.0, "accuracy": 90.0}

    def found(name, *_, upstream_name, seed, **__):
        return Score(
            task=name, upstream=upstream_name, values=values, metric="accuracy", learning_rate=1e-3, seed=seed, selection="dev accuracy",
            step=1, parameters=1, cost=Cost(1, 1, 1.0, 1, None), official={"der": 6.0},
        )  # fmt: skip

    monkeypatch.setattr("audiossl.superb.pooled.run", found)
    source = open_upstream("fbank", data / "ks", seed=0, device="cpu")
    given = {"upstream": "fbank", "source": source, "data": data / "ks", "seed": 3, "device": "cpu", "log": print}
    [score] = run_jobs([load_job("ks")], out=tmp_path, **given)
    assert score.metric == "der"
    cell = make_table(read_scores([tmp_path])).cells["fbank", "ks"]
    assert (cell.value, cell.official, cell.seeds) == (7.0, 6.0, (3,))
