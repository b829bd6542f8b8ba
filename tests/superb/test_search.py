"""The search from end to end against a loop over pairs and cells, and what chooses the layer."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from held_folder import held
from search_data import LAYERS, features, upstream, write

from audiossl.data.loader import LoaderConfig
from audiossl.data.manifest import Manifest
from audiossl.superb import search
from audiossl.superb.job import Evaluation, Job
from audiossl.superb.layer_store import store_layers
from audiossl.superb.search import Config, Moments, layer_moments, merged, run, searched
from audiossl.tasks.query_by_example import QueryByExample, Truth

CONFIG = Config(batch_seconds=2.0, num_workers=0)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write(tmp_path_factory.mktemp("search"))


def alignment(local):
    """Least cost of a path that begins and ends anywhere in the document: one step per query frame, of 0, 1 or 2 document frames."""
    cost = local[0].copy()
    for row in local[1:]:
        cost = np.array([row[j] + min(cost[k] for k in (j, j - 1, j - 2) if k >= 0) for j in range(len(row))])
    return cost.min() / len(local)


def by_hand(source, data, part, layer):
    """(query, document), in the order of the manifests."""
    queries, documents = (
        [features(source, manifest, index, layer) for index in range(len(manifest))]
        for manifest in (Manifest.open(data / part), Manifest.open(data / "documents"))
    )
    everything = np.concatenate([*queries, *documents])
    mean, deviation = everything.mean(0), everything.std(0, ddof=1)
    scores = np.zeros((len(queries), len(documents)))
    for q, query in enumerate(queries):
        if len(query) < 5:
            continue
        for d, document in enumerate(documents):
            x, y = (query - mean) / deviation, (document - mean) / deviation
            local = np.array([[1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b) for b in y] for a in x])
            local = np.exp(local) - 1
            low, high = local.min(1, keepdims=True), local.max(1, keepdims=True)
            scores[q, d] = -alignment((local - low) / np.clip(high - low, 1e-9, None))
    return (scores - scores.mean(1, keepdims=True)) / np.clip(scores.std(1, keepdims=True), 1e-9, None)


def evaluation(data, source):
    return Evaluation(source, "layers", data, 0, "cpu", print)


def given(data, out, source, *, config=CONFIG):
    job = Job("query_by_example", "query_by_example", QueryByExample, QueryByExample.Config(), config)
    return run(job, evaluation(data, source), out)


@pytest.mark.parametrize("part", ["queries_dev", "queries_eval"])
@pytest.mark.parametrize("layer", range(LAYERS))
def test_scores_equal_a_loop_over_pairs(data, tmp_path, monkeypatch, part, layer):
    monkeypatch.setattr(search, "_GROUP_FRAMES", 300)
    source, _ = upstream()
    stores = [
        store_layers(
            Manifest.open(data / name), source, tmp_path / name, layers=range(LAYERS), precision="float32",
            loading=LoaderConfig(batch_seconds=2.0, num_workers=0), log=print,
        )
        for name in (part, "documents")
    ]  # fmt: skip
    found = searched(*stores, layer, QueryByExample.Config(), device="cpu")
    order = [np.argsort(store.ids) for store in stores]
    wanted = by_hand(source, data, part, layer)
    np.testing.assert_allclose(found[np.ix_(*order)], wanted, rtol=0, atol=1e-6)
    assert (wanted[3] == 0).all()
    assert (np.abs(wanted[:3]).max(axis=1) > 1).all()


def test_the_best_layer_of_the_development_queries_is_scored(data, tmp_path):
    source, _ = upstream()
    score = given(data, tmp_path, source)
    plain = source.extract
    source = replace(source, extract=lambda waveform, lengths: plain(10 ** (-3 / 20) * waveform, lengths))
    dev, test = {}, {}
    for part, values in (("queries_dev", dev), ("queries_eval", test)):
        queries, documents = list(Manifest.open(data / part).ids), list(Manifest.open(data / "documents").ids)
        truth = Truth.read(data / part, data / "documents", documents)
        for layer in range(LAYERS):
            scores = by_hand(source, data, part, layer)
            values[layer] = QueryByExample().evaluate(scores, queries, documents, truth)
    best = max(range(LAYERS), key=lambda layer: dev[layer]["mtwv"])
    assert best == 2
    assert len({values["mtwv"] for values in dev.values()}) == 3
    assert score.values == pytest.approx(test[best])
    assert score.more["layer"] == best
    assert score.more["dev_by_layer"] == pytest.approx({str(layer): dev[layer]["mtwv"] for layer in dev})
    assert (score.metric, score.selection, score.learning_rate, score.parameters) == ("mtwv", "dev mtwv", None, 0)
    assert score.cost.forwards == 28
    assert score.cost.alone_forwards == LAYERS * (24 + 24)
    assert not (tmp_path / "layers").exists()
    relevant = {tuple(line.split()) for line in (data / "queries_eval" / "relevant").read_text().splitlines()}
    rows = [(*line.split()[:2], float(line.split()[2])) for line in score.answers["scores"]]
    assert len(rows) == 4 * 20
    assert term_weighted_value(rows, relevant) == pytest.approx(score.values["mtwv"])


def term_weighted_value(rows, relevant):
    """Largest over thresholds. rows: (query, document, score)."""
    best = 0.0
    for threshold in {score for *_, score in rows}:
        values = []
        for query in {query for query, _ in relevant}:
            own = [((query, document) in relevant, score >= threshold) for q, document, score in rows if q == query]
            hits, targets = sum(both == (True, True) for both in own), sum(wanted for wanted, _ in own)
            alarms = sum(both == (False, True) for both in own)
            values.append(hits / targets - 12.49 * alarms / (len(own) - targets))
        best = max(best, sum(values) / len(values))
    return best


def test_a_damaged_document_counts_as_one_that_is_not_found(data, tmp_path):
    shutil.copytree(data, tmp_path / "data", ignore=shutil.ignore_patterns(".index"))
    damaged = tmp_path / "data" / "audio" / "d00.wav"
    table = tmp_path / "data" / "documents" / "wav.scp"
    table.write_text(table.read_text().replace(str(data / "audio" / "d00.wav"), str(damaged)))
    damaged.write_bytes(b"RIFF but nothing else")
    assert " d00" in (data / "queries_dev" / "relevant").read_text()
    settings = replace(CONFIG, layers=(2,), max_bad_fraction=0.1)
    whole = given(data, tmp_path / "whole", upstream()[0], config=settings)
    found = given(tmp_path / "data", tmp_path / "damaged", upstream()[0], config=settings)
    assert found.more["dev_by_layer"]["2"] < whole.more["dev_by_layer"]["2"]


def test_what_is_relevant_is_checked_before_the_pass(data, tmp_path):
    shutil.copytree(data, tmp_path / "data", ignore=shutil.ignore_patterns(".index"))
    (tmp_path / "data" / "queries_eval" / "relevant").write_text("e0 d77\n")
    source, calls = upstream()
    with pytest.raises(ValueError, match=r"queries_eval/relevant:1: 'd77' is not among the documents"):
        given(tmp_path / "data", tmp_path / "out", source)
    (tmp_path / "data" / "queries_eval" / "relevant").write_text("nobody d03\n")
    with pytest.raises(
        ValueError, match=r"queries_eval/relevant: none of the searched documents holds a searched query"
    ):
        given(tmp_path / "data", tmp_path / "out", source)
    assert calls == []


def test_an_interrupted_search_goes_on(data, tmp_path, monkeypatch):
    whole = given(data, tmp_path / "whole", upstream()[0])
    done, plain = [], searched

    def failing(*arguments, **settings):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(arguments[2])
        return plain(*arguments, **settings)

    monkeypatch.setattr(search, "searched", failing)
    with pytest.raises(KeyboardInterrupt):
        given(data, tmp_path / "cut", upstream()[0])
    later = []
    monkeypatch.setattr(search, "searched", lambda *a, **k: (later.append(a[2]), plain(*a, **k))[1])
    source, _ = upstream()
    score = given(data, tmp_path / "cut", source)
    assert score.cost.forwards == 0
    assert later == [2, score.more["layer"]]
    assert (score.values, score.more) == (whole.values, whole.more)


def test_two_searches_do_not_share_a_folder(data, tmp_path):
    kept = tmp_path / "layers" / "documents" / "frames.bin"
    kept.parent.mkdir(parents=True)
    kept.touch()
    source, calls = upstream()
    with (
        held(tmp_path) as pid,
        pytest.raises(ValueError, match=rf"another run \(pid {pid} on .* writes here; wait for it"),
    ):
        given(data, tmp_path, source)
    assert kept.exists()
    assert calls == []


def test_layers_searched_with_other_settings_are_searched_again(data, tmp_path):
    source, _ = upstream()
    stores = search._stores(evaluation(data, source), tmp_path / "layers", (0, 1, 2), CONFIG)
    journal = tmp_path / "layers" / "dev.json"
    journal.write_text(json.dumps({"task": {"distance": "cosine"}, "dev": [[0, 0.5]]}))
    stores = search._stores(evaluation(data, source), tmp_path / "layers", (0, 1, 2), CONFIG)
    assert search._earlier(tmp_path, stores, {"task": {"distance": "cosine_exp"}}) == {}
    assert search._earlier(tmp_path, stores, {"task": {"distance": "cosine"}}) == {0: 0.5}
    assert search._earlier(tmp_path, stores, {"task": {"distance": "cosine"}, "data": "other labels"}) == {}


def test_chosen_layers_alone_and_faults(data, tmp_path):
    source, _ = upstream()
    score = given(data, tmp_path, source, config=Config(layers=(1,), batch_seconds=2.0, num_workers=0))
    assert list(score.more["dev_by_layer"]) == ["1"]
    with pytest.raises(ValueError, match=r"superb\.layers: layers has layers 0 to 2, not 3"):
        given(data, tmp_path, source, config=Config(layers=(0, 3)))
    with pytest.raises(
        ValueError, match=r"superb\.cache_gb: 3 layers take about 8.15e-05 GB, more than 1e-06; raise it"
    ):
        given(data, tmp_path, source, config=Config(cache_gb=1e-6))


def test_how_much_frames_take_is_said_before_they_are_written(data, tmp_path, capsys):
    with pytest.raises(KeyboardInterrupt):
        given(data, tmp_path, upstream(fail_after=0)[0])
    assert "frames: 8.15e-05 GB, budget 100 GB" in capsys.readouterr().out.splitlines()


def test_moments_are_those_of_all_frames_at_once(data, tmp_path, monkeypatch):
    monkeypatch.setattr(search, "_GROUP_FRAMES", 77)
    store = search._stores(evaluation(data, upstream()[0]), tmp_path, (0, 1, 2), CONFIG)["documents"]
    frames = np.concatenate([item.numpy() for items in store.groups(1, 77) for item in items]).astype(np.float64)
    found = layer_moments(store, 1)
    assert found.frames == len(frames)
    np.testing.assert_allclose(found.mean, frames.mean(0), atol=1e-12)
    np.testing.assert_allclose(found.squares / len(frames), frames.var(0), atol=1e-12)
    nothing = Moments(0, np.zeros(6), np.zeros(6))
    np.testing.assert_array_equal(merged(nothing, found).squares, found.squares)
