"""Reports of whole, bare and broken experiment folders: one file, everything in it, everything missing named."""

from __future__ import annotations

import base64
import json
import math
import re
from html.parser import HTMLParser

import pytest
from corpora import noises, write_corpus

from audiossl.diagnostics.curves import read_curves
from audiossl.diagnostics.report import Options, write_report
from audiossl.diagnostics.results import add_result
from audiossl.diagnostics.shown_data import unit_counts, utterance_to_show

RESULT = {"name": "WER", "value": 1.0, "unit": "%", "command": "audiossl", "date": "2024", "seed": 0, "machine": "m"}
PROBE = {
    "source": "exp/<a>", "column": "utt2keyword", "accuracy": 90.0, "accuracy_std": 0.5, "majority": 5.0,
    "learning_rate": 0.01, "parameters": 77, "selection": "dev accuracy on data/dev", "layer_weights": [0.25, 0.75],
}  # fmt: skip


def said(row, **change):
    return json.dumps([row | change])


class Wellformed(HTMLParser):
    """Checks that every tag is closed in turn."""

    def __init__(self):
        super().__init__()
        self.open, self.text = [], []

    def handle_starttag(self, tag, attrs):
        if tag not in {"meta", "img", "source"}:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def experiment(folder, *, value=90.0, loss=2.0):
    (folder / "probe").mkdir(parents=True)
    rows = [{"step": step, "kind": "train", "loss": loss + 1 / step, "lr": 1e-3} for step in range(1, 30)]
    rows += [{"step": 29, "kind": "dev", "loss": loss + 0.5}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 30, "ki')
    (folder / "probe" / "probe.json").write_text(json.dumps(PROBE | {"accuracy": value}))
    add_result(
        folder,
        "test WER & more",
        value / 10,
        "%",
        seed=1,
        command="audiossl transcribe <x>",
        date="2024-01-01T00:00:00",
    )
    add_result(folder / "probe", "keyword accuracy", value, "%", seed=0, command="audiossl probe")
    return folder


def corpus(folder):
    phones = (None, [(0.0, 0.4, "SIL"), (0.4, 0.6, "a")])
    units = write_corpus(folder, noises([16_000, 16_000]), phones=phones) / "units"
    units.mkdir()
    (units / "km5").write_text("s-0 0 0 1 3\ns-1 3 3 3 0\n")
    (units / "km5.json").write_text(json.dumps({"codebook_size": 5, "rate": 4.0}))
    return folder / "data"


def page(path):
    text = path.read_text()
    parser = Wellformed()
    parser.feed(text)
    assert parser.open == []
    return text, " ".join(parser.text)


def test_a_whole_report_is_one_file_with_everything(tmp_path):
    first, second = experiment(tmp_path / "one"), experiment(tmp_path / "two", value=92.0)
    data = corpus(tmp_path / "corpus")
    options = Options(title="A < B", data=data, units="km5", utterance="s-1")
    assert write_report([first, second], tmp_path / "out" / "r.html", options) == []
    text, words = page(tmp_path / "out" / "r.html")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["r.html"]
    assert "http" not in text  # nothing is loaded from elsewhere
    pictures = re.findall(r'"data:image/png;base64,([^"]+)"', text)
    assert len(pictures) == 8
    assert all(base64.b64decode(picture).startswith(b"\x89PNG") for picture in pictures)
    for wanted in (
        "A < B",
        "test WER & more",
        "9.20 %",
        "audiossl transcribe <x>",
        "exp/<a>, keyword",
        "90.00 ± 0.50 %",
    ):
        assert wanted in words
    assert "Not shown" not in words


def test_comparison_has_a_column_per_experiment_and_the_latest_number(tmp_path):
    first, second = experiment(tmp_path / "one"), experiment(tmp_path / "two", value=92.0)
    add_result(first, "test WER & more", 7.0, "%", seed=1)
    add_result(second, "only here", 1.0, "h")
    write_report([first, second], tmp_path / "r.html", Options(compare=True))
    text, _ = page(tmp_path / "r.html")
    rows = re.findall(r"<tr>(.*?)</tr>", text.split("<h2>Training")[0])
    cells = [re.findall(r"<t[hd]>(.*?)</t[hd]>", row) for row in rows]
    assert cells == [
        ["result", "unit", "one", "two"],
        ["keyword accuracy", "%", "90.00", "92.00"],
        ["only here", "h", "", "1.00"],
        ["test WER &amp; more", "%", "7.00", "9.20"],
    ]


@pytest.mark.parametrize(
    ("details", "labels"),
    [
        ([{"source": "{here}"}, {"source": "fbank"}], ["probe (source fbank)", "probe (source of itself)"]),
        ([{"trials": "a/trials"}, {"trials": "b/trials"}], ["probe (trials a/trials)", "probe (trials b/trials)"]),
        ([{"data": "a", "plda": ["{here}/v"]}, {"data": "a"}], ["probe", "probe (plda v)"]),
        ([{"p_target": 0.01, "seed": 0}, {"p_target": 0.05, "seed": 1}],
         ["probe (p_target 0.01, seed 0)", "probe (p_target 0.05, seed 1)"]),
        ([{"probe.steps": 20, "probe.seeds": [0, 1]}, {"probe.steps": 30, "probe.seeds": [0, 1]}],
         ["probe (probe.steps 20)", "probe (probe.steps 30)"]),
        ([{"source_digest": "a", "std": 1.0, "layers": [1, 2]}, {"source_digest": "b", "std": 2.0}], ["probe"]),
    ],
)  # fmt: skip
def test_comparison_tells_results_of_one_name_apart(tmp_path, details, labels):
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
        for value, given in enumerate(details):
            said = json.loads(json.dumps(given).replace("{here}", str(folder)))
            add_result(folder, "probe", value + 1.0, "%", date=f"2024-01-0{value + 1}", **said)
    write_report(folders, tmp_path / "r.html", Options(compare=True))
    text, _ = page(tmp_path / "r.html")
    cells = [re.findall(r"<td>(.*?)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", text.split("<h2>Training")[0])]
    assert [row[0] for row in cells[1:]] == labels
    assert sorted(row[2] for row in cells[1:]) == (["1.00", "2.00"] if len(labels) > 1 else ["2.00"])
    assert all(row[2] == row[3] for row in cells[1:])


def test_an_empty_experiment_makes_a_page_that_says_so(tmp_path):
    (tmp_path / "bare").mkdir()
    missing = write_report([tmp_path / "bare"], tmp_path / "r.html", Options())
    assert [line.split(":")[0] for line in missing] == ["Results", "Training", "Probes", "Units", "Utterance"]
    text, words = page(tmp_path / "r.html")
    assert "<img" not in text
    assert words.count("Not shown") == 5
    assert "bare has no results.json" in words


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("results.json", "{", "results.json:1: not valid JSON"),
        ("metrics.jsonl", '{"step": 1, "kind": "train", "loss": 1}\nnonsense\n', "metrics.jsonl:2: no step"),
        ("metrics.jsonl", '{"kind": "train", "loss": 1}\n', "metrics.jsonl:1: no step"),
        ("metrics.jsonl", "[1]\n", "no losses in metrics.jsonl"),
        ("probe/probe.json", "[]", "probe.json: does not say 'source'"),
        ("probe/probe.json", '{"source": "x", "column": 3}', "probe.json: does not say 'column'"),
        ("results.json", said(RESULT, date=None), "results.json: row 1 has no usable 'date'; remove that row"),
        ("results.json", said(RESULT, unit=None), "results.json: row 1 has no usable 'unit'; remove that row"),
        ("results.json", said(RESULT, seed="s"), "results.json: row 1 has no usable 'seed'; remove that row"),
        ("results.json", said(RESULT, value=math.nan), "results.json: row 1 has no usable 'value'; remove that row"),
        ("probe/probe.json", json.dumps(PROBE | {"accuracy": None}), "does not say 'accuracy'; run the probe again"),
        ("probe/probe.json", json.dumps(PROBE | {"layer_weights": [1, "a"]}), "does not say 'layer_weights'"),
        ("probe/probe.json", json.dumps(PROBE | {"fractions": 0.1}), "does not say 'fractions'"),
        ("probe/probe.json", json.dumps(PROBE | {"fractions": [{"fraction": "all"}]}), "does not say 'fraction'"),
    ],
)
def test_broken_files_are_named_and_the_rest_is_shown(tmp_path, name, content, message):
    good, broken = experiment(tmp_path / "good"), experiment(tmp_path / "broken")
    (broken / name).write_text(content)
    missing = write_report([good, broken], tmp_path / "r.html", Options())
    assert sum(message in line for line in missing) == 1
    assert page(tmp_path / "r.html")[0].count("<img") == 2


def test_probes_on_fractions_of_the_labels_have_a_row_each_and_a_curve(tmp_path):
    path = experiment(tmp_path / "a") / "probe" / "probe.json"
    probe = json.loads(path.read_text())
    part = {"fraction": 0.1, "accuracy": 61.5, "accuracy_std": 2.5, "learning_rate": 0.1}
    path.write_text(json.dumps({**probe, "fractions": [part, {**part, "fraction": 1.0, "accuracy": 90.0}]}))
    write_report([tmp_path / "a"], tmp_path / "r.html", Options())
    text, words = page(tmp_path / "r.html")
    assert "exp/<a>, keyword, 10 % of labels" in words
    assert "61.50 ± 2.50 %" in words
    assert "Accuracy of the probes over the share of the training labels" in text
    assert text.count("<img") == 3
    del part["accuracy"]
    path.write_text(json.dumps({**probe, "fractions": [part]}))
    missing = write_report([tmp_path / "a"], tmp_path / "r.html", Options())
    assert any("probe.json: does not say 'accuracy'" in line for line in missing)


def test_curves_leave_out_a_cut_last_line_and_losses_that_are_no_numbers(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        '{"step": 1, "kind": "train", "loss": 3.5}\n{"step": 2, "kind": "train", "loss": NaN}\n'
        '{"step": 2, "kind": "dev", "loss": 4}\n{"step": 3, "kind": "train", "accuracy": 1}\n{"step": 4, "kind"'
    )
    curves = read_curves(path)["loss"]
    assert {kind: (c.steps.tolist(), c.values.tolist()) for kind, c in curves.items()} == {
        "train": ([1.0], [3.5]),
        "dev": ([2.0], [4.0]),
    }


def test_missing_experiment_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="none: no such experiment folder"):
        write_report([tmp_path / "none"], tmp_path / "r.html", Options())


def test_unit_counts_and_utterance(tmp_path):
    data = corpus(tmp_path / "corpus")
    assert unit_counts(data, "km5").tolist() == [3, 1, 0, 4, 0]
    shown, missing = utterance_to_show(data, "km5")
    assert (shown.name, shown.units.tolist(), shown.rate) == ("s-0", [0, 0, 1, 3], 4.0)
    assert missing == [f"{data / 'phones.ctm'} has no phones of s-0; the picture is without them"]
    shown, missing = utterance_to_show(data, "km5", "s-1")
    assert shown.phones == [(0.0, 0.4, "SIL"), (0.4, 0.6, "a")]
    assert shown.log_mel.shape == (98, 80)
    assert missing == []


@pytest.mark.parametrize(
    ("units", "about", "message"),
    [
        ("s-0 1 x\n", None, r"units/km5:1: s-0: not whole numbers"),
        ("s-0 5\n", None, r"units/km5:1: s-0: unit 5 is not below 5"),
        ("s-0 -1\n", None, r"units/km5:1: s-0: has a negative unit"),
        ("s-0\n", None, "holds no units"),
        ("s-0 1\n", "{}", r"km5.json: does not say 'codebook_size'"),
    ],
)
def test_malformed_units_are_named(tmp_path, units, about, message):
    data = corpus(tmp_path / "corpus")
    (data / "units" / "km5").write_text(units)
    if about:
        (data / "units" / "km5.json").write_text(about)
    with pytest.raises(ValueError, match=message):
        unit_counts(data, "km5")


def test_unknown_utterance_is_named(tmp_path):
    data = corpus(tmp_path / "corpus")
    with pytest.raises(ValueError, match="has no utterance 'zzz'"):
        utterance_to_show(data, "km5", "zzz")
