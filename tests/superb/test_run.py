"""From names of tasks to scores: settings, what is finished, what is put together, and the verb on real recipes and a filterbank."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from frame_runs import add_noise, copied

from audiossl.cli.main import main
from audiossl.config import split_overrides
from audiossl.data.audio import write_audio
from audiossl.data.writer import CorpusUtterance, write_data_dir
from audiossl.diagnostics.results import read_results
from audiossl.diagnostics.sources import fbank_source
from audiossl.superb import pooled
from audiossl.superb.job import Evaluation
from audiossl.superb.recipes import task_names
from audiossl.superb.run import (
    finished,
    folder_name,
    groups,
    load_job,
    load_jobs,
    open_upstream,
    run_jobs,
    variant,
)
from audiossl.superb.score import Score
from audiossl.superb.table import make_table, read_scores
from audiossl.tasks.keyword import Keyword
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


def test_frames_that_are_not_kept_are_not_rounded():
    plain, rounded = (load_job("asr", {"superb": {"cache_dtype": name}}) for name in ("float32", "float16"))
    assert plain.settings == rounded.settings
    kept = load_job("asr", {"superb": {"cache_dtype": "float16", "cache_gb": 1.0}})
    assert kept.settings["superb.cache_dtype"] == "float16"


@pytest.mark.parametrize(
    ("task", "key", "value"),
    [
        ("ks", "projector_dim", -1),
        ("ic", "projector_dim", -1),
        ("sid", "projector_dim", -1),
        ("er", "projector_dim", -1),
        ("asv", "pooled_dim", -1),
        ("asv", "hidden_dim", 0),
        ("sd", "hidden_dim", 0),
    ],
)
def test_sizes_that_no_head_can_have_are_refused(task, key, value):
    with pytest.raises(ValueError, match=rf"task\.{key}: {value} is below"):
        load_job(task, {"task": {key: value}})


@pytest.mark.parametrize("task", ["ks", "asr", "hear_esc50"])
@pytest.mark.parametrize("rate", [float("nan"), float("inf"), 0.0])
def test_rates_are_finite_and_positive(task, rate):
    with pytest.raises(ValueError, match="learning_rates"):
        load_job(task, {"superb": {"learning_rates": [rate]}})


def test_digest_of_data_is_of_what_is_in_it(tmp_path):
    for name in ("one", "other", "less"):
        write_tones(tmp_path / name, "train", 4 if name == "less" else 5, np.random.default_rng(1))
        (tmp_path / name / "audio").rename(tmp_path / f"audio of {name}")
        table = tmp_path / name / "train" / "wav.scp"
        table.write_text(table.read_text().replace(f"/{name}/audio/", f"/audio of {name}/"))
    one, other, less = (load_job("ks").labels.digest(tmp_path / name) for name in ("one", "other", "less"))
    assert one == other != less


def test_tasks_of_one_folder_are_put_together_only_where_they_learn_from_frames(data, tmp_path):
    (tmp_path / "ks").symlink_to(data / "ks")
    (tmp_path / "er").symlink_to(data / "ks")
    jobs = load_jobs(["ks", "er"], {})
    assert [[job.name for job in group] for group in groups(jobs, tmp_path)] == [["ks"], ["er"]]


def test_upstreams(tmp_path, data):
    assert folder_name("transformers:/a/b") == "transformers-a-b"
    assert folder_name("mine.py:Mine") == "mine.py-Mine"
    assert folder_name("../../mini/hubert/exp/it2") == "mini-hubert-exp-it2"
    alike = ["d/m.py:Mine", "d-m.py:Mine", "/d/m.py:Mine", "a b", "a-b", "a,b", "実験", "試験"]
    assert len({folder_name(name) for name in alike}) == len(alike)
    assert folder_name("fbank+deltas") == "fbank+deltas"
    assert folder_name("exp/hubert/it2") == "exp-hubert-it2"
    with pytest.raises(ValueError, match=r"has no config.json; give a folder that transformers wrote"):
        open_upstream(f"transformers:{tmp_path}", data / "ks", seed=0, device="cpu")
    assert open_upstream("random:hubert_nano", data / "er", seed=0, device="cpu").name == "random:hubert_nano"


def test_a_folder_of_transformers(data, tmp_path, capsys):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.Wav2Vec2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, conv_dim=(16,) * 7,
        num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4,
    )  # fmt: skip
    model = transformers.Wav2Vec2Model(config).eval()
    model.save_pretrained(tmp_path / "hf")
    name = f"transformers:{tmp_path / 'hf'}"
    source = open_upstream(name, data / "ks", seed=0, device="cpu")
    assert (source.name, source.num_layers, source.dim) == (name, 3, 32)
    waveform = 0.1 * torch.randn(1, 4000)
    with torch.no_grad():
        hidden = model(waveform, output_hidden_states=True).hidden_states
    for ours, theirs in zip(source.extract(waveform, torch.tensor([4000])).layers, hidden, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
    words = ["ks", "--upstream", name, "--data", data / "ks", "--out", tmp_path / "out", *QUICK]
    code, _, err = run(words, capsys)
    assert code == 0, err
    [row] = read_results(tmp_path / "out" / folder_name(name) / "ks")
    assert (row.name, row.more["upstream"], len(row.more["layer_weights"])) == ("superb ks accuracy", name, 3)
    assert row.more["upstream_digest"] == source.digest


def test_one_task(data, tmp_path, capsys):
    words = ["ks", "--upstream", "fbank", "--data", data / "ks", "--out", tmp_path, *QUICK]
    code, out, err = run(words, capsys)
    assert code == 0, err
    assert "upstream forwards   42" in out
    assert "learning rate" in out
    place = tmp_path / "fbank"
    assert f"wrote {place / 'ks'}" in err
    [row] = read_results(place / "ks")
    assert (row.name, row.seed, row.more["upstream"]) == ("superb ks accuracy", 1337, "fbank")
    assert row.value > 60
    said = [line.split() for line in (place / "ks" / "test.predictions").read_text().splitlines()]
    assert len(said) == 9
    assert row.value == pytest.approx(100 * np.mean([predicted == wanted for _, predicted, wanted in said]))
    assert row.more["protocol"]["superb.steps"] == 60
    changed = ["superb.steps 60, not 200000", "superb.eval_every 20, not 5000"]
    assert row.more["variant"] == "; ".join([Keyword.variant_of(WORDS), "3 classes, not 12", *changed])
    assert "silence" not in row.more["variant"]
    assert f"not as published    {row.more['variant']}" in out
    assert any(note.startswith("ks: not the published protocol: ") for note in make_table([row]).notes)
    job = load_job("ks", {"superb": {"steps": 60, "eval_every": 20}})
    source = open_upstream("fbank", data / "ks", seed=0, device="cpu")
    known = Evaluation(source, "fbank", data / "ks", 1337, "cpu", print)
    assert finished(job, known, place)
    assert not finished(job, replace(known, seed=1), place)
    lines = []
    other = replace(known, upstream=replace(source, digest="another"), log=lines.append)
    assert not finished(job, other, place)
    assert lines == [
        f"{place / 'ks'}: is of an upstream with other weights, settings or code than fbank has now; scored anew"
    ]
    assert not finished(load_job("ks"), known, place)
    code, out, _ = run([*words, "--json"], capsys)
    assert json.loads(out)["values"]["accuracy"] == row.value


def test_the_upstream_of_ones_own_in_the_docs(data, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[2] / "docs/verbs/superb.md").read_text(encoding="utf-8")
    block = (
        page.partition("## An upstream of your own")[2].partition("    # mine.py\n")[2].partition("\n\n    audiossl ")
    )
    (tmp_path / "mine.py").write_text(textwrap.dedent(block[0]))
    words = block[2].partition("\n")[0].replace("data/superb/ks", str(data / "ks")).split()
    assert words[0] == "superb"
    code, out, err = run([*words[1:], "--out", "out", *QUICK], capsys)
    assert code == 0, err
    assert "upstream forwards   42" in out
    [row] = read_results(tmp_path / "out" / folder_name("mine.py:Mine") / "ks")
    assert (row.more["upstream"], len(row.more["layer_weights"])) == ("mine.py:Mine", 2)
    assert "upstream forwards   0" in run([*words[1:], "--out", "out", *QUICK], capsys)[1]
    (tmp_path / "mine.py").write_text(textwrap.dedent(block[0]).replace("tanh", "sin"))
    assert "upstream forwards   42" in run([*words[1:], "--out", "out", *QUICK], capsys)[1]


def test_recordings_of_test_that_cannot_be_used_are_told_beside_the_score(data, tmp_path, capsys):
    shutil.copytree(data, tmp_path / "data")
    scp = tmp_path / "data" / "ks" / "test" / "wav.scp"
    lines = scp.read_text().splitlines()
    scp.write_text("\n".join([f"{lines[0].split()[0]} {tmp_path / 'none.wav'}", *lines[1:]]) + "\n")
    words = ["ks", "--upstream", "fbank", "--data", tmp_path / "data" / "ks", "--out", tmp_path / "out", *QUICK]
    code, out, err = run([*words, "--superb.max_bad_fraction", "0.2"], capsys)
    assert code == 0, err
    assert "not as published" in out
    assert "1 recordings of test cannot be used and are not scored" in out
    [row] = read_results(tmp_path / "out" / "fbank" / "ks")
    assert (row.more["test_left_out"], row.more["utterances"]["test"]) == (1, 8)
    assert "1 recordings of test cannot be used" in row.more["variant"]


def test_tasks_on_the_same_recordings_share_the_pass(data, tmp_path, capsys):
    shutil.copytree(data / "ks", tmp_path / "data" / "ks")
    for part in ("train", "dev", "test"):
        place = tmp_path / "data" / "ks" / part
        (place / "utt2sound").write_text((place / "utt2keyword").read_text())
    (tmp_path / "data" / "sid").symlink_to("ks")
    words = ["--upstream", "fbank", "--data", tmp_path / "data", "--out", tmp_path / "out", *QUICK]
    words += ["--superb.sid.crops", "0", "--superb.ks.gain_db", "0", "--task.sid.column", "utt2sound"]
    code, _, err = run(["all", *words], capsys)
    assert code == 0, err
    rows = {task: read_results(tmp_path / "out" / "fbank" / task)[0].more for task in ("ks", "sid")}
    counts = [(row["forwards"], row.get("cached_forwards", 0)) for row in rows.values()]
    assert sorted(counts) == [(0, 42), (42, 0)]


def test_silence_and_the_published_number_of_classes_are_told_only_where_they_matter(tmp_path):
    job, words = load_job("ks"), ["_silence_", *(f"word{number}" for number in range(11))]
    write_tones(tmp_path, "train", 12, np.random.default_rng(0))
    table = tmp_path / "train" / "utt2keyword"
    ids = [line.split()[0] for line in table.read_text().splitlines()]
    table.write_text("".join(f"{utterance} {word}\n" for utterance, word in zip(ids, words, strict=True)))
    assert variant(job, 160, tmp_path) == variant(job, 160) == Keyword.variant
    table.write_text(table.read_text().replace("word3", "word4"))
    assert variant(job, 160, tmp_path) == f"{Keyword.variant}; 11 classes, not 12"


def test_upstreams_do_not_share_a_folder_and_out_has_a_default(data, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for upstream in ("fbank", "fbank+deltas"):
        code, _, err = run(["ks", "--upstream", upstream, "--data", data / "ks", *QUICK], capsys)
        assert code == 0, err
        [row] = read_results(tmp_path / "exp" / "superb" / upstream / "ks")
        assert row.more["upstream"] == upstream
    code, out, _ = run(["all", "--upstream", "fbank", "--data", data, *QUICK, "--superb.er.steps", "20"], capsys)
    assert code == 0
    assert "| fbank+deltas |" in out


def test_all_tasks_and_upstreams_and_again(data, tmp_path, capsys):
    words = ["all", "--upstream", "fbank", "random:hubert_nano", "--data", data, "--out", tmp_path, *QUICK]
    code, out, err = run(words, capsys)
    assert code == 0, err
    (absent,) = (line for line in err.splitlines() if "not run, since" in line)
    assert "sid, " in absent
    assert re.search(r", \d+ others, see `audiossl superb list`$", absent)
    assert "hear_" not in absent
    assert "sid" in err
    assert "| upstream | KS accuracy ↑ | ER accuracy ↑ | SUPERB score ↑ |" in out or "| fbank |" in out
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == {
        "table.md",
        "table.csv",
        "scores.csv",
        "table.html",
    }
    assert (tmp_path / "random-hubert_nano" / "er" / "results.json").is_file()
    before = {path: path.read_bytes() for path in tmp_path.rglob("results.json")}
    assert len(before) == 4
    code, out, err = run([*words, "--json"], capsys)
    assert code == 0
    assert err.count("was finished before") == 4
    told = json.loads(out)
    assert [(score["upstream"], score["task"]) for score in told] == [
        (upstream, task) for upstream in ("fbank", "random:hubert_nano") for task in ("er", "ks")
    ]
    assert told[0]["values"] == {row.name.split()[2]: row.value for row in read_results(tmp_path / "fbank" / "er")}
    assert {path: path.read_bytes() for path in tmp_path.rglob("results.json")} == before


def test_one_seed_gives_one_table(tmp_path, capsys):
    """Of a task on time-means and one on frames, with random weights too."""
    write_three(tmp_path / "data" / "ks")
    (tmp_path / "data" / "asr").symlink_to("ks")
    tiny = ["--superb.learning_rates", "[1e-2, 1e-3]", "--superb.asr.steps", 4, "--superb.asr.eval_every", 2]
    tiny += ["--task.asr.vocabulary", "training", "--task.asr.hidden_dim", 8, "--task.asr.projector_dim", 8]
    words = [
        "all",
        "--upstream",
        "fbank",
        "random:hubert_nano",
        "--data",
        tmp_path / "data",
        "--seed",
        5,
        *QUICK,
        *tiny,
    ]
    for out in ("one", "other"):
        code, _, err = run([*words, "--out", tmp_path / out], capsys)
        assert code == 0, err
    one, other = tmp_path / "one", tmp_path / "other"
    for name in ("table.csv", "scores.csv"):
        assert (one / name).read_bytes() == (other / name).read_bytes()
    without_costs = [(out / "table.md").read_text().split("## What they cost")[0] for out in (one, other)]
    assert without_costs[0] == without_costs[1]
    assert without_costs[0].count("| random:hubert_nano |") == 3  # the scores, and how both were chosen
    for name in ("fbank/asr", "fbank/ks", "random-hubert_nano/asr", "random-hubert_nano/ks"):
        ours, theirs = (
            [
                (row.name, row.value, row.seed, row.more["dev"], row.more["layer_weights"])
                for row in read_results(out / name)
            ]
            for out in (one, other)
        )
        assert ours == theirs


def test_corrected_labels_are_scored_again(data, tmp_path, capsys):
    shutil.copytree(data / "ks", tmp_path / "data" / "ks")
    words = ["all", "--upstream", "fbank", "--data", tmp_path / "data", "--out", tmp_path / "out", *QUICK]
    assert run(words, capsys)[0] == 0
    column = tmp_path / "data" / "ks" / "test" / "utt2keyword"
    column.write_text(column.read_text().replace("low", "mid"))
    code, _, err = run(words, capsys)
    assert code == 0
    assert "was finished before" not in err
    old, new = read_results(tmp_path / "out" / "fbank" / "ks")
    assert old.more["data"] != new.more["data"]
    assert old.value > new.value
    assert any("on other data" in note for note in make_table([old, new]).notes)


def test_other_recordings_of_the_same_lengths_are_scored_again(data, tmp_path, capsys):
    copied(data / "ks", tmp_path / "same" / "ks")
    noisy = copied(data / "ks", tmp_path / "noisy" / "ks")
    add_noise((noisy / "audio").rglob("*.wav"))

    def again(place, upstream="fbank"):
        code, _, err = run(["all", "--upstream", upstream, "--data", place, "--out", tmp_path / "out", *QUICK], capsys)
        assert code == 0
        return "was finished before" in err

    shutil.copytree(data / "ks", tmp_path / "data" / "ks")
    assert [again(tmp_path / name) for name in ("data", "same", "noisy")] == [False, True, False]
    old, new = read_results(tmp_path / "out" / "fbank" / "ks")
    assert any("on other data" in note for note in make_table([old, new]).notes)
    other = replace(new, more=new.more | {"upstream": "other"})
    assert set(make_table([old, other]).marks.values()) == {"a", "b"}


def test_an_error_that_nobody_expects_loses_no_table(data, tmp_path, capsys, monkeypatch):
    plain = pooled.run

    def failing(job, *given):
        if job.name == "ks":
            raise MemoryError("no more of it")
        return plain(job, *given)

    monkeypatch.setattr("audiossl.superb.pooled.run", failing)
    code, out, err = run(["all", "--upstream", "fbank", "--data", data, "--out", tmp_path, *QUICK], capsys)
    assert code == 1
    assert "ks of fbank failed unexpectedly:" in err
    assert "MemoryError: no more of it" in err
    assert "| fbank |" in out
    assert "ER accuracy" in (tmp_path / "table.md").read_text()


def test_every_upstream_is_opened_before_the_first_task_is_run(data, tmp_path, capsys):
    words = ["all", "--upstream", "fbank", "hubbert", "--data", data, "--out", tmp_path / "out", *QUICK]
    code, _, err = run(words, capsys)
    assert code == 1
    assert err.count("hubbert") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("verb", ["asr", "all"])
def test_a_task_without_labels_takes_no_other_down(tmp_path, capsys, verb):
    data, out = tmp_path / "data" / "asr", tmp_path / "out"
    write_three(data)
    (data.parent / "pr").symlink_to("asr")
    sizes = ["--task.asr.vocabulary", "training", "--task.hidden_dim", 8, "--task.projector_dim", 8]
    words = [
        "--upstream",
        "fbank",
        "--out",
        out,
        "--json",
        *QUICK,
        *sizes,
        "--superb.steps",
        2,
        "--superb.accumulate",
        1,
    ]
    place = [verb, *([] if verb == "all" else ["pr"]), "--data", data if verb == "asr" else data.parent]
    code, printed, err = run([*place, *words], capsys)
    assert code == 1
    assert f"pr of fbank failed: {data.resolve() / 'train' / 'utt2phones'}: no such file" in err
    assert [score["task"] for score in json.loads(printed)] == ["asr"]
    assert [path.parent.name for path in out.rglob("results.json")] == ["asr"]


def test_without_a_score_there_is_no_table(tmp_path, capsys):
    write_three(tmp_path / "data" / "pr")
    words = ["all", "--upstream", "fbank", "--data", tmp_path / "data", "--out", tmp_path / "out"]
    code, _, err = run(words, capsys)
    assert code == 1
    assert "pr of fbank failed: " in err
    assert err.endswith(f"{tmp_path / 'out'}: has no score, so that there is no table\n")


def test_a_row_is_written_when_its_task_is_done(tmp_path, monkeypatch):
    write_three(tmp_path / "data")
    monkeypatch.setattr("audiossl.superb.frames.run_together", lambda jobs, *_: [score_of(jobs[0].name)])
    monkeypatch.setattr("audiossl.superb.pooled.run", lambda *_: (_ for _ in ()).throw(RuntimeError("broken")))
    with pytest.raises(RuntimeError, match="broken"):
        run_jobs([load_job("asr"), load_job("ks")], on_fbank(tmp_path / "data"), tmp_path / "out")
    assert [row.name for row in read_results(tmp_path / "out" / "asr")] == ["superb asr wer"]


def on_fbank(data, source=None):
    return Evaluation(source or fbank_source(), "fbank", data, 3, "cpu", print)


def score_of(name):
    return Score(
        task=name, upstream="fbank", values={"wer": 7.0}, metric="wer", learning_rate=1e-3, seed=3, selection="dev wer",
        step=1, parameters=1, cost=Cost(1, 1, 1.0, 1, None),
    )  # fmt: skip


def write_three(root):
    for part in ("train", "dev", "test"):
        write_tones(root, part, 3, np.random.default_rng(0))
        shutil.copy(root / part / "utt2keyword", root / part / "text")


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
    assert "has no folder of a task; link what `audiossl prep` wrote as" in err
    assert len(err) < 400
    code, _, err = run(["qbee"], capsys)
    assert code == 2
    assert "did you mean 'qbe'?" in err
    code, out, _ = run(["list", "--json"], capsys)
    assert code == 0
    assert json.loads(out)["ks"]["superb"]["steps"] == 200_000


def test_what_differs_from_the_published_code_is_in_every_row():
    jobs = {name: load_job(name) for name in task_names()}
    assert {name for name, job in jobs.items() if not variant(job, 320)} == {"ic", "sid"}  # `sid` says it by its crops
    for job in jobs.values():
        assert "Differs from the published code" not in (job.task_class.__doc__ or "") or variant(job, 320)
    assert "power spectrum and an exact alignment, where the published code takes WORLD's envelope" in variant(
        jobs["vc"], 320
    )
    assert "silence is of seconds drawn beforehand" in variant(jobs["ks"], 320)
    assert "every 640 samples interpolated" in variant(jobs["se"], 640)
    assert "interpolated" not in variant(jobs["se"], 320)
    assert {name for name, job in jobs.items() if "draws them at random" in variant(job, 320)} == {
        "sd", "se", "ss", "vc", "asv", *(name for name in jobs if name.startswith("vc_"))
    }  # fmt: skip
    assert {name for name, job in jobs.items() if "micro-batches" in variant(job, 320)} == {"pr", "sd", "st", "asv"}
    assert "micro-batches" not in variant(load_job("pr", {"superb": {"accumulate": 1}}), 320)
    assert "to a hundredth at once" in variant(jobs["st"], 320)
    assert "published batches are of 100 s, and recordings are cut at 60 s" in variant(jobs["st"], 160)
    assert "published batches" not in variant(jobs["st"], 320)
    assert "windows of 30 s" in variant(jobs["marble_mtg_mood"], 320)
    assert "windows" not in variant(jobs["marble_gtzan_genre"], 320)
    assert "layer shares start equal" in variant(jobs["marble_gtzan_genre"], 320)
    named = load_job("pr", {"task": {"column": "text", "lexicon": ["a.txt"]}})
    assert variant(named, 320) == variant(jobs["pr"], 320)  # where data is
    divided = load_job("callers", {"superb": {"groups": "utterance"}})  # of which the runner tells
    assert variant(divided, 320) == variant(jobs["callers"], 320)
    assert variant(jobs["ood_zh"], 320) == variant(jobs["ood"], 320)  # published so


def test_what_the_official_protocol_reports_is_shown(data, tmp_path, monkeypatch):
    """Diarisation chooses the step by accuracy and is told in DER."""
    values = {"der": 7.0, "accuracy": 90.0}

    def found(job, evaluation, _):
        return Score(
            task=job.name, upstream=evaluation.upstream_name, values=values, metric="accuracy", learning_rate=1e-3,
            seed=evaluation.seed, selection="dev accuracy", step=1, parameters=1, cost=Cost(1, 1, 1.0, 1, None), official={"der": 6.0},
        )  # fmt: skip

    monkeypatch.setattr("audiossl.superb.pooled.run", found)
    source = open_upstream("fbank", data / "ks", seed=0, device="cpu")
    [score] = run_jobs([load_job("ks")], on_fbank(data / "ks", source), tmp_path)
    assert score.metric == "der"
    cell = make_table(read_scores([tmp_path])).cells["fbank", "ks"]
    assert (cell.value, cell.official, cell.seeds) == (7.0, 6.0, (3,))


def test_every_recipe_of_one_task_gives_settings_that_it_has(tmp_path):
    """The shell recipe on data of one task: what it would score with."""
    folder = Path(__file__).parents[2] / "egs/superb/all"
    told = tmp_path / "told"
    for task in ("ks", "qbe", "pr", "asv", "st", "vc", "ood_es", "callers"):
        (tmp_path / task / task).mkdir(parents=True)
        script = f'audiossl() {{ printf "%s\\n" "$@" > {told}; }}; export -f audiossl; ./run.sh --stage 1 --stop_stage 1 --data {tmp_path / task}'
        subprocess.run(["bash", "-c", script], cwd=folder, check=True, capture_output=True)
        given, _ = split_overrides(told.read_text().splitlines())
        [job] = load_jobs([task], given)
        assert getattr(job.config, "accumulate", 1) == 1
        assert not hasattr(job.task_config, "pooled_dim") or job.task_config.pooled_dim == 128
