"""Crops and the other things that speaker objectives share."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from audiossl.config import build, load_toml, to_table, write_toml
from audiossl.contracts import Utterance
from audiossl.data.audio import write_audio
from audiossl.data.augment import AugmentConfig
from audiossl.data.loader import LoaderConfig, make_loader
from audiossl.data.manifest import Manifest
from audiossl.encoders.xvector import XVector
from audiossl.losses.nt_xent import nt_xent, nt_xent_all_views, nt_xent_multi_view
from audiossl.objectives._speaker import CropConfig, CropViews, MarginConfig, output_of, projector
from audiossl.objectives.byol import BYOL
from audiossl.objectives.combined import Combined
from audiossl.objectives.cpc import CPC
from audiossl.objectives.moco import MoCo
from audiossl.objectives.simclr import SimCLR
from audiossl.objectives.simsiam import SimSiam
from audiossl.objectives.ssps import SSPS

RATE = 16000


def places(duration, durations, crops, draws=200):
    """Start of every piece in seconds, read off the samples themselves: (draw, piece)."""
    utterance = Utterance("u", np.arange(round(duration * RATE), dtype=np.float64), RATE)
    views = CropViews(durations, crops, RATE)
    offsets = np.cumsum([0, *(round(d * RATE) for d in durations[:-1])])
    rng = np.random.default_rng(0)
    return np.array([views.views(utterance, rng)["waveform"][offsets] for _ in range(draws)]) / RATE


def test_disjoint_crops_are_spread_as_published():
    first, second = places(9.0, (2.0, 2.0), "disjoint", draws=4000).T
    gap = second - first - 2.0
    assert gap.min() >= -1e-9
    assert second.max() <= 7.0
    # gap ~ U[0, T - 2 L] and then the first start ~ U[0, T - 2 L - gap]: means (T - 2 L) / 2 and / 4
    assert gap.mean() == pytest.approx(2.5, abs=0.1)
    assert first.mean() == pytest.approx(1.25, abs=0.07)


def test_many_disjoint_crops_do_not_overlap():
    durations = (1.0, 1.0, 0.5, 0.5)
    starts = places(4.0, durations, "disjoint")
    ends = starts + np.array(durations)
    assert (starts[:, 1:] - ends[:, :-1]).min() >= -1e-3
    assert ends.max() <= 4.0 + 1e-3


def test_independent_crops_cover_everything_and_overlap():
    first, second = places(5.0, (2.0, 2.0), "independent", draws=2000).T
    assert first.mean() == pytest.approx(1.5, abs=0.1)
    assert second.mean() == pytest.approx(1.5, abs=0.1)
    assert (np.abs(first - second) < 2.0).any()


def test_short_recording_is_repeated():
    utterance = Utterance("u", np.arange(RATE // 2, dtype=np.float32), RATE)
    waveform = CropViews((1.0, 1.0), "disjoint", RATE).views(utterance, np.random.default_rng(0))["waveform"]
    assert waveform.shape == (2 * RATE,)
    assert np.array_equal(waveform[: RATE // 2], waveform[RATE // 2 : RATE])


def test_disjoint_crops_of_a_recording_between_one_and_two_follow_one_another():
    """It is repeated until it is as long as both, as the recipes say: nothing is drawn."""
    starts = places(3.0, (2.0, 2.0), "disjoint", draws=20)
    assert np.array_equal(starts, np.tile([0.0, 2.0], (20, 1)))
    utterance = Utterance("u", np.arange(3 * RATE, dtype=np.float64), RATE)
    waveform = CropViews((2.0, 2.0), "disjoint", RATE).views(utterance, np.random.default_rng(0))["waveform"]
    assert np.array_equal(waveform, np.resize(utterance.waveform, 4 * RATE))


@pytest.mark.parametrize("crops", ["disjoint", "independent"])
def test_what_lies_behind_the_end_is_not_read(crops):
    """Of a recording without a segment the reader would take it for damage."""
    utterance = Utterance("u", np.arange(RATE, dtype=np.float64), RATE)
    asked, cut = [], utterance.cut
    utterance.cut = lambda start, seconds: asked.append(start + seconds) or cut(start, seconds)
    waveform = CropViews((1.5, 1.5), crops, RATE).views(utterance, np.random.default_rng(0))["waveform"]
    assert len(waveform) == 3 * RATE
    assert max(asked) <= 1.0


def test_each_crop_of_a_repeated_recording_is_augmented_by_itself():
    utterance = Utterance("u", np.zeros(RATE, dtype=np.float32), RATE)
    draws = iter(range(1, 9))
    utterance.cut = lambda start, seconds: np.full(round(seconds * RATE), next(draws))
    waveform = CropViews((0.7, 0.7), "disjoint", RATE).views(utterance, np.random.default_rng(0))["waveform"]
    assert np.array_equal(np.unique(waveform[: int(0.7 * RATE)]), [1])
    assert np.array_equal(np.unique(waveform[int(0.7 * RATE) :]), [2])


class Crops:
    """What the loader does for crops alone."""

    needs = ()

    def __init__(self, crops, seconds=1.0):
        light = CropViews((seconds, seconds), crops, RATE)
        self.views, self.batch_views = light.views, light.batch_views


@pytest.mark.parametrize("crops", ["disjoint", "independent"])
@pytest.mark.parametrize(("seconds", "factors"), [(2.3, (1.1,)), (5.0, (1.1, 0.9)), (5.0, (0.9,)), (2.1, (1.1,))])
def test_crops_of_another_speed_have_no_seam_and_stay_apart(tmp_path, crops, seconds, factors):
    ramp = np.linspace(0.1, 0.9, round(seconds * RATE)).astype(np.float32)
    write_audio(tmp_path / "a.flac", ramp, RATE)
    (tmp_path / "wav.scp").write_text(f"a {tmp_path}/a.flac\n")
    config = LoaderConfig(num_workers=0, augment=AugmentConfig(speed_probability=1.0, speed_factors=factors))
    manifest = Manifest.open(tmp_path)
    for batch in make_loader(manifest, Crops(crops), config, sample_rate=RATE, seed=0, positions=range(6)):
        pieces = batch["waveform"].view(2, RATE)[:, 200:-200]  # resampling rings where a piece begins and ends
        if crops == "disjoint":
            assert pieces[0].quantile(0.99) < pieces[1].quantile(0.01)
        if seconds > 2.2:  # else what is left of disjoint ones is repeated
            assert pieces.diff(dim=1).abs().max() < 1e-3


def test_bad_options_are_named():
    with pytest.raises(ValueError, match="crop_duration: 0 s"):
        CropConfig(crop_duration=0)
    with pytest.raises(ValueError, match="'far' is neither"):
        CropConfig(crops="far")
    with pytest.raises(ValueError, match=r"projector_dims: \[0\] must be positive; \[\] for no projector"):
        projector(6, (0,))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"name": "additiv"}, "unknown margins 'additiv'; did you mean 'additive'"),
        ({"size": 0.4}, "margin.size: 0.4 changes nothing without a margin; name one"),
        ({"ramp_steps": 5}, "margin.ramp_steps: 5 changes nothing"),
        ({"learnable": True}, "margin.learnable: True changes nothing"),
        ({"simo": [510, 65536]}, r"margin.simo: \[510, 65536\] changes nothing"),
        ({"name": "additive_angular", "simo": [510, 65536]}, r"margin.simo: \[510, 65536\] is the size of an additive"),
        ({"name": "additive", "size": 0.1, "simo": [510, 65536]}, "name that, and take margin.size out of the recipe"),
        ({"name": "additive", "simo": [510]}, r"margin.simo: \[510\] is not \[present, simulated\]"),
        ({"name": "additive", "simo": [510, 2]}, r"margin.simo: \[510, 2\] is not"),
        ({"reward": 0.0}, "margin.reward: 0.0 changes nothing"),
        ({"name": "additive", "rewart": 0.1}, "margin additive: unknown key 'rewart'; did you mean 'reward'"),
        ({"name": "additive", "momentum": 0.1}, "margin additive: unknown key 'momentum'"),
        ({"name": "additive", "margin": 0.1}, "margin.margin: 0.1 is the size; call it margin.size"),
        ({"name": "magface", "lower_norm": "a"}, "margin magface.lower_norm: 'a' is not a number"),
        ({"name": "sphereface", "learnable": True}, "straight_through leaves a learnable margin without gradient"),
    ],
)
def test_margins_that_do_not_fit(table, message):
    with pytest.raises(ValueError, match=message):
        build(MarginConfig, table, "objective.margin")


@pytest.mark.parametrize(
    "table",
    [
        {"name": "additive", "size": 0.2, "learnable": True, "reward": 0.5},
        {"name": "sphereface", "size": 1.2, "straight_through": False},
        {"name": "magface", "penalty_weight": 35.0, "lower_norm": 1.0, "upper_norm": 5.0, "lower_margin": 0.02},
        {"name": "adaface", "concentration": 0.5, "rate": 0.1},
        {"name": "curricularface", "momentum": 0.9},
        {"name": "none"},
    ],
)
def test_all_options_of_a_margin_are_in_reach(tmp_path, table):
    """And survive a recipe."""
    config = build(SimCLR.Config, {"margin": table}, "objective")
    margin = config.margin.build()
    names = {"size": "margin"}
    for key, value in table.items():
        assert key == "name" or getattr(margin.config, names.get(key, key)) == value
    write_toml(tmp_path / "config.toml", to_table(config))
    assert build(SimCLR.Config, load_toml(tmp_path / "config.toml"), "objective") == config


def test_a_margin_may_stand_for_more_negatives(tmp_path):
    """SIMO: temperature x log(65536 / 510), whatever the loss."""
    table = {"name": "additive", "simo": [510, 65536], "ramp_steps": 3}
    config = build(SimCLR.Config, {"temperature": 0.05, "margin": table}, "objective")
    module = SimCLR(XVector(XVector.Config.tiny()), config)
    module.after_step(3)
    assert module.margin.margin.item() == pytest.approx(0.05 * np.log(65536 / 510))
    write_toml(tmp_path / "config.toml", to_table(config))
    assert build(SimCLR.Config, load_toml(tmp_path / "config.toml"), "objective") == config
    terms = {"z": {}, "y": {"info_nce": {"temperature": 0.2, "margin": table}}, "projector_dims": []}
    combined = Combined(XVector(XVector.Config.tiny()), build(Combined.Config, terms, "objective"))
    assert combined.margins["y_info_nce"].schedule.margin == pytest.approx(0.2 * np.log(65536 / 510))
    with pytest.raises(ValueError, match="needs a loss with a temperature; give margin.size"):
        config.margin.build()


def learnt_margin(reward):
    """A learnable margin after a few steps of SimCLR on noise."""
    torch.manual_seed(0)
    table = {"name": "additive", "size": 0.2, "learnable": True, "reward": reward}
    config = build(SimCLR.Config, {"crop_duration": 0.3, "temperature": 0.1, "margin": table}, "objective")
    module = SimCLR(XVector(XVector.Config.tiny()), config).train()
    optimizer = torch.optim.SGD([module.margin.margin], lr=0.02)
    for _ in range(5):
        output = module({"waveform": torch.randn(6, 9600)})
        optimizer.zero_grad()
        (output.loss_sum / output.count).backward()
        optimizer.step()
    return module.margin.margin.item()


def test_a_reward_keeps_a_learnable_margin_alive():
    assert learnt_margin(0.0) < 0.2 < learnt_margin(20.0)


def test_projector_ends_linear_and_none_is_the_identity():
    x = torch.randn(4, 6)
    assert projector(6, ())(x) is x
    made = projector(6, (5, 3))
    assert [type(layer).__name__ for layer in made] == ["Linear", "BatchNorm1d", "ReLU", "Linear"]
    assert made(x).shape == (4, 3)


def test_output_is_a_sum_over_utterances():
    output = output_of(torch.tensor(2.0), torch.randn(2, 5, 8), accuracy=torch.tensor(0.5))
    assert (output.loss_sum, output.count) == (10.0, 5.0)
    assert output.metrics["accuracy"] == (2.5, 5.0)
    collapsed = output_of(torch.tensor(2.0), torch.ones(2, 5, 8)).metrics["embedding_std"]
    assert collapsed[0] / collapsed[1] < 1e-6


def test_simclr_is_nt_xent_of_its_two_crops():
    torch.manual_seed(0)
    config = SimCLR.Config(crop_duration=0.3, temperature=0.1, margin=MarginConfig("additive", 0.2))
    module = SimCLR(XVector(XVector.Config.tiny()), config)
    module.eval()
    waveform = torch.randn(4, 9600)
    output = module({"waveform": waveform, "waveform_lengths": torch.full((4,), 9600)})
    lengths = torch.full((4,), 4800)
    first, second = (module.encoder.embed(waveform[:, k * 4800 : (k + 1) * 4800], lengths) for k in (0, 1))
    expected = nt_xent(first, second, temperature=0.1, margin=module.margin)
    assert output.loss_sum.item() == pytest.approx(4 * expected.item(), rel=1e-5)
    unit = (
        torch.nn.functional.normalize(torch.cat([first, second]), dim=1)
        @ torch.nn.functional.normalize(torch.cat([first, second]), dim=1).T
    )
    right = sum(int(row.scatter(0, torch.tensor(k), -2.0).argmax()) == (k + 4) % 8 for k, row in enumerate(unit))
    assert output.metrics["accuracy"][0].item() == pytest.approx(4 * right / 8)


@pytest.mark.parametrize(("symmetric", "positives"), [(True, "sum"), (False, "sum"), (False, "mean")])
def test_simclr_with_short_crops(symmetric, positives):
    """All crops find each other, or the short ones the long ones."""
    torch.manual_seed(0)
    options = {"local_duration": 0.2, "local_crops": 3, "symmetric": symmetric, "positives": positives}
    config = SimCLR.Config(crop_duration=0.3, temperature=0.1, projector_dims=(7, 5), **options)
    module = SimCLR(XVector(XVector.Config.tiny()), config).eval()
    utterance = Utterance("u", np.arange(3 * RATE, dtype=np.float32), RATE)
    sizes = [4800, 4800, 3200, 3200, 3200]
    assert len(module.views(utterance, np.random.default_rng(0))["waveform"]) == sum(sizes)
    waveform = torch.randn(4, sum(sizes))
    crops = [module.encoder.embed(part, torch.full((4,), part.shape[1])) for part in waveform.split(sizes, dim=1)]
    views = torch.stack([module.projector(crop) for crop in crops])
    if symmetric:
        expected = nt_xent_all_views(views, temperature=0.1)
    else:
        expected = nt_xent_multi_view(views[2:], views[:2], temperature=0.1, positives=positives)
    assert module({"waveform": waveform}).loss_sum.item() == pytest.approx(4 * expected.item(), rel=1e-4)


def test_bad_short_crops_are_named():
    with pytest.raises(ValueError, match="local_duration: 0 s is not positive"):
        SimCLR.Config(local_duration=0)
    with pytest.raises(ValueError, match="local_crops: -1 is negative; 0 is none"):
        SimCLR.Config(local_crops=-1)
    for unread in ({}, {"symmetric": False}, {"local_crops": 2}):
        with pytest.raises(ValueError, match="positives: 'mean' is for local_crops with symmetric = false"):
            SimCLR.Config(positives="mean", **unread)


@pytest.mark.parametrize(("separate", "least"), [(False, 1), (True, 2)])
def test_a_process_hears_two_utterances_where_batch_norms_see_views_by_themselves(separate, least):
    config = replace(SimCLR.Config.tiny(), separate_views=separate, projector_dims=())
    assert SimCLR(XVector(XVector.Config.tiny()), config).least_in_process == least
    assert SimCLR(Linear(), config).least_in_process == 1


@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("cls", [SimCLR, SSPS, MoCo, Combined, BYOL, SimSiam, CPC])
def test_views_share_batch_statistics_or_have_their_own(cls, separate):
    torch.manual_seed(0)
    config = replace(cls.Config.tiny(), crop_duration=0.5, separate_views=separate)
    if cls is MoCo:
        config = replace(config, key_groups=1)
    if cls is SSPS:
        config = replace(config, clean_duration=0.0)
    ids = [list("abcdef")] if cls is SSPS else []
    module, rows = cls(XVector(XVector.Config.tiny()), config, *ids).train(), []
    for norm in module.modules():
        if isinstance(norm, torch.nn.BatchNorm1d):
            norm.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    module({"waveform": torch.randn(6, 16000), "index": torch.arange(6)})
    assert set(rows) == {6 if separate else 12}


class Linear(torch.nn.Module):
    """An encoder of 16 samples."""

    sample_rate, embedding_dim = RATE, 8

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(16, 8)

    def embed(self, waveform, lengths):
        return self.layer(waveform)


def test_nt_xent_with_an_angular_margin_of_0_3_trains_a_thousand_steps_without_nan():
    """The published run stopped with exploding gradients. At first both crops are the same: the pole of the angle."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    config = SimCLR.Config(crop_duration=0.001, temperature=0.03, margin=MarginConfig("additive_angular", 0.3))
    module = SimCLR(Linear(), config).train()
    voices = torch.randn(16, 16, generator=generator)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.02, momentum=0.9)
    losses = []
    for step in range(1000):
        crops = voices.repeat(1, 2) + min(step, 1) * 0.5 * torch.randn(16, 32, generator=generator)
        output = module({"waveform": crops})
        optimizer.zero_grad()
        (output.loss_sum / output.count).backward()
        assert all(p.grad.isfinite().all() for p in module.parameters())
        optimizer.step()
        losses.append(output.loss_sum.item() / 16)
    assert np.isfinite(losses).all()
    assert np.mean(losses[-100:]) < 0.7 * np.mean(losses[1:21])
