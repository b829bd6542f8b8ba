"""The pooled runner from data directories to a score, on an upstream that is a few sums over the waveform."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from audiossl import registry
from audiossl.config import build, find_recipe, load_toml
from audiossl.contracts import EncoderOutput
from audiossl.data.audio import write_audio
from audiossl.data.writer import CorpusUtterance, write_data_dir
from audiossl.diagnostics.batched_heads import HeadGrid, HeadShape
from audiossl.diagnostics.head_training import shuffled
from audiossl.diagnostics.sources import FeatureSource
from audiossl.superb import pooled
from audiossl.superb.job import Evaluation, Job
from audiossl.superb.pooled import Config, run

RATE, HOP, TONES = 16_000, 400, (400, 1200, 2400)
SMALL = {"batch": 8, "steps": 40, "eval_every": 20, "num_workers": 0, "batch_seconds": 4.0}


def source():
    """Two layers of four numbers per frame: energy at each of three tones and the frame's own, and twice that."""
    time = torch.arange(HOP) / RATE
    waves = torch.stack([torch.exp(2j * math.pi * tone * time) for tone in TONES])
    calls = []

    def extract(waveform, lengths):
        calls.append(len(waveform))
        frames = waveform[:, : waveform.shape[1] // HOP * HOP].unflatten(1, (-1, HOP))
        energy = (frames.to(waves.dtype) @ waves.T).abs() / HOP
        layer = torch.cat([energy, frames.square().mean(-1, keepdim=True)], dim=-1)
        return EncoderOutput([layer, 2 * layer], lengths // HOP)

    return FeatureSource("tones", "d" * 64, RATE, 2, 4, HOP, HOP, extract), calls


def write(folder, rows, seed, *, seconds=0.3, quiet=0.02):
    """rows: (tone or None for hiss alone, columns)."""
    rng = np.random.default_rng(seed)
    utterances = []
    (folder.parent / "audio").mkdir(parents=True, exist_ok=True)
    for number, (tone, columns) in enumerate(rows):
        count = round((seconds + 0.01 * (number % 5)) * RATE)
        wave = quiet * rng.standard_normal(count)
        if tone is not None:
            wave += 0.3 * np.sin(2 * np.pi * TONES[tone] * np.arange(count) / RATE + rng.uniform(0, 6))
        path = folder.parent / "audio" / f"{folder.name}{number}.wav"
        write_audio(path, wave, RATE)
        speaker = columns.pop("speaker", "s")
        name = f"{speaker}-{folder.name}{number:03d}"
        utterances.append(CorpusUtterance(name, name, path, speaker, columns=columns))
    write_data_dir(utterances, folder)


def words(counts, column="utt2keyword"):
    return [(tone, {column: f"w{tone}"}) for tone, count in enumerate(counts) for _ in range(count)]


def score(task, config, data, out, **more):
    cls = registry.get("tasks", task)
    features, calls = source()
    said = []
    job = Job(task, task, cls, cls.Config(**more), config)
    return run(job, Evaluation(features, "tones", data, 3, "cpu", said.append), out / "task"), calls, said


@pytest.fixture(scope="module")
def keywords(tmp_path_factory):
    data = tmp_path_factory.mktemp("ks")
    for seed, (part, counts) in enumerate({"train": (20, 10, 6), "dev": (6, 3, 2), "test": (5, 5, 5)}.items()):
        write(data / part, words(counts), seed)
    return data


def test_a_score_says_what_it_is_and_what_it_cost(keywords, tmp_path):
    config = Config(learning_rates=(1e-1, 1e-5), sampling="balanced", **{**SMALL, "steps": 150, "eval_every": 50})
    found, calls, _ = score("keyword", config, keywords, tmp_path)
    assert found.values == {"accuracy": 100.0}
    assert (found.metric, found.learning_rate, found.selection) == ("accuracy", 0.1, "dev accuracy, classes alike")
    assert list(found.dev) == [1e-1, 1e-5]
    assert found.dev[1e-1] == pytest.approx(100.0)
    assert found.dev[1e-5] < 100.0
    assert found.step in {50, 100, 150}
    assert found.parameters == 2 + 4 * 256 + 256 + 256 * 3 + 3
    assert sum(found.shares) == pytest.approx(1.0)
    assert len(found.shares) == 2
    assert sum(calls) == found.cost.forwards == 36 + 11 + 15
    assert found.cost.alone_forwards == 2 * (150 * 8 + 3 * 11 + 15)
    assert found.more["utterances"] == {"train": 36, "dev": 11, "test": 15}
    again, calls, _ = score("keyword", config, keywords, tmp_path)
    assert calls == []
    assert again.cost.forwards == 0
    assert (again.values, again.dev, again.shares) == (found.values, found.dev, found.shares)
    found.write(tmp_path / "written")


def test_the_score_is_that_of_heads_trained_alone_online(keywords, tmp_path):
    """Each learning rate by itself with torch's own parts, the upstream run at every step, choice on dev, test once."""
    rates, batch, steps, every = (2e-3, 1e-3), 8, 40, 20
    config = Config(learning_rates=rates, **SMALL)
    found, *_ = score("keyword", config, keywords, tmp_path)
    extract = source()[0].extract
    parts = {}
    for name in ("train", "dev", "test"):
        manifest = pooled.Manifest.open(keywords / name)
        waves = [torch.from_numpy(manifest.audio(k, sample_rate=RATE)) for k in range(len(manifest))]
        labels = torch.tensor([int(word[1:]) for word in manifest.column("utt2keyword")])
        parts[name] = (waves, labels)
    start = HeadGrid.start(HeadShape(2, 4, 256, (3,)), 1, (3,), torch.float32, "cpu").state(0, 0)
    best = {}
    for rate in rates:
        own = nn.ParameterDict({name.replace(".", "_"): value.clone() for name, value in start.items()})

        def logits(wave, own=own):
            layers = [layer[0] for layer in extract(wave[None], torch.tensor([len(wave)])).layers]
            x = sum(w * layer for w, layer in zip(own["weighted_layer_logits"].softmax(0), layers, strict=True))
            x = F.linear(x, own["projector_weight"], own["projector_bias"]).mean(dim=0)
            return F.linear(x, own["classifier_weight"], own["classifier_bias"])

        def accuracy(part, logits=logits):
            waves, labels = parts[part]
            with torch.no_grad():
                return 100 * float((torch.stack([logits(w) for w in waves]).argmax(1) == labels).double().mean())

        optimiser = torch.optim.Adam(own.parameters(), lr=rate)
        order = shuffled(36, batch, [3, 0])
        for step in range(1, steps + 1):
            items = next(order)
            optimiser.zero_grad()
            F.cross_entropy(
                torch.stack([logits(parts["train"][0][i]) for i in items]), parts["train"][1][items]
            ).backward()
            nn.utils.clip_grad_norm_(own.parameters(), 1.0)
            optimiser.step()
            if step % every == 0 and accuracy("dev") > best.get(rate, (-1.0,))[0]:
                shares = own["weighted_layer_logits"].detach().softmax(0)
                best[rate] = (accuracy("dev"), accuracy("test"), shares.tolist())
    assert found.dev == {rate: pytest.approx(best[rate][0]) for rate in rates}
    assert found.values["accuracy"] == pytest.approx(best[found.learning_rate][1])
    assert found.shares == pytest.approx(best[found.learning_rate][2], abs=1e-5)
    assert len(set(found.dev.values())) > 1  # or else it would tell little
    assert found.shares != (0.5, 0.5)


def test_logits_of_the_runner_are_those_of_a_head_trained_alone(keywords, tmp_path, monkeypatch):
    """At a rate at which what float32 rounds off would show; torch's own Adam in float64, on the same features."""
    seen, logits, predict = [], [], pooled._predict

    def watched(task, fold, read):
        seen.append(fold)
        task.head.register_forward_hook(lambda module, inputs, output: logits.append(output))
        return predict(task, fold, read)

    monkeypatch.setattr(pooled, "_predict", watched)
    steps = 300
    config = Config(learning_rates=(3e-2,), **{**SMALL, "steps": steps, "eval_every": steps})
    found, *_ = score("keyword", config, keywords, tmp_path)
    assert (found.step, found.more["precision"]) == (steps, "float64")
    own = HeadGrid.start(HeadShape(2, 4, 256, (3,)), 1, (3,), torch.float64, "cpu").state(0, 0)
    optimiser = torch.optim.Adam([value.requires_grad_() for value in own.values()], lr=3e-2)

    def alone(split, items):
        x = torch.einsum(
            "l,bld->bd", own["weighted.layer_logits"].softmax(0), torch.from_numpy(split.gather(items)).double()
        )
        x = F.linear(x, own["projector.weight"], own["projector.bias"])
        return F.linear(x, own["classifier.weight"], own["classifier.bias"])

    order = shuffled(36, 8, [3, 0])
    for _ in range(steps):
        items = np.sort(next(order))
        optimiser.zero_grad()
        F.cross_entropy(alone(seen[0].train, items), torch.from_numpy(seen[0].train.slots[items, 0])).backward()
        nn.utils.clip_grad_norm_(own.values(), 1.0)
        optimiser.step()
    wanted = alone(seen[0].test, np.arange(15)).detach()
    torch.testing.assert_close(torch.cat(logits).double(), wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("device", "dtype"), [("cpu", torch.float64), ("cuda", torch.float32), ("mps", torch.float32)])
def test_precision_goes_by_the_device(device, dtype):
    assert pooled._precision(torch.device(device)) == dtype


def test_level_and_memory_change_what_they_say(keywords, tmp_path):
    quick = {**SMALL, "steps": 4, "learning_rates": (1e-2,)}
    plain, _, said = score("keyword", Config(**quick), keywords, tmp_path)
    assert any("in memory" in line for line in said)
    mapped, calls, said = score("keyword", Config(memory_gb=0.0, **quick), keywords, tmp_path)
    assert any("from the disk at each step" in line for line in said)
    assert calls == []
    assert (mapped.values, mapped.dev, mapped.shares) == (plain.values, plain.dev, plain.shares)
    softer, calls, _ = score("keyword", Config(gain_db=-6.0, **quick), keywords, tmp_path)
    assert sum(calls) == softer.cost.forwards > 0  # no cache of another level is used
    features, _ = source()
    wave, length = torch.randn(1, 4000), torch.tensor([4000])
    quiet = pooled.louder(features, -20.0)
    torch.testing.assert_close(quiet.extract(wave, length).layers[0], features.extract(0.1 * wave, length).layers[0])
    assert quiet.digest != features.digest
    assert pooled.louder(features, 0.0) is features


def test_intents_are_three_labels_of_one_head(tmp_path):
    def rows(count):
        return [
            (k % 3, {"utt2action": f"a{min(k % 3, 1)}", "utt2object": f"o{k % 3}", "utt2location": f"p{max(k % 3, 1)}"})
            for k in range(count)
        ]

    for seed, (part, count) in enumerate({"train": 30, "dev": 9, "test": 12}.items()):
        write(tmp_path / part, rows(count), seed)
    config = Config(learning_rates=(1e-1, 1e-2), **{**SMALL, "steps": 150, "eval_every": 50})
    found, *_ = score("intent", config, tmp_path, tmp_path / "out")
    assert found.values == {
        "accuracy": 100.0,
        "accuracy_action": 100.0,
        "accuracy_object": 100.0,
        "accuracy_location": 100.0,
    }
    lines = [line.split() for line in found.answers["predictions"]]
    assert [(line[0], *line[4:]) for line in lines] == [
        (f"s-test{k:03d}", f"a{min(k % 3, 1)}", f"o{k % 3}", f"p{max(k % 3, 1)}") for k in range(12)
    ]
    assert all(line[1:4] == line[4:] for line in lines)
    assert found.parameters == 2 + 4 * 256 + 256 + 257 * (2 + 3 + 2)
    with pytest.raises(ValueError, match="superb.sampling: 'balanced' needs one label"):
        score("intent", Config(sampling="balanced", **SMALL), tmp_path, tmp_path / "out")


def emotions(folder, *, sessions=5, each=12):
    """In session k the tones mean other emotions than elsewhere for k of `each` utterances: accuracy tells which session was left out."""
    rows = []
    for session in range(sessions):
        for k in range(each):
            said = (k + (k < session)) % 3
            rows.append((k % 3, {"utt2emotion": f"e{said}", "utt2session": f"S{session}", "speaker": f"s{session}"}))
    write(folder / "all", rows, 0, quiet=0.005)


def test_every_session_is_left_out_once_and_dev_is_a_share_of_the_rest(tmp_path, monkeypatch):
    emotions(tmp_path)
    seen = []
    original = pooled.fit
    monkeypatch.setattr(
        pooled, "fit", lambda groups, *args, **more: seen.extend(groups) or original(groups, *args, **more)
    )
    config = Config(learning_rates=(1e-1, 1e-3), folds="utt2session", **{**SMALL, "steps": 120, "eval_every": 40})
    found, calls, _ = score("emotion", config, tmp_path, tmp_path / "out")
    assert sum(calls) == found.cost.forwards == 60
    assert len(seen) == 5
    for session, group in enumerate(seen):
        train, dev = set(group.train.rows.tolist()), set(group.dev.rows.tolist())
        assert (len(train), len(dev)) == (38, 10)  # 80 % of 48, rounded down
        assert train | dev == set(range(60)) - set(range(12 * session, 12 * session + 12))
    assert found.cost.alone_forwards == 2 * 5 * (120 * 8 + 3 * 10 + 12)
    assert [fold["accuracy"] for fold in found.more["folds"].values()] == pytest.approx(
        [100 * (12 - k) / 12 for k in range(5)]
    )
    assert found.values["accuracy"] == pytest.approx(100 * 50 / 60)
    lines = [line.split() for line in found.answers["predictions"]]
    assert [line[0].upper()[:2] for line in lines] == [line[3] for line in lines]
    folds = [[line[1] == line[2] for line in lines if line[3] == f"S{k}"] for k in range(5)]
    assert [100 * np.mean(fold) for fold in folds] == pytest.approx([100 * (12 - k) / 12 for k in range(5)])
    assert found.step == max(fold["step"] for fold in found.more["folds"].values())
    assert set(found.values) == {"accuracy", "unweighted_average_recall"}
    assert found.more["variant"].startswith("one learning rate for all folds")
    alone, *_ = score("emotion", replace(config, learning_rates=(1e-1,)), tmp_path, tmp_path / "out")
    assert "variant" not in alone.more


def test_crops_are_drawn_beforehand_and_said(tmp_path):
    for seed, (part, count) in enumerate({"train": 8, "dev": 6, "test": 6}.items()):
        rows = [(k % 2, {"speaker": f"v{k % 2}"}) for k in range(count)]
        write(tmp_path / part, rows, seed, seconds=0.49)
    config = Config(learning_rates=(1e-1,), crops=3, crop_seconds=0.5, **SMALL)
    found, calls, _ = score("speaker", config, tmp_path, tmp_path / "out")
    # Of the eight four are longer than half a second, by at least 10 ms.
    assert sum(calls) == found.cost.forwards == (4 * 3 + 4) + 6 + 6
    assert found.more["crops"] == 3
    assert found.more["utterances"]["train"] == 24
    assert "3 crops of 0.5 s" in found.more["variant"]
    assert found.values["accuracy"] == 100.0


def test_what_is_wrong_with_data_is_said_before_the_pass(keywords, tmp_path):
    for part in ("train", "dev"):
        (tmp_path / part).symlink_to(keywords / part)
    write(tmp_path / "test", [*words((1, 1)), (2, {"utt2keyword": "never"})], 0)
    with pytest.raises(ValueError, match=r"utt2keyword: s-test002 is of class 'never', which training does not have"):
        score("keyword", Config(**SMALL), tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    emotions(tmp_path / "er", sessions=1)
    with pytest.raises(ValueError, match="utt2session: has only 'S0'"):
        score("emotion", Config(folds="utt2session", **SMALL), tmp_path / "er", tmp_path / "out")
    rows = [(k, {"utt2emotion": f"e{k}", "utt2session": f"S{k}"}) for k in range(2)]
    write(tmp_path / "tiny" / "all", rows, 0)
    with pytest.raises(
        ValueError, match="utt2session: 1 of its utterances are not of 'S0', too few for train and dev; give more"
    ):
        score("emotion", Config(folds="utt2session", **SMALL), tmp_path / "tiny", tmp_path / "out")
    for part in ("train", "dev", "test"):
        write(tmp_path / "one" / part, [(k, {"speaker": "s"}) for k in range(2)], 0)
    with pytest.raises(ValueError, match="utt2spk: has one speaker; give recordings of at least two"):
        score("speaker", Config(**SMALL), tmp_path / "one", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_label_of_two_words_is_told_how_to_be_one(tmp_path):
    for part in ("train", "dev", "test"):
        write(tmp_path / part, [(k, {"utt2keyword": ("off", "turn on")[k]}) for k in range(2)], 0)
    with pytest.raises(ValueError, match=r"train001 says 'turn on'; a label is one word: write it with underscores"):
        score("keyword", Config(**SMALL), tmp_path, tmp_path / "out")


def test_a_rate_that_diverges_is_named(keywords, tmp_path):
    config = Config(learning_rates=(1e200, 1e-2), **SMALL)
    found, _, said = score("keyword", config, keywords, tmp_path)
    assert list(found.dev) == [1e-2]
    assert "learning rate 1e+200: the loss was never finite; it is left out" in said


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"learning_rates": ()}, "learning_rates"),
        ({"learning_rates": (0.1, 0.1)}, "learning_rates"),
        ({"steps": 0}, "at least 1"),
        ({"crops": -1}, "at least 0"),
        ({"dev_share": 1.0}, "dev_share"),
        ({"folds": "utt2session", "crops": 2}, "superb.folds"),
    ],
)
def test_config_refuses_nonsense(wrong, match):
    with pytest.raises(ValueError, match=match):
        Config(**wrong)


@pytest.mark.parametrize(
    ("short", "steps", "batch", "every"), [("ks", 200_000, 32, 5000), ("sid", 200_000, 32, 5000), ("ic", 200_000, 32, 5000), ("er", 30_000, 32, 1000)]
)  # fmt: skip
def test_recipes_hold_the_published_numbers(short, steps, batch, every):
    tables = load_toml(find_recipe(f"superb_{short}"))
    task = registry.get("tasks", tables["task"].pop("name"))
    assert task.runner == "pooled"
    assert build(task.Config, tables["task"], short) == task.Config()
    config = build(Config, tables["superb"], short)
    assert (config.steps, config.batch, config.eval_every, config.clip_norm) == (steps, batch, every, 1.0)
    assert not config.standardise
    assert config.sampling == ("balanced" if short == "ks" else "shuffled")
    assert (config.crops, config.gain_db) == (4 * (short == "sid"), -3.0 * (short == "ks"))
    assert config.folds == ("utt2session" if short == "er" else "")
