"""`audiossl verify`: its JSON and files against the metrics, each back-end, and one line for each misuse."""

from __future__ import annotations

import json
import shutil
from itertools import combinations

import numpy as np
import pytest
from command import complains
from verify_runs import make_corpus, measured, run

from audiossl.diagnostics.results import read_results
from audiossl.metrics.d_prime import d_prime
from audiossl.metrics.equal_error_rate import equal_error_rate
from audiossl.metrics.min_dcf import min_dcf
from audiossl.metrics.score_overlap import score_overlap
from audiossl.verification.embeddings import Embeddings, EmbeddingWriter
from audiossl.verification.scores import read_scores, scores_of
from audiossl.verification.trials import read_trials


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("verify"))


def test_cosine_scores_and_their_files(corpus, tmp_path):
    root, scores, labels = corpus
    words = ["--trials", root / "trials", "--embeddings", root / "e", "--out", tmp_path / "out"]
    found = measured(*words)
    assert found == {
        "eer": pytest.approx(equal_error_rate(scores, labels), abs=0.3),
        "min_dcf": pytest.approx(min_dcf(scores, labels), abs=0.02),
        "min_dcf_raw": pytest.approx(found["min_dcf"] / 100),
        "score_overlap": pytest.approx(score_overlap(scores, labels), abs=0.3),
        "d_prime": pytest.approx(d_prime(scores, labels), rel=1e-4),
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
    eer, cost, *others = read_results(tmp_path / "out")
    assert [row.name for row in others] == ["min_dcf_raw trials", "score_overlap trials", "d_prime trials"]
    assert [row.value for row in others] == [found[row.name.split()[0]] for row in others]
    assert (eer.name, eer.value, eer.unit, eer.seed) == ("EER trials", found["eer"], "%", None)
    assert (cost.name, cost.value, cost.more["p_target"]) == ("min_dcf trials", found["min_dcf"], 0.01)
    assert eer.more["selection"] == "unknown"  # nothing says where these embeddings come from
    # The scores that were written are worth the same.
    again = measured("--trials", root / "trials", "--scores", tmp_path / "out" / "scores")
    assert again == pytest.approx(found)
    code, out, _ = run(*words[:4])
    assert code == 0
    assert f"{found['eer']:.3f} %" in out
    assert all(name in out for name in found if not name.startswith("num"))
    assert f"{labels.sum()} target and" in out


def test_without_a_folder_every_run_has_one_of_its_own(corpus, tmp_path, monkeypatch):
    root, *_ = corpus
    shutil.copytree(root / "e", tmp_path / "e", ignore=shutil.ignore_patterns("verify_*"))
    (tmp_path / "few.txt").write_text((root / "dev").read_text())
    base = ["--trials", tmp_path / "few.txt", "--embeddings", tmp_path / "e"]
    code, out, err = run(*base, "--json")
    (place,) = (tmp_path / "e").glob("verify_few_*")
    said = f"audiossl: {place}: holds scores, det.png, histogram.png and results.json; --out puts them elsewhere\n"
    assert (code, err, json.loads(out)) == (0, said, measured(*base, "--out", tmp_path / "out"))
    names = {"scores", "det.png", "histogram.png", "results.json"}
    assert {path.name for path in place.iterdir()} == names
    # The same command again, of a list that has changed too, replaces it; others have folders of their own.
    (tmp_path / "few.txt").write_text("".join((root / "dev").read_text().splitlines(keepends=True)[:300]))
    measured(*base)
    assert len((place / "scores").read_text().splitlines()) == 300
    measured(*base, "--plda", root / "c")
    (trained,) = set((tmp_path / "e").glob("verify_few_*")) - {place}
    assert {path.name for path in trained.iterdir()} == {*names, "plda.safetensors"}
    matrix, scores = tmp_path / "e" / "embeddings.npy", tmp_path / "out" / "scores"
    for words in (["--embeddings", matrix], ["--scores", scores]):
        measured(*base[:2], *words)
        assert len(list(words[1].parent.glob("verify_few_*/det.png"))) == (3 if words[1] == matrix else 1)
    # A list of the same name in another folder is another one.
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        shutil.copy(root / "dev", tmp_path / name / "list")
        monkeypatch.chdir(tmp_path / name)
        measured("--trials", "list", *base[2:])
    assert len(list((tmp_path / "e").glob("verify_list_*"))) == 2
    # `--overwrite` is the cure that the error names. What verify has not written stays otherwise, and a run that fails leaves nothing.
    (place / "results.json").unlink()
    kept = (place / "scores").read_bytes()
    code, _, err = run(*base)
    assert (code, "exists already, and no results.json says of what" in err) == (1, True)
    assert (place / "scores").read_bytes() == kept
    assert run(*base, "--overwrite")[0] == 0
    before = sorted(tmp_path.rglob("*"))
    assert run(*base, "--cohort", root / "c", "--norm", "as")[0] == 1
    assert run(*base[:3], tmp_path / "nowhere")[0] == 1
    assert sorted(tmp_path.rglob("*")) == before
    monkeypatch.setattr("os.access", lambda *_: False)
    code, _, err = run(*base)
    assert (code, err) == (1, f"audiossl: {tmp_path / 'e'}: cannot be written; give --out\n")


def test_normalised_scores(corpus, tmp_path):
    root, cosines, _ = corpus
    trials = read_trials(root / "trials")
    base = ["--trials", root / "trials", "--embeddings", root / "e", "--cohort", root / "c", "--out", tmp_path]
    base.append("--overwrite")
    found = []
    for words in (
        ["--norm", "s"],
        ["--norm", "as", "--top", "20"],
        ["--norm", "as", "--top", "20", "--speaker-means"],
        ["--norm", "as", "--top", "20", "--speaker-means", "--plain-means"],
        ["--norm", "s", "--plda", root / "c"],
    ):
        assert "cllr" not in measured(*base, *words)  # what is normalised is no likelihood ratio
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


def test_plda_is_trained_kept_and_used_again(corpus, tmp_path):
    root, *_ = corpus
    base = ["--trials", root / "trials", "--embeddings", root / "e", "--plda"]
    found = measured(*base, root / "c", "--out", tmp_path)
    assert found["act_dcf"] >= found["min_dcf"]
    assert 0 < found["cllr"] < 1
    assert measured(*base, tmp_path / "plda.safetensors") == found


def test_models_of_several_utterances_and_a_second_length(corpus, tmp_path):
    root, *_ = corpus
    models = [f"s{number:02}" for number in range(20)]
    (tmp_path / "map").write_text("".join(f"{name} {name}-0 {name}-1 {name}-2\n" for name in models))
    pairs = [(name, f"{other}-4") for name in models for other in models[:12]]
    (tmp_path / "trials").write_text("".join(f"{int(n == o[:3])} {n} {o}\n" for n, o in pairs))
    base = ["--trials", tmp_path / "trials", "--embeddings", root / "e", "--enrol-map", tmp_path / "map"]
    measured(*base, "--out", tmp_path / "out")
    store, trials = Embeddings.open(root / "e"), read_trials(tmp_path / "trials")
    unit = {name: row / np.linalg.norm(row) for name, row in zip(store.ids, store.matrix, strict=True)}
    for name in models:
        mean = np.mean(store.matrix[store.rows([f"{name}-{k}" for k in range(3)])], axis=0)
        unit[name] = mean / np.linalg.norm(mean)
    wanted = [unit[name] @ unit[other] for name, other in pairs]
    np.testing.assert_allclose(scores_of(trials, read_scores(tmp_path / "out" / "scores")), wanted, atol=1e-6)
    assert read_results(tmp_path / "out")[0].more["enrol_map"] == str(tmp_path / "map")
    plda = [*base, "--plda", root / "c"]
    plain = measured(*plda, "--out", tmp_path / "plda")
    twice = measured(*plda, "--plda-rescale", "--out", tmp_path / "twice")
    assert twice["cllr"] != plain["cllr"]
    kept = [*base, "--plda", tmp_path / "plda" / "plda.safetensors", "--plda-rescale"]
    assert measured(*kept) == twice


def test_subtracted_mean_and_conventions(corpus):
    root, *_ = corpus
    base = ["--trials", root / "trials", "--embeddings", root / "e"]
    assert measured(*base, "--subtract-mean", root / "c") != measured(*base)
    rates = [measured(*base, "--eer", name)["eer"] for name in ("interpolated", "max", "mean", "convex_hull")]
    assert rates[3] <= rates[0] <= rates[1]
    assert len(set(rates)) > 1
    costly = measured(*base, "--p-target", "0.2", "--c-miss", "3", "--c-fa", "2")
    assert costly["min_dcf_raw"] == pytest.approx(costly["min_dcf"] * 0.6)


def test_intervals_over_trials_and_speakers(corpus, tmp_path):
    root, *_ = corpus
    base = ["--trials", root / "trials", "--embeddings", root / "e", "--bootstrap", "60"]
    one = measured(*base, "--out", tmp_path)
    assert one["eer_interval"][0] < one["eer"] < one["eer_interval"][1]
    assert one == measured(*base)
    assert measured(*base, "--seed", "1")["eer_interval"] != one["eer_interval"]
    assert measured(*base, "--utt2spk", root / "e" / "utt2spk")["eer_interval"] != one["eer_interval"]
    assert read_results(tmp_path)[0].more["eer_interval"] == one["eer_interval"]


def test_a_row_says_what_the_scores_depend_on_and_replaces_the_one_that_said_the_same(corpus, tmp_path):
    root, *_ = corpus
    base = ["--trials", root / "trials", "--embeddings", root / "e", "--out", tmp_path / "out"]
    measured(*base)
    measured(*base, "--bootstrap", "60")
    measured(*base, "--bootstrap", "60", "--seed", "1")
    eer, *_ = read_results(tmp_path / "out")
    assert (eer.seed, len(eer.more["eer_interval"])) == (1, 2)
    measured(*base, "--eer", "max")  # minDCF is the same measurement again
    base.append("--overwrite")
    measured(*base, "--subtract-mean", root / "c")
    norm = ["--cohort", root / "c", "--norm", "as", "--top", "20", "--speaker-means"]
    measured(*base, *norm)
    rows = [row.more for row in read_results(tmp_path / "out") if row.name == "EER trials"]
    assert [row["convention"] for row in rows] == ["interpolated", "max", "interpolated", "interpolated"]
    assert len(read_results(tmp_path / "out")) == 4 + 3 * 4
    assert (rows[2]["subtract_mean"], rows[3]["top"], rows[3]["speaker_means"]) == (str(root / "c"), 20, True)
    measured("--trials", root / "dev", *base[2:4], "--out", tmp_path / "dev")
    fit = ["--calibrate", tmp_path / "dev" / "scores", root / "dev", "--quality", "norm"]
    measured(*base, *fit)
    kept = ["--calibration", tmp_path / "out" / "calibration.json", "--quality", "norm"]
    measured(*base, *kept)
    *_, fitted, again = [row.more for row in read_results(tmp_path / "out") if row.name == "EER trials"]
    assert (fitted["calibrate"], fitted["quality"]) == ([str(fit[1]), str(fit[2])], ["norm"])
    assert (fitted["calibrated_on"], again["calibration"]) == (str(root / "dev"), str(kept[1]))
    assert again["calibrated_on"] == str(tmp_path / "out" / "calibration.trials")


def test_scores_of_others_and_inputs_are_not_replaced(corpus, tmp_path):
    root, *_ = corpus
    first, out = (root / "trials").read_text().splitlines(keepends=True), tmp_path / "out"
    (tmp_path / "few").write_text("".join(first[:20]))
    base = ["--trials", root / "trials", "--embeddings", root / "e", "--out", out]
    fit = ["--calibrate", tmp_path / "dev" / "scores", root / "dev"]
    measured("--trials", root / "dev", *base[2:4], "--out", tmp_path / "dev")
    measured(*base)
    kept = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    settings = "scores: is of other trials or settings ("
    for words, message in (
        (["--trials", tmp_path / "few", *base[2:]], f"{settings}trials {root / 'trials'}, not {tmp_path / 'few'})"),
        ([*base, "--subtract-mean", root / "c"], f"{settings}subtract_mean None, not {root / 'c'})"),
        ([*base, *fit], f"{settings}calibrate None, not ["),
        (
            [*base[:2], "--scores", out / "scores", *fit, *base[4:]],
            "scores: is read by this run, which would replace it",
        ),
        (["--trials", root / "dev", *base[2:4], *fit, "--out", tmp_path / "dev"], "dev/scores: is read by this run"),
    ):
        more = [] if "read by" in message else ["; choose another --out, or --overwrite\n"]
        code, text, err = run(*words)
        assert (code, text) == (1, "")
        assert all(part in err for part in (message, *more))
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == kept
    # What an option alone allows: never the file that is read.
    assert run(*base[:2], "--scores", out / "scores", *fit, *base[4:], "--overwrite")[0] == 1
    for more in (
        [],
        ["--bootstrap", "60"],
        ["--eer", "max"],
        ["--p-target", "0.05"],
    ):  # the same scores, measured otherwise
        measured(*base, *more)
        assert (out / "scores").read_bytes() == kept[out / "scores"]
    measured(*base, *fit, "--overwrite")
    assert run(*base, *fit, "--p-target", "0.05")[0] == 1  # the prior of the fit
    measured(*base, *fit)
    again = ["--trials", tmp_path / "few", *base[2:4], "--out", tmp_path / "again"]
    measured(*again)
    (tmp_path / "few").write_text("".join(first[:30]))  # another list by the same name
    assert f"{settings}num_" in run(*again)[2]
    (out / "results.json").unlink()
    code, _, err = run(*base, *fit)
    assert (code, "exists already, and no results.json says of what" in err) == (1, True)


def test_a_killed_run_can_be_run_again(corpus, tmp_path, monkeypatch):
    root, *_ = corpus
    words = ["--trials", root / "trials", "--embeddings", root / "e", "--out", tmp_path]

    def killed(*_, **__):
        raise KeyboardInterrupt

    for place in ("_verify_results._draw", "_verify_results._add_rows"):
        with monkeypatch.context() as patch:
            patch.setattr(f"audiossl.cli.{place}", killed)
            assert run(*words)[0] == 130
        assert not (tmp_path / "scores").exists()
    measured(*words)


def test_a_given_seed_names_the_run(corpus, tmp_path):
    root, *_ = corpus
    base = ["--trials", root / "trials", "--embeddings", root / "e", "--out", tmp_path]
    for more, seed in (([], None), (["--seed", "3"], 3), (["--bootstrap", "60"], 0), (["--seed", "0"], 0)):
        measured(*base, *more)
        assert {row.seed for row in read_results(tmp_path)} == {seed}


def test_raw_crop_means_are_cosines_of_mean_embeddings(tmp_path):
    rng = np.random.default_rng(0)
    crops = rng.standard_normal((12, 3, 8)) * rng.uniform(0.2, 5, (12, 3, 1))
    ids = [f"u{row:02}" for row in range(12)]
    with EmbeddingWriter(tmp_path / "e", 8, crops=3) as writer:
        writer.add(ids, crops)
    (tmp_path / "trials").write_text(
        "".join(f"{int(j == i + 1)} {ids[i]} {ids[j]}\n" for i, j in combinations(range(12), 2))
    )
    base = ["--trials", tmp_path / "trials", "--embeddings", tmp_path / "e", "--out", tmp_path, "--overwrite"]
    units = crops / np.linalg.norm(crops, axis=2, keepdims=True)
    raw = crops.mean(axis=1)
    raw /= np.linalg.norm(raw, axis=1, keepdims=True)
    for words, points in (([], units.mean(axis=1)), (["unit"], units.mean(axis=1)), (["raw"], raw)):
        measured(*base, *(["--crop-mean", *words] if words else []))
        wanted = [points[i] @ points[j] for i, j in combinations(range(12), 2)]
        found = scores_of(read_trials(tmp_path / "trials"), read_scores(tmp_path / "scores"))
        np.testing.assert_allclose(found, wanted, atol=1e-6)
    with EmbeddingWriter(tmp_path / "flat", 8) as writer:
        writer.add(ids, raw)
    code, _, err = run("--trials", tmp_path / "trials", "--embeddings", tmp_path / "flat", "--crop-mean", "raw")
    assert code == 1
    assert "holds no crops; leave out --crop-mean" in err


def test_a_mean_of_damaged_embeddings_names_them(corpus, tmp_path):
    root, *_ = corpus
    matrix = np.load(root / "c" / "embeddings.npy")
    matrix[17, 3] = np.nan
    np.save(tmp_path / "embeddings.npy", matrix)
    (tmp_path / "embeddings.ids").write_bytes((root / "c" / "embeddings.ids").read_bytes())
    name = (root / "c" / "embeddings.ids").read_text().split()[17]
    code, _, err = run("--trials", root / "trials", "--embeddings", root / "e", "--subtract-mean", tmp_path)
    assert code == 1
    assert f"{tmp_path / 'embeddings.npy'}: the embedding of {name} is not finite" in err


def test_an_utterance_against_itself_is_counted_and_said(corpus, tmp_path):
    root, *_ = corpus
    (tmp_path / "trials").write_text("1 s00-0 s00-0\n1 s00-0 s00-1\n0 s00-0 s01-0\n")
    code, out, err = run("--trials", tmp_path / "trials", "--embeddings", root / "e", "--out", tmp_path)
    assert code == 0
    assert "2 target and 1 non-target trials" in out
    assert "1 trials compare an utterance with itself;" in err
    (tmp_path / "map").write_text("m s00-0 s00-2\n")
    (tmp_path / "trials").write_text("1 m s00-0\n1 m s00-1\n0 m s01-0\n")
    means = ["--enrol-map", tmp_path / "map", "--out", tmp_path / "means"]
    _, _, err = run("--trials", tmp_path / "trials", "--embeddings", root / "e", *means)
    assert "1 trials compare an utterance with itself, or with a mean that it is part of;" in err


def test_given_ratios(corpus, tmp_path):
    root, scores, _ = corpus
    trials = read_trials(root / "trials")
    rows = zip(trials.enrol, trials.test, scores, strict=True)
    (tmp_path / "s").write_text("".join(f"{trials.names[i]} {trials.names[j]} {s}\n" for i, j, s in rows))
    base = ["--trials", root / "trials", "--scores", tmp_path / "s"]
    assert measured(*base, "--llr")["cllr"] > 0.5
    assert "cllr" not in measured(*base)


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
        (["--embeddings", "e", "--plda-rescale"], "--plda-rescale goes with --plda"),
        (["--scores", "s", "--enrol-map", "m"], "--enrol-map goes with --embeddings"),
        (["--scores", "s", "--plda", "p"], "--plda goes with --embeddings"),
        (["--embeddings", "e", "--plda", "p", "--subtract-mean", "m"], "exclude one another"),
        (["--embeddings", "e", "--calibrate", "s", "t", "--calibration", "c"], "exclude one another"),
        (["--embeddings", "e", "--quality", "norm"], "add --calibrate or --calibration"),
        (["--embeddings", "e", "--quality", "cohort", "--calibration", "c"], "needs --cohort"),
        (["--embeddings", "e", "--quality", "duration", "--calibration", "c"], "--utt2dur go together"),
        (["--embeddings", "e", "--utt2dur", "d"], "--utt2dur go together"),
        (["--embeddings", "e", "--utt2spk", "u"], "--utt2spk goes with --bootstrap"),
        (["--embeddings", "e", "--bootstrap", "40", "--seed", "-1"], "audiossl verify: --seed -1 is negative; give 0"),
        (["--embeddings", "e", "--plda", "p", "--crop-mean", "raw"], "--crop-mean is for cosines"),
        (["--scores", "s", "--crop-mean", "raw"], "--crop-mean goes with --embeddings"),
        (["--embeddings", "e", "--calibrate-embeddings", "d"], "--calibrate-embeddings goes with --calibrate"),
        (
            ["--embeddings", "e", "--calibrate", "s", "t", "--calibrate-embeddings", "d"],
            "goes with --quality norm or cohort",
        ),
        (
            ["--embeddings", "e", "--calibrate", "s", "t", "--calibrate-utt2dur", "d"],
            "--calibrate-utt2dur goes with --utt2dur",
        ),
    ],
)
def test_misuse(words, message):
    assert message in complains("verify", "--trials", "t", *words, status=2)


def test_faults_are_one_line_each(corpus, tmp_path):
    root, *_ = corpus
    (tmp_path / "trials").write_text("s00-0 s00-1 target\ns00-0 nobody nontarget\n")
    with EmbeddingWriter(tmp_path / "wide", 9) as writer:
        writer.add(["a", "b"], np.ones((2, 9)))
    (tmp_path / "targets").write_text("s00-0 s00-1 target\n")
    base = ["--trials", root / "trials", "--embeddings", root / "e"]
    lone = f"{tmp_path / 'targets'}: 1 target and 0 non-target trials: error rates need both; add trials of the other"
    for words, message in (
        (["--trials", tmp_path / "trials", "--embeddings", root / "e"], "trials:2: "),
        (["--trials", tmp_path / "targets", "--embeddings", tmp_path / "nowhere"], lone),  # before any work
        ([*base, "--calibrate", tmp_path / "nowhere", tmp_path / "targets"], lone),
        (["--trials", tmp_path / "nowhere", "--embeddings", root / "e"], "nowhere: no such file"),
        (["--trials", root, "--embeddings", root / "e"], f"{root}: is a folder; give a file of `enrol test target"),
        ([*base[:2], "--scores", tmp_path], f"{tmp_path}: is a folder; give a file of `enrol test score` lines"),
        ([*base, "--calibration", root / "e"], f"{root / 'e'}: Is a directory; give a file"),
        ([*base, "--bootstrap", "5"], "5 bootstrap samples cannot show"),
        ([*base, "--cohort", root / "c", "--norm", "as"], "the cohort has 150 members, fewer than 300"),
        ([*base, "--cohort", tmp_path / "wide", "--norm", "s"], "embeddings of 9 numbers"),
        ([*base, "--p-target", "1"], "no prior"),
        ([*base, "--out", tmp_path / "trials"], "trials: is a file, no folder; choose another --out"),
        (["--trials", root / "trials", "--embeddings", tmp_path], "no such file; write it with `audiossl embed`"),
    ):
        assert message in complains("verify", *words)
