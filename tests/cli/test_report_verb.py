"""`audiossl report`: the page, the table, the JSON, and one line for each misuse."""

from __future__ import annotations

import json

from command import audiossl

from audiossl.diagnostics.results import add_result


def run(*words):
    return audiossl("report", *words)


def test_table_json_and_page(tmp_path):
    folder = tmp_path / "exp"
    add_result(folder, "test WER", 12.5, "%", seed=3)
    code, out, _ = run(folder)
    assert code == 0
    assert "test WER" in out
    assert "12.50" in out
    code, out, _ = run(folder, "--json")
    [row] = json.loads(out)
    assert (row["experiment"], row["name"], row["value"], row["seed"]) == ("exp", "test WER", 12.5, 3)
    code, out, err = run(folder, "--out", tmp_path / "r.html", "--title", "Mine", "--compare")
    assert code == 0
    assert "<h1>Mine</h1>" in (tmp_path / "r.html").read_text()
    assert "not shown: Training: exp has no losses" in err


def test_misuse(tmp_path):
    assert run()[0] == 2
    for option in (["--compare"], ["--title", "Mine"], ["--data", tmp_path], ["--units", "km"], ["--utterance", "u"]):
        code, _, err = run(tmp_path, *option)
        assert (code, err) == (2, f"audiossl: audiossl report: {option[0]}: for the page; add --out FILE\n")
    reference = [tmp_path, "--reference", tmp_path / "r.jsonl", "--corpus", "mini"]
    for option in (
        ["--compare"],
        ["--title", "Mine"],
        ["--out", tmp_path / "r.html"],
        ["--json"],
        ["--data", tmp_path],
    ):
        code, _, err = run(*reference, *option)
        assert (code, err) == (2, f"audiossl: audiossl report: {option[0]}: not for --reference; leave them out\n")
        assert not list(tmp_path.iterdir())
    code, _, err = run(tmp_path / "nowhere")
    assert code == 1
    assert "no such experiment folder" in err
    assert err.count("\n") == 1
