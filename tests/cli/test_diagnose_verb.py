"""`audiossl diagnose` from recordings to one page: every analysis, those that must be skipped, and one line for each misuse."""

from __future__ import annotations

import json
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
from command import audiossl
from corpora import noises, tenths, write_corpus

from audiossl.config import to_table, write_toml
from audiossl.diagnostics.results import read_results
from audiossl.encoders.fbank import FBank

HERTZ = {"A": 300.0, "I": 2500.0, "U": 700.0}
HERE = ["--num-workers", "0", "--device", "cpu"]
QUICK = ["--probe.steps", "20", "--probe.batch", "16", "--probe.seeds", "[0]", "--probe.learning_rates", "[0.03]"]
QUICK += ["--clustering.restarts", "1", "--views.num_rooms", "2", *HERE]
EVERY = {"abx", "alignment", "clustering", "memorisation", "probes", "risk", "scatter", "separability", "spectrum"}


def make_data(folder, count, *, seed, bare=False):
    """Utterances of six letters, each a tone; the keyword is the first. bare: neither labels nor phones."""
    rng, waves, said = np.random.default_rng(seed), [], []
    for number in range(count):
        letters = [list(HERTZ)[number % 3], *map(str, rng.choice(list(HERTZ), 5))]
        time = np.arange(1600) / 16_000
        waveform = np.concatenate([0.2 * np.sin(2 * np.pi * HERTZ[letter] * time) for letter in letters])
        waves.append(waveform + (0.003, 0.02)[number % 2] * rng.standard_normal(len(waveform)))
        said.append(letters)
    labels = {"speakers": [f"u{number:03}" for number in range(count)]}
    if not bare:
        columns = {"utt2keyword": [letters[0] for letters in said], "utt2part": ("new", "seen", "seen", "seen")}
        labels = {"speakers": ("s0", "s1"), "columns": columns, "phones": list(map(tenths, said))}
    write_corpus(folder.with_name(f"{folder.name}_audio"), waves, **labels, out=folder)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    root = tmp_path_factory.mktemp("diagnose")
    make_data(root / "test", 36, seed=0)
    make_data(root / "train", 36, seed=1)
    make_data(root / "bare", 8, seed=2, bare=True)
    write_toml(root / "tiny.toml", {"encoder": {"name": "fbank", **to_table(FBank.Config.tiny())}})
    # The same architecture with other weights: another size of its last part will do.
    other = to_table(FBank.Config.tiny())
    write_toml(root / "other.toml", {"encoder": {"name": "fbank", **other, "ffn_dim": 2 * other["ffn_dim"]}})
    return root


def run(*words):
    return audiossl("diagnose", *words)


def test_help_names_every_analysis():
    code, out, _ = run("--help")
    assert code == 0
    assert {name for name in EVERY if name not in out} == set()


class Wellformed(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.images = [], 0

    def handle_starttag(self, tag, attrs):
        self.images += tag == "img"
        if tag not in {"meta", "img", "source"}:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_every_analysis_on_one_page(corpus, tmp_path):
    out = tmp_path / "d"
    words = [f"random:{corpus / 'tiny.toml'}", "--data", corpus / "test", "--out", out, *QUICK, "--json"]
    words += ["--train", corpus / "train", "--against", f"random:{corpus / 'other.toml'}"]
    words += [
        "--columns",
        "utt2keyword",
        "--risk.shots",
        "3",
        "--separability.components",
        "2",
        "--memorisation.groups",
        "utt2part",
    ]
    code, said, err = run(*words)
    assert code == 0, err
    found = json.loads(said)
    assert set(found) == EVERY
    assert not any("skipped" in finding for finding in found.values())
    layers = FBank.Config.tiny().num_layers + 1
    rows = {row.name: row for row in read_results(out)}
    for measure in (
        "probe keyword accuracy", "AMI (k-means, keyword)", "ARI (agglomerative, keyword)", "silhouette (k-means, keyword)",
        "Bhattacharyya distance (keyword)", "RankMe", "effective rank", "alignment", "uniformity", "ABX error within speakers", "ABX error across speakers",
    ):  # fmt: skip
        for layer in range(layers):
            row = rows[f"{measure} layer {layer}"]
            assert (row.seed, row.more["layer"], row.more["utterances"]) == (0, layer, "36 of 36")
        assert f"{measure} layer {layers}" not in rows
    for shots in ("all labels", "3 labels per class"):
        parts = [
            rows[f"{part} (keyword, {shots})"].value
            for part in ("usability", "probe generalisation", "encoder generalisation")
        ]
        assert sum(parts) == pytest.approx(rows[f"total risk (keyword, {shots})"].value, abs=1e-9)
    assert rows["ABX error within speakers layer 0"].value < 20  # tones of different pitch are easy
    assert rows["memorisation (seen)"].more["utterances"] == 27
    scores = dict(line.split() for line in (out / "utt2mem").read_text().splitlines())
    ranked = [line.split() for line in (out / "most_memorised.txt").read_text().splitlines()]
    assert len(scores) == len(ranked) == 36
    assert [float(score) for _, score in ranked] == sorted(map(float, scores.values()), reverse=True)
    page = (out / "diagnosis.html").read_text()
    parser = Wellformed()
    parser.feed(page)
    assert parser.open == []
    assert parser.images >= 8
    assert "Not shown" not in page
    assert "36 of 36" in page
    assert not [path for path in out.iterdir() if path.name.startswith(".abx") or path.suffix == ".partial"]


def test_what_the_data_lack_is_skipped_and_named(corpus, tmp_path):
    out = tmp_path / "d"
    words = ["fbank", "--data", corpus / "bare", "--out", out, *QUICK, "--max-utterances", "6"]
    code, said, err = run(*words)
    assert code == 0, err
    skipped = dict(line.split(": skipped: ") for line in said.splitlines() if ": skipped: " in line)
    assert set(skipped) == {"abx", "clustering", "memorisation", "probes", "risk", "separability"}
    assert "has no phones.ctm" in skipped["abx"]
    assert "--against OTHER" in skipped["memorisation"]
    assert "--train DIR" in skipped["risk"]
    page = (out / "diagnosis.html").read_text()
    assert page.count("Not shown: ") == 6
    assert "6 of 8" in page
    assert {row.name for row in read_results(out)} >= {"RankMe layer 0", "uniformity layer 0"}


def test_phones_of_nobody_are_not_compared_as_those_of_one_speaker(corpus, tmp_path):
    data = shutil.copytree(corpus / "test", tmp_path / "data")
    lines = (data / "utt2spk").read_text().splitlines(keepends=True)
    (data / "utt2spk").write_text("".join(line for line in lines if line.endswith(" s0\n")))
    words = ["fbank", "--data", data, "--out", tmp_path / "d", *HERE, "--only", "abx", "--abx.engine", "own"]
    code, _, err = run(*words)
    assert code == 0, err
    assert {row.name.rpartition(" layer")[0] for row in read_results(tmp_path / "d")} == {"ABX error within speakers"}
    assert "18 utterances without a speaker in utt2spk are left out" in (tmp_path / "d" / "diagnosis.html").read_text()
    (data / "utt2spk").unlink()
    words[4] = tmp_path / "e"
    assert f"abx: skipped: {data}: no utt2spk says who speaks" in "".join(run(*words)[1:])


def test_recordings_that_cannot_be_used_are_left_out_up_to_a_share(tmp_path):
    waves = noises([4000] * 8)
    waves[5][:] = 0
    words = ["fbank", "--data", write_corpus(tmp_path, waves), "--out", tmp_path / "d", *HERE, "--only", "spectrum"]
    code, _, err = run(*words)
    assert code == 1
    assert "max_bad_fraction 0.01 allows" in err.splitlines()[-1]
    code, _, err = run(*words, "--max-bad-fraction", "0.2")
    assert code == 0, err
    assert "left out s-5: " in err


def test_only_what_was_asked_for(corpus, tmp_path):
    words = ["fbank", "--data", corpus / "test", "--out", tmp_path / "d", *HERE, "--clustering.restarts", "1"]
    words += ["--only", "clustering", "spectrum"]
    code, said, _ = run(*words)
    assert code == 0
    assert [line for line in said.splitlines() if not line.startswith(" ")] == ["clustering:", "spectrum:"]
    # All columns whose values repeat, and no other file.
    assert "AMI (k-means, part)" in said
    assert "dur" not in said


def test_one_failed_analysis_does_not_stop_the_others(corpus, tmp_path, monkeypatch):
    def failing(subject, config):
        raise ValueError("a column is at fault; mend it")

    monkeypatch.setattr("audiossl.diagnostics.analyses.scatter.run", failing)
    out = tmp_path / "d"
    words = [
        "fbank",
        "--data",
        corpus / "test",
        "--out",
        out,
        *HERE,
        "--only",
        "probes",
        "scatter",
        "spectrum",
        *QUICK[:8],
    ]
    for seed in ("0", "0", "1"):
        code, said, err = run(*words, "--json", "--seed", seed)
        assert (code, err.splitlines()[-1]) == (1, "audiossl: a column is at fault; mend it")
        assert json.loads(said)["scatter"] == {"failed": "a column is at fault; mend it"}
        assert "Not shown: a column is at fault" in (out / "diagnosis.html").read_text()
    seeds = [row.seed for row in read_results(out) if row.name == "RankMe layer 0"]
    assert seeds == [0, 1]  # the same again is in the place of the same
    assert len([row for row in read_results(out) if row.name == "probe keyword accuracy layer 0"]) == 2


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [
        ("memorisation (all)", {"layer": 0, "memorisation.draws": 1}, {"layer": 1, "memorisation.draws": 2}),
        ("alignment layer 0", {"views.crop": 0.5}, {"views.crop": 0.6}),
        ("AMI (k-means, keyword) layer 0", {"clustering.components": 3}, {"clustering.components": 4}),
        (
            "probe keyword accuracy layer 0",
            {"split": "0.7/0.1/0.2", "probe.steps": 2},
            {"split": "0.6/0.2/0.2", "probe.steps": 2},
        ),
        ("probe keyword accuracy layer 0", {"probe.steps": 2}, {"probe.steps": 3}),
    ],
)
def test_rows_say_their_settings_and_the_same_again_replaces_them(corpus, tmp_path, name, first, second):
    analysis = {"A": "clustering", "p": "probes"}.get(name[0], name.split()[0])
    words = [f"random:{corpus / 'tiny.toml'}", "--data", corpus / "test", "--out", tmp_path, *HERE, "--only", analysis]
    words += ["--against", f"random:{corpus / 'other.toml'}"] if analysis == "memorisation" else []
    words += QUICK[2:8] if analysis == "probes" else []
    for settings in (first, second, second):
        code, _, err = run(*words, *(word for key, value in settings.items() for word in (f"--{key}", value)))
        assert code == 0, err
    rows = [row.more for row in read_results(tmp_path) if row.name == name]
    assert [{key: row[key] for key in first} for row in rows] == [first, second]


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["--memorisation.groups", "utt2mood"], 1, "utt2mood: no such file"),
        (["--only", "spectra"], 1, "unknown analysis 'spectra'; did you mean 'spectrum'?"),
        (["--only", "spectrum", "--clusterin.components", "3"], 1, "did you mean 'clustering'"),
        (["--clustering.component", "3"], 1, "did you mean 'components'"),
        (["--views.crop", "2.0"], 1, "views.crop is 2.0"),
        (["--columns", "utt2mood"], 1, "utt2mood: no such file"),
        (["--split", "0.5/0.5"], 1, "--split 0.5/0.5"),
        (["--max-utterances", "1"], 2, "give at least 2"),
        (["--out", __file__], 1, "is a file, no folder; choose another --out"),
        (["--only", "memorisation", "--against", "fbank"], 1, "has the same weights"),
        (["--only", "scatter", "--layer", "7"], 1, "layer 7: fbank has layers 0 to 0"),
        (["--only", "abx", "--abx.engine", "fast"], 1, "abx.engine"),
        (["--only", "spectrum", "--risk.shots", "3"], 2, "--risk.*: for risk, which --only leaves out"),
        (["--only", "spectrum", "--probe.steps", "3"], 2, "--probe.*: for probes and risk, which --only leaves out"),
        (["--only", "risk", "--views.crop", "0.5"], 2, "--views.*: for alignment and memorisation, which"),
        (["--only", "alignment", "--against", "x"], 2, "--against: for memorisation, which --only leaves out"),
        (["--only", "spectrum", "--train", "x"], 2, "--train: for risk, which --only leaves out"),
        (["--seed", "-1"], 2, "--seed -1 is negative"),
    ],
)
def test_misuse_is_one_line(corpus, tmp_path, words, status, message):
    code, out, err = run("fbank", "--data", corpus / "test", "--out", tmp_path / "d", *HERE, *words)
    assert code == status
    assert message in err.splitlines()[-1]
    assert out == ""


@pytest.mark.parametrize("only", [(), ("--only", "risk")])
def test_risk_refuses_to_train_on_the_data_that_it_calls_unseen(corpus, tmp_path, monkeypatch, only):
    def passed(*_, **__):
        raise AssertionError("the encoder ran")

    monkeypatch.setattr("audiossl.diagnostics.subject.pooled_features", passed)
    copy = shutil.copytree(corpus / "test", tmp_path / "copy")
    for train in (corpus / "test", copy):
        words = ["fbank", "--data", corpus / "test", "--train", train, "--out", tmp_path / "d", *HERE, *only]
        code, out, err = run(*words, "--max-utterances", "30")
        said = f"--train {train}: holds the same recordings as --data {corpus / 'test'}, which risk wants unseen"
        assert (code, out, err.count("\n")) == (1, "", 1)
        assert f"{said}; give another --train or --data" in err


def test_training_data_calibrate_random_weights_of_a_recipe(corpus, tmp_path):
    """So `--train` is of use there without risk too; to other sources it would be nothing."""
    words = [f"random:{corpus / 'tiny.toml'}", "--data", corpus / "test", *HERE, "--only", "spectrum", "--json"]
    found = []
    for train in ("test", "bare"):
        code, out, err = run(*words, "--out", tmp_path / train, "--train", corpus / train)
        assert code == 0, err
        found.append(out)
    assert found[0] != found[1]
