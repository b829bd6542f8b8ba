import numpy as np
import pytest
import torch

from audiossl.contracts import Utterance
from audiossl.data.collate import collate, to_tensors
from audiossl.encoders.fbank import FBank
from audiossl.nn.mel_patches import mel_patches
from audiossl.objectives.mae import MAE

RATE = 16000
SMALL = {"num_mels": 20, "decoder_layers": 1, "decoder_dim": 32, "decoder_heads": 4}


def utterance(seed, seconds=1.2):
    samples = round(seconds * RATE)
    waveform = 0.1 * np.random.default_rng(seed).standard_normal(samples).astype(np.float32)
    return Utterance(f"utt{seed}", waveform, RATE)


def make_batch(module, items, seed=0):
    views = [module.views(item, np.random.default_rng([seed, k])) for k, item in enumerate(items)]
    batch = collate(views, [item.id for item in items])
    return to_tensors(module.batch_views(batch, np.random.default_rng(seed)))


def objective(**options):
    torch.manual_seed(0)
    return MAE(FBank(FBank.Config.tiny()), MAE.Config(**{**SMALL, **options}))


def soft_sdsc(e, r, alpha):
    agreement = 1 / (1 + torch.exp(-alpha * e * r))
    return 2 * (agreement * torch.minimum(e.abs(), r.abs())).sum() / (e.abs() + r.abs()).sum()


@pytest.mark.parametrize("patch_norm", [False, True])
@pytest.mark.parametrize(
    ("mse", "l1", "structure"), [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (0.5, 0.2, 2.0)]
)
def test_loss_is_that_of_each_masked_patch(patch_norm, mse, l1, structure):
    module = objective(patch_norm=patch_norm, mse_weight=mse, l1_weight=l1, sdsc_weight=structure).eval()
    estimates = []
    module.head.register_forward_hook(lambda *call: estimates.append(call[2]))
    batch = make_batch(module, [utterance(1), utterance(2, 0.8)])
    result = module(batch)
    patches = mel_patches(
        batch["waveform"], batch["waveform_lengths"], num_frames=batch["masked"].shape[1], stride=320, num_mels=20
    )
    loss = 0.0
    for estimate, (b, t) in zip(estimates[0], batch["masked"].nonzero(), strict=True):
        target = patches[b, t]
        if patch_norm:
            target = (target - target.mean()) / (target.var(correction=0) + 1e-6).sqrt()
        error = estimate - target
        loss += mse * (error**2).mean() + l1 * error.abs().mean()
        loss += structure * (1 - soft_sdsc(estimate, target, 10.0))
    assert result.count == batch["masked"].sum() > 10
    torch.testing.assert_close(result.loss_sum, loss, rtol=1e-5, atol=1e-4)


def test_evaluation_logs_how_alike_patches_are():
    module = objective(sdsc_weight=1.0, mse_weight=0.0, sdsc_sharpness=1e6).eval()
    batch = make_batch(module, [utterance(1), utterance(2, 0.8)])
    with torch.no_grad():
        result = module(batch)
    total, count = result.metrics["sdsc"]
    assert 0 < total / count < 1
    assert total / count == pytest.approx(1 - float(result.loss_sum / result.count), abs=1e-3)
    smooth = objective(sdsc_weight=1.0, mse_weight=0.0, sdsc_sharpness=1e6, sdsc_smooth=0.5).eval()
    assert smooth(batch).loss_sum < result.loss_sum
    assert "sdsc" not in module.train()(batch).metrics


def test_the_blocks_see_visible_frames_alone():
    module = objective().eval()
    sizes = []
    module.encoder.transformer.layers[0].register_forward_pre_hook(lambda _, inputs: sizes.append(inputs[0].shape))
    batch = make_batch(module, [utterance(1), utterance(2)])
    result = module(batch)
    visible = module.encoder.num_frames(batch["waveform_lengths"]) - batch["masked"].sum(1)
    assert sizes == [(2, int(visible.max()), module.encoder.dim)]
    assert visible.max() < 0.3 * batch["masked"].shape[1]
    assert result.loss_sum.isfinite()


@pytest.mark.parametrize("mask_input", [False, True])
def test_what_is_masked_may_be_kept_from_visible_frames(mask_input, monkeypatch):
    module = objective(mask_prob=0.5, mask_input=mask_input).eval()
    tops = []
    module.decoder.register_forward_pre_hook(lambda _, inputs: tops.append(inputs[0]))
    batch = make_batch(module, [utterance(1), utterance(2)])
    inputs, frames = module.encoder.frontend.features(batch["waveform"], batch["waveform_lengths"])
    hidden = batch["masked"].repeat_interleave(2, 1)[:, : inputs.shape[1]]
    for change in (0.0, 3.0):
        values = inputs + change * hidden.unsqueeze(-1)
        monkeypatch.setattr(module.encoder.frontend, "features", lambda *_, values=values: (values, frames))
        module(batch)
    visible = ~batch["masked"]
    assert torch.equal(tops[0][visible], tops[1][visible]) is mask_input


@pytest.mark.parametrize("mask_input", [False, True])
def test_padding_and_batch_mates_change_nothing(mask_input):
    module = objective(masking="self_guided", mask_prob=0.5, mask_input=mask_input).eval()
    items = [utterance(1), utterance(2, 0.8)]
    views = [module.views(item, np.random.default_rng(0)) for item in items]

    def loss(some):
        return module(
            to_tensors(module.batch_views(collate(some, ["u"] * len(some)), np.random.default_rng(0)))
        ).loss_sum

    torch.testing.assert_close(loss(views), loss(views[:1]) + loss(views[1:]), rtol=1e-5, atol=1e-4)


def test_how_contiguous_the_masks_are_is_logged_where_the_encoder_chooses_them():
    items = [utterance(1), utterance(2)]
    chosen, spans = objective(masking="self_guided", mask_prob=0.5), objective(mask_prob=0.5)
    pairs, expected = chosen(make_batch(chosen, items)).metrics["mask_contiguity"]
    assert 0 < pairs / expected < 3
    assert "mask_contiguity" not in spans(make_batch(spans, items)).metrics


def test_gradients_reach_all_that_trains():
    module = objective(position_noise=0.25, l1_weight=0.5, sdsc_weight=0.5)
    module(make_batch(module, [utterance(1), utterance(2)])).loss_sum.backward()
    assert [n for n, p in module.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())] == []
    assert not module.encoder.mask_emb.requires_grad


def test_a_model_learns_to_explain():
    module = objective(patch_norm=False, mask_prob=0.4)
    ramp = np.sin(np.arange(RATE) * 2 * np.pi / 6400)
    items = [
        Utterance(f"u{k}", (0.2 * ramp * np.sin(np.arange(RATE) * 0.2 * (k + 1))).astype(np.float32), RATE)
        for k in range(4)
    ]
    optimizer = torch.optim.AdamW(module.parameters(), lr=3e-3)
    explained = []
    for step in range(25):
        result = module(make_batch(module, items, seed=step))
        (result.loss_sum / result.count).backward()
        optimizer.step()
        optimizer.zero_grad()
        total, count = result.metrics["explained"]
        explained.append(float(total / count))
    assert np.mean(explained[-5:]) > 0.3 > 0.1 > explained[0]


@pytest.mark.parametrize("training", [True, False])
def test_a_batch_without_masked_frames_is_finite(training):
    module = objective().train(training)
    batch = make_batch(module, [utterance(1)])
    batch["masked"][:] = False
    batch["masked_frames"] = batch["masked_frames"][:0]
    result = module(batch)
    result.loss_sum.backward()
    assert result.loss_sum == result.count == 0
    assert all(torch.isfinite(total) for total, _ in result.metrics.values())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mse_weight": 0.0}, "are all 0; give one of them"),
        ({"l1_weight": -1.0}, "objective.l1_weight: -1.0 is negative"),
        ({"sdsc_smooth": -1.0}, "objective.sdsc_smooth: -1.0 is negative"),
        ({"decoder_dim": 48}, "decoder_dim: 48 is not a multiple of 32"),
        ({"decoder_layers": 0}, "decoder_layers: 0 is not positive"),
    ],
)
def test_configurations_that_make_no_sense_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        MAE.Config(**values)
