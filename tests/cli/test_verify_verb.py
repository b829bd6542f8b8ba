"""`audiossl verify`: its JSON and files against the metrics, each back-end, and one line for each misuse."""

from __future__ import annotations

import json
from itertools import combinations

import numpy as np
import pytest

from audiossl.cli.main import main
from audiossl.diagnostics.results import read_results
from audiossl.metrics.equal_error_rate import equal_error_rate
from audiossl.metrics.min_dcf import min_dcf
from audiossl.verification.embeddings import EmbeddingWriter
from audiossl.verification.scores import read_scores, scores_of
from audiossl.verification.trials import read_trials

EACH = 6


def write_embeddings(folder, speakers, seed, prefix=""):
    """Noise around a point per speaker, with `utt2spk`; returns the matrix and the ids."""
    rng = np.random.default_rng(seed)
    matrix = np.repeat(rng.standard_normal((speakers, 8)), EACH, axis=0) + 1.2 * rng.standard_normal(
        (EACH * speakers, 8)
    )
    ids = [f"{prefix}s{row // EACH:02}-{row % EACH}" for row in range(len(matrix))]
    with EmbeddingWriter(folder, 8) as writer:
        writer.add(ids, matrix)
    (folder / "utt2spk").write_text("".join(f"{name} {name.split('-')[0]}\n" for name in ids))
    return matrix, ids


def write_trials(path, ids, count, seed):
    """Random pairs, a third of them of one speaker; returns (enrol, test, label) rows."""
    rng, rows = np.random.default_rng(seed), []
    for _ in range(count):
        i, alike = int(rng.integers(len(ids))), bool(rng.random() < 0.3)
        block = i // EACH if alike else (i // EACH + rng.integers(1, len(ids) // EACH)) % (len(ids) // EACH)
        rows.append((i, int(EACH * block + (i + rng.integers(1, EACH)) % EACH), alike))
    path.write_text("".join(f"{int(same)} {ids[i]} {ids[j]}\n" for i, j, same in rows))
    return rows


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    root = tmp_path_factory.mktemp("verify")
    matrix, ids = write_embeddings(root / "e", 30, 0)
    write_embeddings(root / "c", 25, 1, "c")
    rows = write_trials(root / "trials", ids, 600, 0)
    write_trials(root / "dev", ids, 500, 1)
    (root / "utt2dur").write_text("".join(f"{name} {2 + index % 7}\n" for index, name in enumerate(ids)))
    units = matrix / np.linalg.norm(matrix, axis=1, keepdims=True)
    return root, np.array([units[i] @ units[j] for i, j, _ in rows]), np.array([label for *_, label in rows])


def run(words, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["verify", *map(str, words)])
    out, err = capsys.readouterr()
    return stop.value.code, out, err


def measured(words, capsys):
    code, out, err = run([*words, "--json"], capsys)
    assert code == 0, err
    return json.loads(out)


def test_cosine_scores_and_their_files(corpus, tmp_path, capsys):
    root, scores, labels = corpus
    words = ["--trials", root / "trials", "--embeddings", root / "e", "--out", tmp_path / "out"]
    found = measured(words, capsys)
    assert found == {
        "eer": pytest.approx(equal_error_rate(scores, labels), abs=0.3),
        "min_dcf": pytest.approx(min_dcf(scores, labels), abs=0.02),
        "min_dcf_raw": pytest.approx(found["min_dcf"] / 100),
        "num_target": labels.sum(),
        "num_nontarget": (~labels).sum(),
    }
    assert 2 < found["eer"] < 45
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "scores",
        "det.png",
        "histogram.png",
        "results.json",
    }
    assert (tmp_path / "out" / "det.png").read_bytes().startswith(b"\x89PNG")
    trials = read_trials(root / "trials")
    np.testing.assert_allclose(scores_of(trials, read_scores(tmp_path / "out" / "scores")), scores, atol=1e-6)
    eer, cost = read_results(tmp_path / "out")
    assert (eer.name, eer.value, eer.unit, eer.seed) == ("EER trials", found["eer"], "%", None)
    assert (cost.name, cost.value, cost.more["p_target"]) == ("min_dcf trials", found["min_dcf"], 0.01)
    # The scores that were written are worth the same.
    again = measured(["--trials", root / "trials", "--scores", tmp_path / "out" / "scores"], capsys)
    assert again == pytest.approx(found)
    code, out, _ = run(words[:4], capsys)
    assert code == 0
    assert f"{found['eer']:.3f} %" in out
    assert f"{labels.sum()} target and" in out


def test_normalised_scores(corpus, tmp_path, capsys):
    root, cosines, _ = corpus
    trials = read_trials(root / "trials")
    base = ["--trials", root / "trials", "--embeddings", root / "e", "--cohort", root / "c", "--out", tmp_path]
    found = []
    for words in (
        ["--norm", "s"],
        ["--norm", "as", "--top", "20"],
        ["--norm", "as", "--top", "20", "--speaker-means"],
        ["--norm", "as", "--top", "20", "--speaker-means", "--plain-means"],
        ["--norm", "s", "--plda", root / "c"],
    ):
        assert "cllr" not in measured([*base, *words], capsys)  # what is normalised is no likelihood ratio
        found.append(scores_of(trials, read_scores(tmp_path / "scores")))
    for one, other in combinations(found, 2):
        assert np.abs(one - other).max() > 0.1
    # S-norm by its definition.
    e, c = (np.load(root / name / "embeddings.npy").astype(np.float64) for name in "ec")
    e, c = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (e, c))
    crowd = dict(zip((root / "e" / "embeddings.ids").read_text().split(), e @ c.T, strict=True))
    sides = [np.stack([crowd[trials.names[number]] for number in side]) for side in (trials.enrol, trials.test)]
    wanted = np.mean([(cosines - side.mean(axis=1)) / side.std(axis=1) for side in sides], axis=0)
    np.testing.assert_allclose(found[0], wanted, atol=1e-4)


def test_plda_is_trained_kept_and_used_again(corpus, tmp_path, capsys):
    root, *_ = corpus
    base = ["--trials", root / "trials", "--embeddings", root / "e", "--plda"]
    found = measured([*base, root / "c", "--out", tmp_path], capsys)
    assert found["act_dcf"] >= found["min_dcf"]
    assert 0 < found["cllr"] < 1
    assert measured([*base, tmp_path / "plda.safetensors"], capsys) == found


def test_calibration_with_quality_is_kept_and_used_again(corpus, tmp_path, capsys):
    root, *_ = corpus
    base = ["--embeddings", root / "e", "--cohort", root / "c", "--norm", "as", "--top", "30"]
    measured(["--trials", root / "dev", *base, "--out", tmp_path / "dev"], capsys)
    trials = [
        "--trials",
        root / "trials",
        *base,
        "--quality",
        "duration",
        "norm",
        "cohort",
        "--utt2dur",
        root / "utt2dur",
    ]
    fit = ["--calibrate", tmp_path / "dev" / "scores", root / "dev"]
    found = measured([*trials, *fit, "--out", tmp_path / "out"], capsys)
    assert found["cllr"] < 0.9
    names = list(json.loads((tmp_path / "out" / "calibration.json").read_text())["weights"])
    assert names == ["score", *(f"{kind}_{end}" for kind in ("duration", "norm", "cohort") for end in ("min", "max"))]
    kept = ["--calibration", tmp_path / "out" / "calibration.json"]
    assert measured([*trials, *kept], capsys) == pytest.approx(found)
    code, _, err = run(["--trials", root / "trials", *base, *kept], capsys)
    assert code == 1
    assert "give the same --quality" in err


def test_subtracted_mean_and_conventions(corpus, capsys):
    root, *_ = corpus
    base = ["--trials", root / "trials", "--embeddings", root / "e"]
    assert measured([*base, "--subtract-mean", root / "c"], capsys) != measured(base, capsys)
    rates = [measured([*base, "--eer", name], capsys)["eer"] for name in ("interpolated", "max", "mean", "convex_hull")]
    assert rates[3] <= rates[0] <= rates[1]
    assert len(set(rates)) > 1
    costly = measured([*base, "--p-target", "0.2", "--c-miss", "3", "--c-fa", "2"], capsys)
    assert costly["min_dcf_raw"] == pytest.approx(costly["min_dcf"] * 0.6)


def test_intervals_over_trials_and_speakers(corpus, tmp_path, capsys):
    root, *_ = corpus
    base = ["--trials", root / "trials", "--embeddings", root / "e", "--bootstrap", "60"]
    one = measured([*base, "--out", tmp_path], capsys)
    assert one["eer_interval"][0] < one["eer"] < one["eer_interval"][1]
    assert one == measured(base, capsys)
    assert measured([*base, "--seed", "1"], capsys)["eer_interval"] != one["eer_interval"]
    assert measured([*base, "--utt2spk", root / "e" / "utt2spk"], capsys)["eer_interval"] != one["eer_interval"]
    assert read_results(tmp_path)[0].more["eer_interval"] == one["eer_interval"]


def test_given_ratios(corpus, tmp_path, capsys):
    root, scores, _ = corpus
    trials = read_trials(root / "trials")
    rows = zip(trials.enrol, trials.test, scores, strict=True)
    (tmp_path / "s").write_text("".join(f"{trials.names[i]} {trials.names[j]} {s}\n" for i, j, s in rows))
    base = ["--trials", root / "trials", "--scores", tmp_path / "s"]
    assert measured([*base, "--llr"], capsys)["cllr"] > 0.5
    assert "cllr" not in measured(base, capsys)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give either --embeddings or --scores"),
        (["--embeddings", "e", "--scores", "s"], "give either"),
        (["--embeddings", "e", "--cohort", "c"], "--cohort goes with --norm"),
        (["--embeddings", "e", "--norm", "as"], "--norm goes with --cohort"),
        (["--scores", "s", "--cohort", "c", "--norm", "s"], "--cohort goes with --embeddings"),
        (["--embeddings", "e", "--top", "3"], "--top goes with --norm"),
        (["--embeddings", "e", "--cohort", "c", "--norm", "s", "--top", "3"], "--top is for --norm as"),
        (["--embeddings", "e", "--speaker-means"], "--speaker-means goes with --cohort"),
        (["--embeddings", "e", "--llr"], "--llr goes with --scores"),
        (["--scores", "s", "--plda", "p"], "--plda goes with --embeddings"),
        (["--embeddings", "e", "--plda", "p", "--subtract-mean", "m"], "exclude one another"),
        (["--embeddings", "e", "--calibrate", "s", "t", "--calibration", "c"], "exclude one another"),
        (["--embeddings", "e", "--quality", "norm"], "add --calibrate or --calibration"),
        (["--embeddings", "e", "--quality", "cohort", "--calibration", "c"], "needs --cohort"),
        (["--embeddings", "e", "--quality", "duration", "--calibration", "c"], "--utt2dur go together"),
        (["--embeddings", "e", "--utt2dur", "d"], "--utt2dur go together"),
        (["--embeddings", "e", "--utt2spk", "u"], "--utt2spk goes with --bootstrap"),
    ],
)
def test_misuse(words, message, capsys):
    code, out, err = run(["--trials", "t", *words], capsys)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_faults_are_one_line_each(corpus, tmp_path, capsys):
    root, *_ = corpus
    (tmp_path / "trials").write_text("s00-0 s00-1 target\ns00-0 nobody nontarget\n")
    with EmbeddingWriter(tmp_path / "wide", 9) as writer:
        writer.add(["a", "b"], np.ones((2, 9)))
    base = ["--trials", root / "trials", "--embeddings", root / "e"]
    for words, message in (
        (["--trials", tmp_path / "trials", "--embeddings", root / "e"], "trials:2: "),
        (["--trials", tmp_path / "nowhere", "--embeddings", root / "e"], "nowhere: no such file"),
        ([*base, "--bootstrap", "5"], "5 bootstrap samples cannot show"),
        ([*base, "--cohort", root / "c", "--norm", "as"], "the cohort has 150 members, fewer than 300"),
        ([*base, "--cohort", tmp_path / "wide", "--norm", "s"], "embeddings of 9 numbers"),
        ([*base, "--p-target", "1"], "no prior"),
    ):
        code, out, err = run(words, capsys)
        assert (code, out) == (1, "")
        assert message in err
        assert err.count("\n") == 1
