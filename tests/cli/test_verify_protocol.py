"""`audiossl verify`: what scores are calibrated on and chosen by, and what the results say of it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from verify_runs import make_corpus, measured, run, write_embeddings, write_trials

from audiossl.diagnostics.results import read_results
from audiossl.verification.calibration import fit_calibration, quality_features
from audiossl.verification.embeddings import Embeddings, EmbeddingWriter
from audiossl.verification.protocol import Selection, keep_selection
from audiossl.verification.scores import read_scores, scores_of
from audiossl.verification.trials import read_trials


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("verify"))


def test_calibration_with_quality_is_kept_and_used_again(corpus, tmp_path):
    root, *_ = corpus
    base = ["--embeddings", root / "e", "--cohort", root / "c", "--norm", "as", "--top", "30"]
    measured("--trials", root / "dev", *base, "--out", tmp_path / "dev")
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
    found = measured(*trials, *fit, "--out", tmp_path / "out")
    assert found["cllr"] < 0.9
    names = list(json.loads((tmp_path / "out" / "calibration.json").read_text())["weights"])
    assert names == ["score", *(f"{kind}_{end}" for kind in ("duration", "norm", "cohort") for end in ("min", "max"))]
    kept = ["--calibration", tmp_path / "out" / "calibration.json"]
    assert measured(*trials, *kept) == pytest.approx(found)
    code, _, err = run("--trials", root / "trials", *base, *kept)
    assert code == 1
    assert "give the same --quality" in err


def test_length_is_a_quality_after_the_mean_is_subtracted(corpus, tmp_path):
    root, *_ = corpus
    base = ["--embeddings", root / "e", "--subtract-mean", root / "c"]
    measured("--trials", root / "dev", *base, "--out", tmp_path / "dev")
    fit = ["--calibrate", tmp_path / "dev" / "scores", root / "dev", "--quality", "norm"]
    measured("--trials", root / "trials", *base, *fit, "--out", tmp_path / "out")
    trials, store = read_trials(root / "dev"), Embeddings.open(root / "e")
    mean = np.load(root / "c" / "embeddings.npy").mean(axis=0)
    lengths = np.linalg.norm(store.matrix[store.rows(trials.names)] - mean, axis=1)
    names, quality = quality_features(trials, {"norm": lengths})
    columns = np.column_stack([scores_of(trials, read_scores(tmp_path / "dev" / "scores")), quality])
    wanted = fit_calibration(columns, trials.labels, names=("score", *names), prior=0.01).weights
    weights = json.loads((tmp_path / "out" / "calibration.json").read_text())["weights"]
    assert list(weights.values()) == pytest.approx(list(wanted), rel=1e-4)


def test_a_calibration_that_turns_scores_over_is_refused(corpus, tmp_path):
    root, *_ = corpus
    measured("--trials", root / "dev", "--embeddings", root / "e", "--out", tmp_path / "dev")
    scores = [line.split() for line in (tmp_path / "dev" / "scores").read_text().splitlines()]
    (tmp_path / "distances").write_text("".join(f"{one} {other} {-float(score)}\n" for one, other, score in scores))
    base = ["--trials", root / "trials", "--embeddings", root / "e"]
    code, out, err = run(*base, "--calibrate", tmp_path / "distances", root / "dev", "--out", tmp_path / "o")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "the weight of the score is -" in err
    assert not any((tmp_path / "o").iterdir())


def test_calibration_on_the_scored_trials_needs_a_flag_and_is_recorded(corpus, tmp_path):
    root, *_ = corpus
    base = ["--trials", root / "trials", "--embeddings", root / "e", "--out", tmp_path / "out"]
    measured(*base)
    # The same pairs the other way round and without some of them are the same list.
    lines = [line.split() for line in (root / "trials").read_text().splitlines()]
    (tmp_path / "turned").write_text("".join(f"{label} {test} {enrol}\n" for label, enrol, test in lines[:400]))
    turned = ["--trials", tmp_path / "turned", "--embeddings", root / "e", "--out", tmp_path / "dev"]
    measured(*turned)
    fit = ["--calibrate", tmp_path / "dev" / "scores", tmp_path / "turned"]
    base.append("--overwrite")
    code, _, err = run(*base, *fit)
    assert code == 1
    assert "the calibration was fitted on these trials" in err
    assert err.count("\n") == 1
    measured(*base, *fit, "--select-on-test")
    assert read_results(tmp_path / "out")[-1].more["calibrated_on"] == "test"
    kept = ["--calibration", tmp_path / "out" / "calibration.json"]
    assert "add --select-on-test" in run(*base, *kept)[2]
    measured(*base, *kept, "--select-on-test")
    # Development trials that only overlap are others; the row names them.
    other = measured(*base, "--calibrate", tmp_path / "dev" / "scores", tmp_path / "turned", "--select-on-test")
    assert other["cllr"] > 0


def test_a_selection_goes_with_embeddings_and_scores(corpus, tmp_path):
    root, *_ = corpus
    for name in ("embeddings.npy", "embeddings.ids"):
        (tmp_path / name).write_bytes((root / "e" / name).read_bytes())
    keep_selection(Selection("/data/dev", root / "dev"), tmp_path)
    measured("--trials", root / "trials", "--embeddings", tmp_path, "--out", tmp_path / "out")
    assert {row.more["selection"] for row in read_results(tmp_path / "out")} == {"/data/dev"}
    again = ["--scores", tmp_path / "out" / "scores", "--out", tmp_path / "again"]
    measured("--trials", root / "trials", *again)
    assert {row.more["selection"] for row in read_results(tmp_path / "again")} == {"/data/dev"}
    base = ["--trials", root / "dev", "--embeddings", tmp_path, "--out", tmp_path / "dev"]
    code, out, err = run(*base)
    assert (code, out) == (1, "")
    assert "the checkpoint was selected on these trials (/data/dev)" in err
    measured(*base, "--select-on-test")
    assert {row.more["selection"] for row in read_results(tmp_path / "dev")} == {"test"}
    # Scores of others in the same folder do not inherit it.
    others = ["--trials", root / "trials", "--embeddings", root / "e", "--out", tmp_path / "out", "--overwrite"]
    measured(*others)
    assert read_results(tmp_path / "out")[-1].more["selection"] == "unknown"
    assert not list((tmp_path / "out").glob("selection*"))


def test_quality_of_development_trials_comes_from_their_own_embeddings(corpus, tmp_path):
    root, *_ = corpus
    _, ids = write_embeddings(tmp_path / "e", 20, 3, "dev-")
    write_trials(tmp_path / "trials", ids, 400, 4)
    (tmp_path / "utt2dur").write_text("".join(f"{name} {1 + index % 5}\n" for index, name in enumerate(ids)))
    measured("--trials", tmp_path / "trials", "--embeddings", tmp_path / "e", "--out", tmp_path / "dev")
    base = ["--trials", root / "trials", "--embeddings", root / "e", "--utt2dur", root / "utt2dur"]
    base += ["--quality", "duration", "norm", "--calibrate", tmp_path / "dev" / "scores", tmp_path / "trials"]
    code, _, err = run(*base)
    assert code == 1
    assert "utt2dur" in err
    own = ["--calibrate-utt2dur", tmp_path / "utt2dur"]
    code, _, err = run(*base, *own)
    assert code == 1
    assert "holds no embedding of 'dev-s" in err
    own += ["--calibrate-embeddings", tmp_path / "e"]
    assert measured(*base, *own, "--out", tmp_path / "out")["cllr"] < 1
    # By hand: the length of each side's development embedding.
    store, dev = Embeddings.open(tmp_path / "e"), read_trials(tmp_path / "trials")
    lengths = np.linalg.norm(store.matrix[store.rows(dev.names)].astype(np.float64), axis=1)
    seconds = dict(line.split() for line in (tmp_path / "utt2dur").read_text().splitlines())
    logs = np.log([float(seconds[name]) for name in dev.names])
    columns = [scores_of(dev, read_scores(tmp_path / "dev" / "scores"))]
    for values in (logs, lengths):
        sides = values[dev.enrol], values[dev.test]
        columns += [np.minimum(*sides), np.maximum(*sides)]
    wanted = fit_calibration(np.column_stack(columns), dev.labels, names=["score", *"abcd"], prior=0.01)
    weights = json.loads((tmp_path / "out" / "calibration.json").read_text())["weights"]
    np.testing.assert_allclose(list(weights.values()), wanted.weights, rtol=1e-6)


AS_NORM = ["--norm", "as", "--top", "20"]


@pytest.mark.parametrize(
    ("dev", "test", "message"),
    [
        ([], [*AS_NORM, "--cohort", "c"], "cohort None, norm None, top None, and this run's are with cohort "),
        ([*AS_NORM, "--cohort", "c"], [], "norm as, top 20, and this run's are with cohort None, norm None, top None"),
        ([*AS_NORM, "--cohort", "c"], [*AS_NORM[:3], "30", "--cohort", "c"], "top 20, and this run's are with top 30"),
        ([*AS_NORM, "--cohort", "c"], [*AS_NORM, "--cohort", "e"], "cohort "),
        (["--plda", "c"], [], "plda "),
        ([*AS_NORM, "--cohort", "c"], [*AS_NORM, "--cohort", "c", "--speaker-means"], "speaker_means False"),
    ],
)
def test_calibration_on_scores_made_otherwise_is_refused(corpus, tmp_path, dev, test, message):
    root, *_ = corpus
    dev, test = ([str(root / word) if word in {"c", "e"} else word for word in words] for words in (dev, test))
    base = ["--trials", root / "trials", "--embeddings", root / "e"]
    measured("--trials", root / "dev", *base[2:], *dev, "--out", tmp_path / "dev")
    fit = ["--calibrate", tmp_path / "dev" / "scores", root / "dev"]
    assert measured(*base, *dev, *fit, "--out", tmp_path / "same")["cllr"] < 1
    measured(*base, *test, "--out", tmp_path / "raw")
    for words in (
        [*base, *test, *fit],
        [*base, *test, "--calibration", tmp_path / "same" / "calibration.json"],
        [*base[:2], "--scores", tmp_path / "raw" / "scores", *fit],
    ):
        code, _, err = run(*words, "--out", tmp_path / "out")
        assert (code, err.count("\n")) == (1, 1)
        assert "results.json beside it from scores with " in err
        assert message in err
        assert not (tmp_path / "out").exists()


def test_a_saved_plda_model_is_what_it_was_trained_on(corpus, tmp_path):
    root, *_ = corpus
    base = ["--trials", root / "trials", "--embeddings", root / "e", "--out", tmp_path / "out"]
    measured("--trials", root / "dev", *base[2:4], "--plda", root / "c", "--out", tmp_path / "dev")
    fit = ["--calibrate", tmp_path / "dev" / "scores", root / "dev"]
    assert measured(*base, *fit, "--plda", tmp_path / "dev" / "plda.safetensors")["cllr"] < 1
    copied = (tmp_path / "dev" / "plda.safetensors").rename(tmp_path / "vox.safetensors")
    assert measured(*base, *fit, "--plda", copied, "--overwrite")["cllr"] < 1
    assert measured(*base, *fit, "--plda", root / "c" / "embeddings.npy", "--overwrite")["cllr"] < 1


def test_a_calibration_that_makes_scores_worthless_is_said(corpus, tmp_path):
    root, *_ = corpus
    base = ["--embeddings", root / "e"]
    measured("--trials", root / "dev", *base, "--out", tmp_path / "dev")
    (tmp_path / "scores.txt").write_bytes((tmp_path / "dev" / "scores").read_bytes())
    fit = ["--calibrate", tmp_path / "scores.txt", root / "dev"]
    said = f"{tmp_path / 'scores.txt'}: calibrated with it, these scores are worse than knowing nothing (cllr "
    test = ["--trials", root / "trials", *base]
    code, _, err = run(*test, *fit, *AS_NORM, "--cohort", root / "c", "--out", tmp_path / "normed")
    assert (code, said in err) == (0, True)
    code, _, err = run(*test, *fit, "--out", tmp_path / "out")
    assert (code, said in err) == (0, False)


def test_a_cohort_of_the_trials_own_utterances_is_said(corpus, tmp_path):
    root, *_ = corpus
    test = ["--trials", root / "trials", "--embeddings", root / "e", *AS_NORM]
    count = len(read_trials(root / "trials").names)
    code, _, err = run(*test, "--cohort", root / "e", "--out", tmp_path / "own")
    assert code == 0
    assert f"the cohort holds {count} of the {count} utterances of {root / 'trials'}" in err
    assert "the cohort holds" not in run(*test, "--cohort", root / "c", "--out", tmp_path / "others")[2]


def test_plda_and_a_mean_of_the_trials_own_utterances_are_said(corpus, tmp_path):
    root, *_ = corpus
    test = ["--trials", root / "trials", "--embeddings", root / "e"]
    count = len(read_trials(root / "trials").names)
    rows = {}
    for name, source in (("own", root / "e"), ("others", root / "c")):
        code, _, err = run(*test, "--plda", source, "--out", tmp_path / name)
        assert code == 0
        said = f"PLDA was trained on {count} of the {count} utterances of {root / 'trials'}"
        assert (said in err) == (name == "own")
        rows[name] = read_results(tmp_path / name)
    assert {row.more["plda_trial_utterances"] for row in rows["own"]} == {count}
    assert {row.more["plda_trial_utterances"] for row in rows["others"]} == {0}
    # A saved model is what it was trained on; a copied one is nobody's.
    saved = tmp_path / "own" / "plda.safetensors"
    assert said in run(*test, "--plda", saved, "--out", tmp_path / "saved")[2]
    (tmp_path / "copy.safetensors").write_bytes(saved.read_bytes())
    measured(*test, "--plda", tmp_path / "copy.safetensors", "--out", tmp_path / "copied")
    assert read_results(tmp_path / "copied")[0].more["plda_trial_utterances"] == "unknown"
    said = f"the mean is that of {count} of the {count} utterances"
    assert said in run(*test, "--subtract-mean", root / "e", "--out", tmp_path / "mean")[2]
    assert said not in run(*test, "--subtract-mean", root / "c", "--out", tmp_path / "mean_of_others")[2]


@pytest.mark.parametrize("scored", ["--embeddings", "--scores"])
def test_calibrated_scores_are_not_calibrated_like_raw_ones(corpus, tmp_path, scored):
    root, *_ = corpus
    test, dev = (["--trials", root / name, "--embeddings", root / "e"] for name in ("trials", "dev"))
    fit = ["--calibrate", tmp_path / "dev" / "scores", root / "dev"]
    measured(*dev, "--out", tmp_path / "dev")
    measured(*test, "--out", tmp_path / "raw")
    measured(*test, *fit, "--out", tmp_path / "test")  # what a calibration was fitted on is no calibrated score
    kept = ["--calibration", tmp_path / "test" / "calibration.json"]
    source = dev[2:] if scored == "--embeddings" else ["--scores", tmp_path / "dev" / "scores"]
    measured(*dev[:2], *source, *kept, "--select-on-test", "--out", tmp_path / "dev_twice")
    twice = ["--calibrate", tmp_path / "dev_twice" / "scores", root / "dev"]
    of_test = {name: ["--trials", root / "trials", "--scores", tmp_path / name / "scores"] for name in ("raw", "test")}
    for words, message in (
        ([*test, *twice], "with calibrated True, and this run's are with calibrated False; score both alike"),
        ([*of_test["raw"], *twice], "with calibrated True, and this run's are with calibrated False; score both alike"),
        ([*of_test["test"], *fit], "with calibrated False, and this run's are with calibrated True; score both alike"),
        ([*of_test["test"], *kept], "with calibrated False, and this run's are with calibrated True; score both alike"),
    ):
        code, _, err = run(*words, "--out", tmp_path / "out")
        assert (code, err.count("\n"), message in err) == (1, 1, True)
    assert measured(*test, *kept, "--out", tmp_path / "again")["cllr"] < 1
    assert measured(*of_test["test"], *twice, "--out", tmp_path / "both")["cllr"] < 1


def test_models_are_the_utterances_that_they_are_means_of(corpus, tmp_path):
    root, *_ = corpus
    models = [f"m{number:02}" for number in range(10)]
    (tmp_path / "map").write_text("".join(f"{name} s{name[1:]}-0 s{name[1:]}-1\n" for name in models))
    pairs = [(name, f"s{other[1:]}-4") for name in models for other in models]
    (tmp_path / "trials").write_text("".join(f"{int(n[1:] == o[1:3])} {n} {o}\n" for n, o in pairs))
    enrolled = np.array([name.startswith("s0") and name[-1] in "01" for name in Embeddings.open(root / "e").ids])
    with EmbeddingWriter(tmp_path / "enrolled", 8) as writer:
        store = Embeddings.open(root / "e")
        ids = [name for name, inside in zip(store.ids, enrolled, strict=True) if inside]
        writer.add(ids, store.matrix[enrolled])
    (tmp_path / "enrolled" / "utt2spk").write_text("".join(f"{name} {name[:3]}\n" for name in ids))
    base = ["--trials", tmp_path / "trials", "--embeddings", root / "e", "--enrol-map", tmp_path / "map"]
    count = f"20 of the 30 utterances of {tmp_path / 'trials'}"
    for words, said in (
        (["--plda", tmp_path / "enrolled"], f"PLDA was trained on {count}"),
        (["--subtract-mean", tmp_path / "enrolled"], f"the mean is that of {count}"),
        (["--cohort", tmp_path / "enrolled", "--norm", "s"], f"the cohort holds {count}"),
    ):
        code, _, err = run(*base, *words, "--out", tmp_path / words[0].strip("-"))
        assert (code, said in err) == (0, True)
    assert {row.more["plda_trial_utterances"] for row in read_results(tmp_path / "plda")} == {20}
    # A calibration of these utterances is one of these models.
    (tmp_path / "dev").write_text("".join(f"{int(n[:3] == o[:3])} {n} {o}\n" for n in ids[::2] for o in ids[1::2]))
    measured("--trials", tmp_path / "dev", "--embeddings", root / "e", "--out", tmp_path / "fit")
    code, _, err = run(*base, "--calibrate", tmp_path / "fit" / "scores", tmp_path / "dev", "--out", tmp_path / "out")
    assert (code, "the calibration was fitted on trials of these utterances" in err) == (1, True)
