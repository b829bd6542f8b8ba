"""Crops and the other things that speaker objectives share."""

import numpy as np
import pytest
import torch

from audiossl.contracts import Utterance
from audiossl.encoders.xvector import XVector
from audiossl.losses.nt_xent import nt_xent
from audiossl.objectives._speaker import CropConfig, CropViews, MarginConfig, output_of, projector
from audiossl.objectives.simclr import SimCLR

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


def test_bad_options_are_named():
    with pytest.raises(ValueError, match="crop_duration: 0 s"):
        CropConfig(crop_duration=0)
    with pytest.raises(ValueError, match="'far' is neither"):
        CropConfig(crops="far")
    with pytest.raises(ValueError, match="additiv"):
        MarginConfig("additiv").build()


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
