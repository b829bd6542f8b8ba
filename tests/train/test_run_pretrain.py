"""`pretrain` from a recipe to an experiment: what it says before it begins."""

from __future__ import annotations

import re
import shutil
from types import SimpleNamespace

import pytest
import torch
from corpora import noises, write_corpus, write_encoder
from thread_worlds import together

from audiossl import registry
from audiossl.config import to_table, write_toml
from audiossl.contracts import StepOutput
from audiossl.data.loader import LoaderConfig
from audiossl.data.manifest import Manifest
from audiossl.data.writer import CorpusUtterance, write_data_dir
from audiossl.train.run_pretrain import _dev_loss, _make_units, pretrain
from audiossl.units.recipe import UnitsConfig


def tiny(kind, name):
    """The table of the smallest plug-in of that name."""
    return {"name": name, **to_table(registry.get(kind, name).Config.tiny())}


def write_fine_tuned(out, adapter, began):
    """An experiment that was fine-tuned from `began` with an adapter."""
    cls = registry.get("adapters", adapter)
    tables = {"adapter": tiny("adapters", adapter), "run": {"init": str(began), "init_seed": 0}}
    write_encoder(out, change=cls(cls.Config.tiny()).insert, tables=tables)


@pytest.fixture
def place(tmp_path):
    """A recipe, recordings of 0.6 s, and encoders to start from."""
    write_corpus(tmp_path, noises([9600] * 4))
    write_encoder(tmp_path / "base")
    write_encoder(tmp_path / "simclr", "fast_resnet34")
    for adapter in ("houlsby", "lora", "mms"):
        write_fine_tuned(tmp_path / adapter, adapter, tmp_path / "base")
    return tmp_path


def run(place, names=("wav2vec2", "wav2vec2"), init=None, out="out", **overrides):
    tables = {
        "objective": tiny("objectives", names[0]), "encoder": tiny("encoders", names[1]), "data": {"num_workers": 0},
        "optim": {"peak_lr": 1e-3}, "train": {"max_steps": 1, "precision": "fp32", "tensorboard": False},
    }  # fmt: skip
    write_toml(place / "recipe.toml", tables)
    where = {"out": place / out, "data": place / "data", "device": "cpu"}
    pretrain(str(place / "recipe.toml"), **where, init=init and str(init), overrides=overrides)


@pytest.mark.parametrize(
    ("init", "said"),
    [
        ("simclr", "its encoder is fast_resnet34, the recipe's [encoder] is wav2vec2; start from one that is wav2vec2"),
        *((adapter, "has adapters; start from {place}/base (what it was started from), or from one fine-tuned in full")
          for adapter in ("houlsby", "lora", "mms")),
    ],
)  # fmt: skip
def test_a_start_that_does_not_fit_is_one_short_line(place, init, said):
    with pytest.raises(ValueError, match=f"^{re.escape(f'{place / init}: {said.format(place=place)}')}$"):
        run(place, init=place / init)
    assert not (place / "out").exists()


def test_a_start_of_another_shape_is_one_short_line(place):
    said = r"base: does not fit the recipe's \[encoder\]: \d+ tensors differ, such as \S+ \(\[\d+.{,20}\] there, \[\d+.{,20}\] here\); make them agree: "
    with pytest.raises(ValueError, match=f"{said}--encoder.ffn_dim 64$"):
        run(place, init=place / "base", encoder={"ffn_dim": 128, "dropout": 0.3})
    kernels = r"--encoder.conv_kernels '\[10, 3, 3, 3, 3, 2, 2\]' --encoder.conv_bias false$"
    with pytest.raises(ValueError, match=said + kernels):
        run(place, init=place / "base", encoder={"conv_kernels": (10, 3, 3, 3, 3, 2, 4), "conv_bias": True})
    with pytest.raises(ValueError, match=r"such as transformer\.layers\.1\.\S+ \(\[.{,20}\] there, absent here\)"):
        run(place, init=place / "base", encoder={"num_layers": 1})


WARNING = "warning: data.crop_duration"


@pytest.mark.parametrize(
    ("names", "crop", "times"),
    [
        (("wav2vec2", "wav2vec2"), 0.25, 2.0),
        (("wav2vec2", "wav2vec2"), 0.5, None),
        (("wav2vec2", "wav2vec2"), 1.0, None),
        (("wav2vec2", "wav2vec2"), None, None),
        (("simclr", "fast_resnet34"), 0.2, 1.5),
        (("simclr", "fast_resnet34"), 0.6, None),  # two crops
    ],
)
def test_batches_that_hold_more_than_they_should_are_said(place, capsys, names, crop, times):
    run(place, names, data={} if crop is None else {"crop_duration": crop})
    said = [line.partition(WARNING)[2] for line in capsys.readouterr().err.splitlines() if WARNING in line]
    left = {"wav2vec2": 0.5, "simclr": 0.3}[names[0]]
    line = (
        f" {crop} s is below objective.crop_duration {left} s: batches of utterances longer than the former hold up to {times} times "
        f"data.batch_seconds; give at least {left}"
    )
    assert said == ([] if times is None else [line])


BOTH = "2 or more; give at least 1.2 or set data.crop_duration"


@pytest.mark.parametrize("name", ["simclr", "vicreg", "byol", "lim", "combined", "swav", "ssps"])
def test_a_batch_of_one_utterance_is_refused_where_utterances_are_compared(place, name):
    said = f"data.batch_seconds: 1 s are 1 utterance in 4 of 4 batches, and this objective compares {BOTH}"
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        run(place, (name, "fast_resnet34"), data={"batch_seconds": 1.0})
    assert not (place / "out").exists()


def test_what_that_says_is_enough(place):
    run(place, ("simclr", "fast_resnet34"), data={"batch_seconds": 1.2})
    with pytest.raises(ValueError, match=r"^data.batch_utterances: 1 in a batch, and this .* 2 or more; raise it$"):
        run(place, ("simclr", "fast_resnet34"), data={"batch_utterances": 1}, out="one")
    run(place, data={"batch_seconds": 1.0}, out="masked")  # whose negatives are of the same utterance
    shutil.rmtree(place / "data")
    write_data_dir([CorpusUtterance("s-0", "s-0", place / "0.wav", "s")], place / "data")
    with pytest.raises(ValueError, match=r"data: 1 utterance, and this objective compares 2 or more; add data$"):
        run(place, ("simclr", "fast_resnet34"), out="alone")


@pytest.mark.parametrize("name", ["w_mse", "combined"])
def test_development_data_that_fill_no_group_are_refused_before_training(place, name):
    group = {"group_size": 64} if name == "w_mse" else {"z": {"w_mse": {"group_size": 64}}}
    said = r"data: all 1 batches, of 4 utterances at most, do not fill a group of 64, .*leave out --dev$"
    with pytest.raises(ValueError, match=said):
        run(place, (name, "fast_resnet34"), objective=group, run={"dev": str(place / "data")})
    assert not (place / "out").exists()


def write_speakers(folder, speakers, seconds=0.6):
    """One recording of each."""
    shutil.rmtree(folder, ignore_errors=True)
    lengths = [round(seconds * 16000)] * len(speakers)
    write_corpus(folder.with_name(f"{folder.name}_audio"), noises(lengths), speakers=speakers, out=folder)


SUPERVISED = ("supervised_speaker", "fast_resnet34")


def test_development_data_of_other_speakers_are_refused_at_once(place):
    write_speakers(place / "data", "aabb")
    write_speakers(place / "dev", "cd")
    with pytest.raises(ValueError, match=r"dev: no utterance shows a label that .*; leave out --dev, or give other"):
        run(place, SUPERVISED, run={"dev": str(place / "dev")})
    assert not (place / "out").exists()
    write_speakers(place / "dev", "ca")
    run(place, SUPERVISED, run={"dev": str(place / "dev")})


def test_development_data_with_one_utterance_in_a_batch_are_refused_at_once(place):
    write_speakers(place / "dev", "ab", seconds=2.0)
    words = {"data": {"batch_seconds": 1.2, "max_duration": 1.0}, "run": {"dev": str(place / "dev")}}
    said = (
        r"1 utterance in 2 of 2 batches of \S+/dev, of which nothing is left out, and .* 2 or more; give at least 4 or"
    )
    with pytest.raises(ValueError, match=said):
        run(place, ("simclr", "fast_resnet34"), **words)
    assert not (place / "out").exists()
    run(place, ("simclr", "fast_resnet34"), **{**words, "data": {"batch_seconds": 4.0, "max_duration": 1.0}})


@pytest.mark.parametrize("crops", [1, 2])
def test_a_batch_norm_needs_two_crops(place, crops):
    write_speakers(place / "data", "aabb")
    words = {"data": {"batch_seconds": 1.0}, "objective": {"num_crops": crops}}
    if crops == 2:
        run(place, SUPERVISED, **words)
        return
    with pytest.raises(ValueError, match=rf"1 utterance in 4 of 4 batches, and this objective compares {BOTH}"):
        run(place, SUPERVISED, **words)


class Loudness(torch.nn.Linear):
    """An objective whose loss is the sum of all samples; notes which utterances it saw."""

    needs = ()

    def __init__(self):
        super().__init__(1, 1)
        self.seen = []

    def views(self, utterance, rng):
        return {"waveform": utterance.waveform}

    def batch_views(self, batch, rng):
        return batch

    def forward(self, batch):
        self.seen += batch["utt_ids"]
        count = batch["waveform_lengths"].sum()
        return StepOutput(batch["waveform"].double().sum(), count, {"rows": (torch.tensor(len(batch["utt_ids"])), 1)})


@pytest.mark.parametrize("size", [2, 6])
def test_processes_share_the_development_data(place, size):
    """Six processes are more than there are batches."""
    (place / "3.wav").write_bytes(b"RIFF")
    manifest, module = Manifest.open(place / "data"), Loudness()
    reading = LoaderConfig(batch_seconds=0.6, num_workers=0, max_bad_fraction=0.25)
    said = []

    def measure(world):
        return _dev_loss(manifest, reading, 16_000, world)(module, said.append)

    [alone] = together(1, measure)
    module.seen.clear()
    for scores in together(size, measure):
        assert scores == pytest.approx(alone)
    assert sorted(module.seen) == ["s-0", "s-1", "s-2"]
    assert len(set(said)) == 1
    with pytest.raises(ValueError, match=r"1 of 4 utterances cannot be used"):
        together(size, lambda world: _dev_loss(manifest, LoaderConfig(num_workers=0), 16_000, world)(module, print))


def test_units_are_read_by_as_many_processes_as_training_has(place, monkeypatch):
    asked = {}
    monkeypatch.setattr("audiossl.units.recipe.ensure_units", lambda *_, **options: asked.update(options))
    labels = SimpleNamespace(labels=("mfcc_km100",))
    parts = {"units": UnitsConfig(), "objective": (None, labels), "data": LoaderConfig(num_workers=7)}
    _make_units(parts, [Manifest.open(place / "data")], place / "out", "cpu")
    assert asked["num_workers"] == 7


def test_units_that_the_objective_does_not_read_are_refused(place):
    units = {"name": "other", "clusters": 4}
    with pytest.raises(
        ValueError, match=r"units.name: other is not among objective.labels; add --objective.labels '\[\"other\"\]'"
    ):
        run(place, ("hubert", "fbank"), units=units)
    assert not (place / "out").exists()


def test_a_run_that_stopped_after_its_units_is_begun_anew(place):
    options = {
        "objective": {**tiny("objectives", "hubert"), "labels": ["few"]},
        "units": {"name": "few", "clusters": 4, "iterations": 2, "num_workers": 0},
    }
    with pytest.raises(ValueError, match="nothing: no such experiment"):
        run(place, ("hubert", "fbank"), init="nothing", **options)
    assert [path.name for path in (place / "out").iterdir()] == ["units"]
    run(place, ("hubert", "fbank"), **options)
    assert (place / "out/checkpoints").is_dir()


@pytest.mark.parametrize(
    ("step", "given", "cure"),
    [
        ("noise", {"noise_dirs": ["nowhere/noise"]}, "data.augment.noise_dirs: nowhere/noise: no data directory: .*`audiossl prep musan`"),
        ("reverb", {"reverb_dir": "nowhere/rirs"}, "data.augment.reverb_dir: nowhere/rirs: .*`audiossl prep rirs_noises`"),
    ],
)  # fmt: skip
def test_a_directory_to_augment_with_that_is_missing_is_told_by_its_option(place, step, given, cure):
    with pytest.raises(ValueError, match=f"^{cure}.* or --data.augment.{step}_probability 0$"):
        run(place, data={"num_workers": 0, "augment": {f"{step}_probability": 0.5, **given}})
