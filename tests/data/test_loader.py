from __future__ import annotations

import itertools
import math
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

from audiossl.config import build, to_table
from audiossl.data.audio import write_audio
from audiossl.data.augment import OWN, AugmentConfig, Augmenter
from audiossl.data.loader import BadRecordings, BatchMaker, LoaderConfig, make_loader, make_sampler
from audiossl.data.manifest import Manifest
from audiossl.data.sampler import BucketSampler
from audiossl.data.shards import write_shards
from audiossl.data.whole import FileList

RATE = 16_000


class Crops:
    """Crops, labels and a mask: something of every kind."""

    needs = ("text", "units/km5")

    def views(self, utterance, rng):
        start = int(rng.integers(len(utterance.waveform) // 2))
        return {
            "waveform": utterance.waveform[start : start + 3000],
            "units": utterance.columns["units/km5"],
            "text": utterance.columns["text"],
            "start": start,
        }

    def batch_views(self, batch, rng):
        batch["masked"] = rng.random(batch["waveform"].shape) < 0.5
        return batch


class Picky(Crops):
    def views(self, utterance, rng):
        if utterance.id == "u05":
            raise ValueError("too\nshort")
        return super().views(utterance, rng)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "units").mkdir()
    rng = np.random.default_rng(0)
    tables = {"wav.scp": "", "text": "", "units/km5": ""}
    for number in range(20):
        path = folder / f"u{number:02d}.flac"
        write_audio(path, rng.uniform(-0.5, 0.5, int(rng.integers(4000, 16_000))).astype(np.float32), RATE)
        tables["wav.scp"] += f"u{number:02d} {path}\n"
        tables["text"] += f"u{number:02d} word {number}\n"
        tables["units/km5"] += f"u{number:02d} {' '.join(map(str, range(number + 1)))}\n"
    for name, content in tables.items():
        (folder / name).write_text(content)
    return folder


@pytest.fixture
def manifest(folder):
    return Manifest.open(folder)


def load(manifest, module=None, *, positions=range(8), seed=3, **settings):
    config = LoaderConfig(**({"batch_seconds": 3.0, "num_workers": 0} | settings))
    module = module or Crops()
    return list(make_loader(manifest, module, config, sample_rate=RATE, seed=seed, positions=positions))


def assert_equal(ones, others):
    assert len(ones) == len(others)
    for one, other in zip(ones, others, strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(value, other[name]), name
            else:
                assert value == other[name], name


def test_a_batch_holds_what_views_gave(manifest):
    (batch,) = load(manifest, positions=[4])
    epoch, indices = make_sampler(manifest, LoaderConfig(batch_seconds=3.0), seed=3).batch(4)
    assert batch["utt_ids"] == [f"u{index:02d}" for index in indices]
    assert batch["text"] == [f"word {index}" for index in indices]
    assert batch["bad"] == []
    masked = np.random.default_rng([3, 2**31 - 1, 4]).random(batch["waveform"].shape) < 0.5
    np.testing.assert_array_equal(batch["masked"], masked)
    for row, index in enumerate(indices.tolist()):
        waveform = manifest.audio(index, sample_rate=RATE)
        start = int(np.random.default_rng([3, epoch, index]).integers(len(waveform) // 2))
        assert batch["start"][row] == start
        expected = torch.from_numpy(waveform[start : start + 3000].copy())
        assert torch.equal(batch["waveform"][row, : len(expected)], expected)
        assert batch["waveform_lengths"][row] == len(expected)
        assert batch["units"][row, : index + 1].tolist() == list(range(index + 1))
        assert (batch["units"][row, index + 1 :] == -1).all()


def test_workers_change_nothing(manifest):
    assert_equal(load(manifest, num_workers=0), load(manifest, num_workers=2))


def test_workers_plan_nothing(manifest, monkeypatch):
    plan = BucketSampler._plan
    monkeypatch.setattr(BucketSampler, "_plan", lambda self, epoch: [plan(self, epoch), here.append(os.getpid())][0])
    here = []

    class Planned(Crops):
        def batch_views(self, batch, rng):
            return batch | {"plans": here.count(os.getpid())}

    batches = load(manifest, Planned(), num_workers=2, positions=range(12))
    assert [batch["plans"] for batch in batches] == [0] * 12
    assert len(here) >= 12


def test_a_restart_makes_the_same_batches(manifest):
    whole = load(manifest, positions=range(12))
    assert_equal(whole[7:], load(manifest, positions=range(7, 12)))
    assert_equal(whole[1::3], load(manifest, positions=range(1, 12, 3)))


def test_seeds_and_epochs_differ(manifest):
    number = make_sampler(manifest, LoaderConfig(batch_seconds=3.0), seed=3).batches_per_epoch(0)
    first, second = (load(manifest, positions=range(e * number, (e + 1) * number)) for e in (0, 1))
    other = load(manifest, positions=range(number), seed=4)
    for batches in (first, second, other):
        assert sorted(utterance for batch in batches for utterance in batch["utt_ids"]) == list(manifest.ids)
    starts = [
        {u: int(s) for batch in batches for u, s in zip(batch["utt_ids"], batch["start"], strict=True)}
        for batches in (first, second, other)
    ]
    assert sum(starts[0][u] == starts[1][u] for u in starts[0]) < 3
    assert sum(starts[0][u] == starts[2][u] for u in starts[0]) < 3


def test_endless_positions_are_read_as_needed(manifest):
    config = LoaderConfig(batch_seconds=3.0, num_workers=2)
    batches = make_loader(manifest, Crops(), config, sample_rate=RATE, seed=3, positions=itertools.count())
    assert_equal(list(itertools.islice(batches, 10)), load(manifest, positions=range(10)))


def test_a_worker_outlives_one_signal_and_not_another(manifest):
    config = LoaderConfig(batch_seconds=3.0, num_workers=1, prefetch=1)
    loader = make_loader(manifest, Crops(), config, sample_rate=RATE, seed=0, positions=itertools.count())
    next(loader)
    [worker] = loader._workers
    os.kill(worker.pid, signal.SIGTERM)
    for _ in range(5):
        assert next(loader)["utt_ids"]
    worker.terminate()
    worker.join(timeout=30)
    assert worker.exitcode == 0


ABANDONED = """
import itertools, sys
from audiossl.data.loader import LoaderConfig, make_loader
from audiossl.data.manifest import Manifest
from audiossl.data.whole import WholeUtterances

config = LoaderConfig(batch_seconds=3.0, num_workers=2)
batches = make_loader(
    Manifest.open(sys.argv[1]), WholeUtterances(1), config, sample_rate=16000, seed=0, positions=itertools.count()
)
next(batches)
raise ValueError("in the middle")
"""


def test_a_process_that_fails_amid_the_batches_ends_with_its_workers(folder):
    done = subprocess.run(
        [sys.executable, "-c", ABANDONED, folder], check=False, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr.splitlines()[-1]) == (1, "ValueError: in the middle")


@pytest.mark.parametrize("seconds", [0.0, -1.0, math.nan])
def test_batches_without_a_length_are_refused(seconds):
    with pytest.raises(ValueError, match=r"^batch_seconds is .*; give a positive number of seconds$"):
        LoaderConfig(batch_seconds=seconds)


def test_evaluation_sees_each_utterance_once_longest_first(manifest):
    config = LoaderConfig(batch_seconds=3.0, num_workers=0)
    batches = list(make_loader(manifest, Crops(), config, sample_rate=RATE, seed=0, shuffle=False))
    ids = [utterance for batch in batches for utterance in batch["utt_ids"]]
    assert ids == [manifest.ids[int(i)] for i in np.argsort(-manifest.durations, kind="stable")]


def test_batches_by_number_of_utterances(manifest):
    batches = load(manifest, positions=range(5), batch_seconds=100.0, batch_utterances=4)
    assert [len(batch["utt_ids"]) for batch in batches] == [4] * 5
    assert sorted(utterance for batch in batches for utterance in batch["utt_ids"]) == list(manifest.ids)


def test_the_global_generators_are_left_alone(manifest):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    load(manifest, num_workers=2, positions=range(2))
    assert torch.equal(before, torch.get_rng_state())


def test_shards_give_the_same_batches(manifest, tmp_path):
    write_shards(manifest, tmp_path / "shards", max_bytes=100_000)
    assert_equal(load(manifest), load(Manifest.open(tmp_path / "shards"), num_workers=2))


def test_bad_recordings_are_left_out_and_listed(folder, tmp_path):
    scp = (folder / "wav.scp").read_text().replace(f"u03 {folder}/u03.flac", f"u03 {tmp_path}/none.flac")
    (tmp_path / "units").mkdir()
    for name in ("text", "units/km5"):
        (tmp_path / name).write_text((folder / name).read_text().replace("u07 0 1", "u07 0 x"))
    (tmp_path / "wav.scp").write_text(scp)
    durations = zip(Manifest.open(folder).ids, Manifest.open(folder).durations, strict=True)
    (tmp_path / "utt2dur").write_text("".join(f"{utterance} {seconds}\n" for utterance, seconds in durations))
    manifest = Manifest.open(tmp_path)
    number = make_sampler(manifest, LoaderConfig(batch_seconds=3.0), seed=3).batches_per_epoch(0)
    batches = load(manifest, Picky(), positions=range(number))
    bad = dict(entry for batch in batches for entry in batch["bad"])
    assert set(bad) == {"u03", "u05", "u07"}
    assert "none.flac: no such file" in bad["u03"]
    assert bad["u05"] == "too short"
    assert "units/km5: utterance 'u07': not all labels are whole numbers" in bad["u07"]
    assert sorted(set(manifest.ids) - set(bad)) == sorted(u for batch in batches for u in batch["utt_ids"])
    (alone,) = load(manifest.subset(np.array([3])), Picky(), positions=[0])
    assert alone == {"bad": [("u03", bad["u03"])], "utt_ids": []}


def test_bad_recordings_are_named_once_and_stop_training_when_many():
    bad = BadRecordings(0.02, total=100)
    assert bad.add([("a", "broken"), ("b", "silent")]) == ["left out a: broken", "left out b: silent"]
    assert bad.add([("a", "broken")]) == []
    assert len(bad) == 2
    with pytest.raises(ValueError, match=r"3 of 100 .* 0\.02 .*: a: broken; b: silent; c: gone$") as caught:
        bad.add([("c", "gone")])
    assert "\n" not in str(caught.value)


def test_augmentation_changes_waveforms_and_not_crops(manifest):
    augment = AugmentConfig(reverb_probability=1.0, num_rooms=2, gain_probability=1.0)
    plain, wet = load(manifest), load(manifest, augment=augment)
    assert_equal(wet, load(manifest, augment=augment, num_workers=2))
    for one, other in zip(plain, wet, strict=True):
        assert torch.equal(one["start"], other["start"])
        assert torch.equal(one["masked"], other["masked"])
        assert not torch.equal(one["waveform"], other["waveform"])
    sampler = make_sampler(manifest, LoaderConfig(batch_seconds=3.0), seed=3)
    epoch, (index, *_) = sampler.batch(0)
    waveform = manifest.audio(int(index), sample_rate=RATE)
    expected = Augmenter(augment)(waveform, np.random.default_rng([3, epoch, index, 1]), RATE)
    start, length = int(wet[0]["start"][0]), int(wet[0]["waveform_lengths"][0])
    np.testing.assert_array_equal(wet[0]["waveform"][0, :length], expected[start : start + length])


def test_noise_from_the_data_itself(folder, manifest, tmp_path):
    """Whichever data is read: no directory of a recipe's, and the same batches as where it is named."""

    def reading(path):
        return AugmentConfig(noise_probability=1.0, noise_dirs=(path,), noise_snr=((5.0, 5.0),))

    own = load(manifest, augment=reading(OWN), num_workers=2)
    assert_equal(own, load(manifest, augment=reading(folder)))
    shards = tmp_path / "shards"
    write_shards(manifest, shards)
    assert_equal(own, load(Manifest.open(shards), augment=reading(OWN)))
    with pytest.raises(
        ValueError, match="^<data>: here no data is augmented that it could stand for; name a data directory"
    ):
        Augmenter(reading(OWN))


def test_a_noise_that_cannot_be_used_is_booked_on_no_other_utterance(folder, tmp_path):
    silent = tmp_path / "silent.flac"
    write_audio(silent, np.zeros(8000), RATE)
    scp = (folder / "wav.scp").read_text().replace(f"u03 {folder}/u03.flac", f"u03 {silent}")
    (tmp_path / "wav.scp").write_text(scp)
    (tmp_path / "units").mkdir()
    for name in ("text", "units/km5"):
        (tmp_path / name).write_text((folder / name).read_text())
    augment = AugmentConfig(noise_probability=1.0, noise_dirs=(OWN,), noise_counts=((3, 3),))
    batches = load(Manifest.open(tmp_path), positions=range(12), augment=augment)
    assert {utterance for batch in batches for utterance, _ in batch["bad"]} == {"u03"}


class Pairs(Crops):
    """The whole waveform as it was and augmented, and half of each."""

    def views(self, utterance, rng):
        piece = utterance.cut(0.0, 0.1), utterance.clean.cut(0.0, 0.1)
        return {"waveform": utterance.waveform, "clean": utterance.clean.waveform, "wet": piece[0], "dry": piece[1]}


@pytest.mark.parametrize("augment", [None, AugmentConfig(gain_probability=1.0, gain_db=(-6.0, -6.0))])
def test_the_clean_utterance_is_not_augmented(manifest, monkeypatch, augment):
    reads, read = [], Manifest.audio
    monkeypatch.setattr(Manifest, "audio", lambda *args, **kwargs: reads.append(kwargs) or read(*args, **kwargs))
    (batch,) = load(manifest, Pairs(), positions=[0], augment=augment)
    gain = 10 ** (-6 / 20) if augment else 1.0
    assert batch["dry"].shape[1] == 1600
    torch.testing.assert_close(batch["waveform"], batch["clean"] * gain)
    torch.testing.assert_close(batch["wet"], batch["dry"] * gain)
    assert torch.equal(batch["dry"], batch["clean"][:, :1600])
    assert sum("start" not in read for read in reads) == len(batch["utt_ids"])  # decoded once for both


def test_changed_speed_is_refused_beside_units_and_allowed_without(manifest):
    augment = AugmentConfig(speed_probability=1.0, speed_factors=(0.5,))
    with pytest.raises(ValueError, match=r"speed_probability is 1\.0.*units/km5"):
        load(manifest, augment=augment)

    class Turns(Crops):
        needs = ("text",)
        aligned = True

    with pytest.raises(ValueError, match=r"speed_probability is 1\.0.*text"):
        load(manifest, Turns(), augment=augment)

    class Plain:
        needs = ("text",)

        def views(self, utterance, rng):
            return {"waveform": utterance.waveform}

        def batch_views(self, batch, rng):
            return batch

    batches = load(manifest, Plain(), augment=augment)
    slow = {u: int(n) for b in batches for u, n in zip(b["utt_ids"], b["waveform_lengths"], strict=True)}
    for index, utterance in enumerate(manifest.ids):
        if utterance in slow:
            assert slow[utterance] == pytest.approx(2 * manifest.durations[index] * RATE, abs=2)
    assert max(batch["waveform"].numel() for batch in batches) <= 3.0 * RATE + 20  # the stretch is allowed for


def test_ids_of_loose_recordings_are_listed_once(folder):
    files = FileList((folder / "u00.flac", folder / "u01.flac"))
    assert files.ids == [f"{folder}/u00.flac", f"{folder}/u01.flac"]
    assert files.ids is files.ids  # asked for with every utterance


def test_a_missing_column_is_named_at_once(manifest):
    module = Crops()
    module.needs = ("utt2lang",)
    with pytest.raises(ValueError, match="utt2lang: no such file"):
        BatchMaker(manifest, module, LoaderConfig(), sample_rate=RATE, seed=0)


def test_toml_round_trip():
    config = LoaderConfig(max_duration=20.0, augment=AugmentConfig(gain_probability=0.5))
    assert build(LoaderConfig, to_table(config), "data") == config
    assert build(LoaderConfig, to_table(LoaderConfig()), "data") == LoaderConfig()


@pytest.mark.parametrize("settings", [{"num_workers": -1}, {"prefetch": 0}, {"max_bad_fraction": 2.0}])
def test_bad_settings_are_named(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        LoaderConfig(**settings)
