"""What every plug-in promises, whichever file it is: a new file is tested here without an edit."""

from __future__ import annotations

import importlib.util
import inspect
import itertools
import json
import re
import shutil
from dataclasses import dataclass, fields, replace

import numpy as np
import pytest
import torch

from audiossl import registry
from audiossl.adapters.frozen import Frozen
from audiossl.config import build, load_toml, to_table, write_toml
from audiossl.contracts import read_by
from audiossl.data.audio import write_audio
from audiossl.data.collate import collate, to_tensors
from audiossl.data.kaldi import WAV_SCP
from audiossl.data.loader import BatchMaker, LoaderConfig, make_loader
from audiossl.data.manifest import Manifest
from audiossl.data.validate import faults
from audiossl.data.writer import CorpusUtterance, write_data_dir
from audiossl.interop.checkpoint import list_checkpoints, load_weights
from audiossl.nn.masking import valid_frames
from audiossl.nn.task import Task
from audiossl.nn.utterance_classifier import ClassifierConfig, UtteranceClassifier
from audiossl.train.distributed import World
from audiossl.train.fine_tune import FineTune, FineTuneConfig
from audiossl.train.loop import TrainConfig, train
from audiossl.train.optim import OptimConfig
from audiossl.units.labels import LabelWriter, UnitsCard, labels_path, write_card

RATE = 16000
CODES = 7
LOADER = LoaderConfig(batch_seconds=4.0, num_workers=0)
ALONE = World(0, 1, torch.device("cpu"))
ENCODERS = registry.names("encoders")


def on_encoders(kind):
    """Each plug-in of a kind with each encoder that has the methods it calls."""
    pairs = itertools.product(registry.names(kind), ENCODERS)
    needs = {
        name: getattr(registry.get(kind, name), "encoder_needs", FineTune.encoder_needs)
        for name in registry.names(kind)
    }
    return [(n, e) for n, e in pairs if all(hasattr(registry.get("encoders", e), need) for need in needs[n])]


ADAPTERS, OBJECTIVES = on_encoders("adapters"), on_encoders("objectives")
# A search trains nothing: its tests are those of `superb/search.py`.
TASKS = [(name, e) for name, e in on_encoders("tasks") if issubclass(registry.get("tasks", name), Task)]
CONFIGURED = [(k, n) for k in ("encoders", "objectives", "adapters", "tasks", "data_prep") for n in registry.names(k)]
SYNTHESISED = {"mini", "superb_mini"}
CORPUS_MARKS = {
    # It has nothing to imitate: it is synthesised, by processes of espeak-ng.
    **dict.fromkeys(SYNTHESISED, pytest.mark.slow),
}
CORPORA = [pytest.param(name, marks=CORPUS_MARKS.get(name, ())) for name in registry.names("data_prep")]


def tiny_encoder(name, seed=0):
    cls = registry.get("encoders", name)
    torch.manual_seed(seed)
    encoder = cls(cls.Config.tiny())
    if hasattr(encoder, "calibrate"):
        encoder.calibrate([waveforms()])
    return encoder


def waveforms():
    """Noise of three lengths, none a multiple of any hop: (3, sample), (3,)."""
    lengths = torch.tensor([16017, 11111, 7003])
    waveform = 0.1 * torch.randn(3, 16017, generator=torch.Generator().manual_seed(0))
    return waveform.masked_fill(~valid_frames(lengths, 16017), 0.0), lengths


def inputs(encoder):
    """What an encoder is given: waveforms, or units of three lengths where it reads these: (3, sample), (3,)."""
    if read_by(encoder) is None:
        return waveforms()
    lengths = torch.tensor([101, 70, 44])
    codes = torch.randint(encoder.num_codes, (3, 101), generator=torch.Generator().manual_seed(0))
    return codes.masked_fill(~valid_frames(lengths, 101), -1), lengths


def small_data(folder, label_sets=(), files=()):
    """Six utterances of noise by three speakers with all that a plug-in may want.

    label_sets: (name, rate) of random units. files: further columns that a plug-in asks for, which get one of two words.
    """
    rng = np.random.default_rng(0)
    rows = []
    folder.mkdir(parents=True)
    for number in range(6):
        samples = 8000 + 1801 * number
        path = folder / f"{number}.wav"
        write_audio(path, 0.1 * rng.standard_normal(samples), RATE)
        name, word = f"s{number % 3}-{number}", ("yes", "no")[number % 2]
        columns = {
            **{column: word for column in files if column.startswith("utt2") and column != "utt2spk"},
            "text": f"{word} {number // 3 * 'so'}".strip().upper(),
            "utt2keyword": word,
            "utt2lang": "xx",
            "utt2slots": f"B-word {word} E-word",
            "utt2turns": f"a 0 0.{number + 1} b 0.2 0.4",
            "utt2emotion": word,
            "utt2session": name[:2],
            **{f"utt2{part}": str(path) for part in ("clean", "source1", "source2")},
            **{f"utt2{slot}": word for slot in ("action", "object", "location")},
        }
        rows.append(CorpusUtterance(name, name, path, name[:2], columns=columns))
    write_data_dir(rows, folder / "data")
    pairs = [(a.id, b.id) for a, b in itertools.combinations(rows, 2)]
    trials = [f"{a} {b} {'target' if a[:2] == b[:2] else 'nontarget'}\n" for a, b in pairs]
    (folder / "data" / "trials").write_text("".join(trials), encoding="utf-8")
    manifest = Manifest.open(folder / "data")
    for name, rate in label_sets:
        counts = [int((seconds - 0.025) * rate) + 1 for seconds in manifest.durations]
        with LabelWriter(labels_path(manifest.path, name), CODES) as writer:
            for number, (utterance, count) in enumerate(zip(manifest.ids, counts, strict=True)):
                writer.add(number, utterance, rng.integers(0, CODES, count).tolist())
        write_card(manifest.path, name, UnitsCard("mfcc", "", 0, "", rate, "0" * 64, CODES, 6, sum(counts), 0))
    return manifest


def outputs(encoder):
    with torch.no_grad():
        return encoder(*inputs(encoder)).layers


def same(ours, theirs):
    return len(ours) == len(theirs) and all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize(("kind", "name"), CONFIGURED)
def test_configuration_survives_toml(tmp_path, kind, name):
    plugin = registry.get(kind, name)
    if not hasattr(plugin, "Config"):
        pytest.skip(f"{name} has no options")
    named = [make for key, make in inspect.getmembers(plugin.Config, inspect.ismethod) if not key.startswith("_")]
    assert named or kind == "data_prep"  # `tiny`, at least
    for config in [plugin.Config(), *(make() for make in named)]:
        write_toml(tmp_path / "config.toml", to_table(config))
        assert build(plugin.Config, load_toml(tmp_path / "config.toml"), name) == config


@pytest.mark.parametrize("name", ENCODERS)
def test_encoder_gives_every_layer(name):
    encoder = tiny_encoder(name).eval()
    waveform, lengths = inputs(encoder)
    output = encoder(waveform, lengths)
    frames = [encoder.num_frames(int(samples)) for samples in lengths]
    assert output.lengths.tolist() == encoder.num_frames(lengths).tolist() == frames
    assert len(output.layers) == encoder.num_layers + 1
    assert {layer.shape for layer in output.layers} == {(3, max(frames), encoder.dim)}


@pytest.mark.parametrize("name", ENCODERS)
def test_padding_changes_nothing_in_an_encoder(name):
    encoder = tiny_encoder(name).eval()
    waveform, lengths = inputs(encoder)
    layers = outputs(encoder)
    for row, samples in enumerate(lengths):
        with torch.no_grad():
            alone = encoder(waveform[row : row + 1, :samples], lengths[row : row + 1])
        for together, single in zip(layers, alone.layers, strict=True):
            # float32 sums of another order; activations are of order one
            torch.testing.assert_close(together[row, : single.shape[1]], single[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ENCODERS)
def test_gradients_reach_every_parameter_of_an_encoder(name):
    encoder = tiny_encoder(name).eval()
    waveform, lengths = inputs(encoder)
    if hasattr(encoder, "embed"):
        top = encoder.embed(waveform, lengths)
    elif hasattr(encoder, "quantise"):  # in evaluation a code is chosen, and a choice passes no gradient on
        top = encoder.train()(waveform, lengths).layers[-1]
    else:
        masked = torch.zeros(3, encoder.num_frames(waveform.shape[1]), dtype=torch.bool)
        masked[:, 2:4] = True
        top = encoder(waveform, lengths, masked=masked).layers[-1]
    (top * torch.randn_like(top)).sum().backward()
    unreached = [name for name, p in encoder.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    still = [name for name, p in encoder.named_parameters() if p.grad is not None and not p.grad.any()]
    assert unreached == still == []


@pytest.mark.parametrize("name", ENCODERS)
def test_state_of_an_encoder_is_all_there_is(name):
    encoder, other = tiny_encoder(name).eval(), tiny_encoder(name, seed=1).eval()
    assert not same(outputs(encoder), outputs(other))
    other.load_state_dict(encoder.state_dict())
    assert same(outputs(encoder), outputs(other))


def tiny_objective(name, encoder, folder, *, seed=0, **changes):
    """The objective on its own small data, with those of `changes` that its configuration knows."""
    cls = registry.get("objectives", name)
    config = cls.Config.tiny()
    known = {item.name for item in fields(config)}
    config = replace(config, **{key: value for key, value in changes.items() if key in known})
    sets = [(label, config.label_rate) for label in getattr(config, "labels", ())]
    data = folder / "data"
    manifest = Manifest.open(data) if data.exists() else small_data(folder, sets)
    module = cls.from_data(tiny_encoder(encoder, seed), config, manifest.path)
    return module, manifest


def batch_maker(module, manifest):
    return BatchMaker(manifest, module, LOADER, sample_rate=RATE, seed=0)


@pytest.mark.parametrize(("name", "encoder"), OBJECTIVES)
def test_objective_teaches_its_encoder(tmp_path, name, encoder):
    module, manifest = tiny_objective(name, encoder, tmp_path / "corpus")
    batch = batch_maker(module, manifest)[0]
    assert batch["bad"] == []
    result = module(batch)
    assert result.loss_sum.isfinite()
    assert result.count > 0
    assert all(torch.isfinite(total) for pair in result.metrics.values() for total in pair)
    result.loss_sum.backward()
    learning = {name: p.grad for name, p in module.named_parameters() if p.requires_grad}
    assert [name for name, grad in learning.items() if grad is None or not grad.isfinite().all()] == []
    assert any(p.grad is not None and p.grad.any() for p in module.encoder.parameters())


@pytest.mark.parametrize(("name", "encoder"), OBJECTIVES)
def test_batch_is_the_sum_of_its_utterances(tmp_path, name, encoder):
    # At these settings every frame but the last is masked, whatever is drawn; a penalty that is a mean over the batch is no sum.
    sure = {"mask_prob": 1.0, "mask_length": 1, "same_count": False, "penalty_weight": 0.0, "crop_duration": 0.9}
    module, manifest = tiny_objective(name, encoder, tmp_path / "corpus", **sure)
    if not getattr(module, "additive", True):
        pytest.skip(f"{name} compares the utterances of a batch with one another")
    module.eval()
    maker = batch_maker(module, manifest)
    views = [maker._one(0, index) for index in range(len(manifest))]

    def step(items):
        batch = collate(items, [str(k) for k in range(len(items))])
        with torch.no_grad():
            return module(to_tensors(module.batch_views(batch, np.random.default_rng(0))))

    together, alone = step(views), [step([view]) for view in views]
    assert len({len(view["waveform"]) for view in views}) > 1
    assert together.count == sum(one.count for one in alone)
    torch.testing.assert_close(together.loss_sum, sum(one.loss_sum for one in alone), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(("name", "encoder"), OBJECTIVES)
def test_state_of_an_objective_is_all_there_is(tmp_path, name, encoder):
    module, manifest = tiny_objective(name, encoder, tmp_path / "corpus")
    other, _ = tiny_objective(name, encoder, tmp_path / "corpus", seed=1)
    other.load_state_dict(module.state_dict())
    batch = batch_maker(module, manifest)[0]
    losses = []
    for each in (module, other):
        torch.manual_seed(0)
        losses.append(each.eval()(batch).loss_sum.item())
    assert losses[0] == losses[1]


@pytest.mark.parametrize(("name", "encoder"), OBJECTIVES)
def test_resumed_step_equals_an_uninterrupted_one(tmp_path, name, encoder):
    def run(experiment, seed, *, resume=False):
        module, manifest = tiny_objective(name, encoder, tmp_path / "corpus", seed=seed)
        train(
            module,
            lambda own: make_loader(manifest, module, LOADER, sample_rate=RATE, seed=0, positions=own),
            experiment=experiment,
            config=TrainConfig(max_steps=2, precision="fp32", save_every=1, keep_checkpoints=2, tensorboard=False),
            optim=OptimConfig(peak_lr=1e-3),
            world=ALONE,
            sample_rate=RATE,
            resume=resume,
        )
        lines = map(json.loads, (experiment / "metrics.jsonl").read_text().splitlines())
        return load_weights(list_checkpoints(experiment)[-1]), list(lines)

    weights, records = run(tmp_path / "whole", 0)
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut" / "checkpoints" / "step_00000002")
    resumed, resumed_records = run(tmp_path / "cut", 1, resume=True)
    assert resumed_records == records
    assert len(records) == 2
    assert weights.keys() == resumed.keys()
    assert [key for key, value in weights.items() if not torch.equal(value, resumed[key])] == []


@pytest.mark.parametrize(("name", "encoder"), OBJECTIVES)
def test_a_step_that_is_not_finite_leaves_nothing_behind(tmp_path, name, encoder):
    module, manifest = tiny_objective(name, encoder, tmp_path / "corpus")

    def stream(own):
        for number, batch in enumerate(make_loader(manifest, module, LOADER, sample_rate=RATE, seed=0, positions=own)):
            if number == 1:
                heard = [key for key, value in batch.items() if torch.is_tensor(value) and value.is_floating_point()]
                batch.update({key: batch[key] * 1e30 for key in heard})
            yield batch

    config = TrainConfig(max_steps=4, precision="fp32", save_every=4, tensorboard=False)
    train(module, stream, experiment=tmp_path / "exp", config=config, optim=OptimConfig(peak_lr=1e-3), world=ALONE, sample_rate=RATE)  # fmt: skip
    saved = load_weights(list_checkpoints(tmp_path / "exp")[-1])
    assert [key for key, value in saved.items() if value.is_floating_point() and not value.isfinite().all()] == []


def adapted(name, encoder):
    cls = registry.get("adapters", name)
    adapter, model = cls(cls.Config.tiny()), tiny_encoder(encoder).eval()
    adapter.insert(model)
    return adapter, model


@pytest.mark.parametrize(("name", "encoder"), ADAPTERS)
def test_adapter_changes_nothing_at_step_0(name, encoder):
    _, model = adapted(name, encoder)
    assert same(outputs(tiny_encoder(encoder).eval()), outputs(model.eval()))


@pytest.mark.parametrize(("name", "encoder"), ADAPTERS)
def test_adapter_answers_for_all_that_trains(name, encoder):
    adapter, model = adapted(name, encoder)
    _, other = adapted(name, encoder)
    state = adapter.trainable_state(model)
    assert {key for key, p in model.named_parameters() if p.requires_grad} <= state.keys() <= model.state_dict().keys()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * parameter.requires_grad
    unexpected = other.load_state_dict(adapter.trainable_state(model), strict=False).unexpected_keys
    assert unexpected == []
    assert same(outputs(model), outputs(other))


def tiny_task(cls, encoder, folder):
    """The task on a frozen encoder, and its own small data."""
    model, config = tiny_encoder(encoder), cls.Config.tiny()
    reads = read_by(model)
    sets = [(reads.column.removeprefix("units/"), reads.rate)] if reads else []
    manifest = small_data(folder, sets, cls.label_files(config, "train"))
    task = cls.from_data(model, config, manifest)
    return FineTune(model, Frozen(Frozen.Config()), task, FineTuneConfig(channel_mask_length=4)), manifest


@pytest.mark.parametrize(("name", "encoder"), TASKS)
def test_task_learns_predicts_and_scores(tmp_path, name, encoder):
    module, manifest = tiny_task(registry.get("tasks", name), encoder, tmp_path / "corpus")
    model, task, cls = module.encoder, module.task, type(module.task)
    maker = batch_maker(module, manifest)
    batches = [maker[position] for position in range(maker.sampler.batches_per_epoch())]
    result = module(batches[0])
    result.loss_sum.backward()
    assert result.loss_sum.isfinite()
    assert result.count > 0
    assert [key for key, p in task.named_parameters() if p.grad is None] == []
    module.eval()
    predictions = {n: p for batch in batches for n, p in zip(batch["utt_ids"], module.predict(batch), strict=True)}
    assert sorted(predictions) == list(manifest.ids)
    metric, direction = task.metric
    assert direction in {"min", "max"}
    assert np.isfinite(task.evaluate(predictions, manifest)[metric])
    shares = task.layer_shares()
    assert shares is None or (
        len(shares) == model.num_layers + 1 and float(shares.detach().sum()) == pytest.approx(1.0)
    )
    task.save_labels(tmp_path)
    saved = module.state_to_save()
    again = cls.from_experiment(model, cls.Config.tiny(), tmp_path)
    other = FineTune(model, Frozen(Frozen.Config()), again, module.config).eval()
    other.load_saved(saved)
    for utterance, theirs in zip(batches[0]["utt_ids"], other.predict(batches[0]), strict=True):
        np.testing.assert_array_equal(theirs, predictions[utterance])


class Accent(UtteranceClassifier):
    @dataclass(frozen=True)
    class Config(ClassifierConfig):
        column: str = "utt2accent"

        @classmethod
        def tiny(cls):
            return cls(projector_dim=4)


def test_task_with_a_column_of_its_own_gets_it(tmp_path):
    module, manifest = tiny_task(Accent, "fbank", tmp_path / "corpus")
    assert set(manifest.column("utt2accent")) == {"yes", "no"}
    assert module(batch_maker(module, manifest)[0]).loss_sum.isfinite()


@pytest.mark.parametrize("name", CORPORA)
def test_corpus_writes_sound_data_directories(tmp_path, name):
    module, out = registry.get("data_prep", name), tmp_path / "out"
    out.mkdir()
    if name in SYNTHESISED:
        if importlib.util.find_spec("espeakng_loader") is None:
            pytest.skip("it needs the extra `synth`")
        module.prepare(None, out, module.Config.tiny())
    else:
        module.fake(tmp_path / "published")
        module.prepare(tmp_path / "published", out)
    written = sorted(path.parent for path in out.rglob(WAV_SCP))
    assert written
    for directory in written:
        assert len(Manifest.open(directory)) > 0
        assert [str(fault) for fault in faults(directory)] == []


@pytest.mark.parametrize("name", [name for name in registry.names("data_prep") if name not in SYNTHESISED])
def test_corpus_passes_over_hidden_files(tmp_path, name, caplog):
    module, corpus = registry.get("data_prep", name), tmp_path / "published"
    module.fake(corpus)
    written, told = [], []
    for number in range(2):
        if number:
            for path in [path for path in corpus.rglob("*") if path.is_file() or path.is_symlink()]:
                path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7")
        (tmp_path / "out").mkdir()
        caplog.clear()
        module.prepare(corpus, tmp_path / "out")
        told.append(caplog.messages)
        assert sum("as published" in line for line in told[-1]) <= 1
        (tmp_path / "out").rename(tmp_path / f"out{number}")
        files = [
            path for path in (tmp_path / f"out{number}").rglob("*") if path.is_file() and ".index" not in path.parts
        ]
        written.append({path.relative_to(tmp_path / f"out{number}"): path.read_bytes() for path in files})
    assert written[0] == written[1]
    assert told[0] == told[1]


@pytest.mark.parametrize("name", [name for name in registry.names("data_prep") if name not in SYNTHESISED])
def test_corpus_names_the_line_that_is_not_utf8(tmp_path, name):
    module, corpus = registry.get("data_prep", name), tmp_path / "published"
    module.fake(corpus)
    written = [
        path for path in sorted(corpus.rglob("*")) if path.suffix.lower() in {".txt", ".csv", ".tsv", ".lst", ".rttm"}
    ]
    for path in written:
        path.write_bytes(path.read_bytes().rstrip() + b"\xe9\n")
    (tmp_path / "out").mkdir()
    said = ""
    try:
        module.prepare(corpus, tmp_path / "out")
    except ValueError as error:
        said = str(error)
    assert not said or any(re.match(rf"{re.escape(str(path))}:\d+: not UTF-8", said) for path in written)
