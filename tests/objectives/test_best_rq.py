import numpy as np
import pytest
import torch
from torch.nn import functional as F

from audiossl.contracts import Utterance
from audiossl.data.collate import collate, to_tensors
from audiossl.encoders.fbank import FBank
from audiossl.encoders.wav2vec2 import Wav2Vec2
from audiossl.nn.mel_patches import mel_patches
from audiossl.objectives.best_rq import BestRQ

RATE = 16000


def utterance(seed, seconds=1.2):
    samples = round(seconds * RATE)
    waveform = 0.1 * np.random.default_rng(seed).standard_normal(samples).astype(np.float32)
    return Utterance(f"utt{seed}", waveform, RATE)


def make_batch(module, items, seed=0):
    views = [module.views(item, np.random.default_rng([seed, k])) for k, item in enumerate(items)]
    batch = collate(views, [item.id for item in items])
    return to_tensors(module.batch_views(batch, np.random.default_rng(seed)))


def objective(encoder=FBank, **options):
    torch.manual_seed(0)
    return BestRQ(encoder(encoder.Config.tiny()), BestRQ.Config(**{"num_codes": 16, "code_dim": 4, **options}))


@pytest.mark.parametrize("mask_with", ["noise", "embedding"])
@pytest.mark.parametrize("encoder", [FBank, Wav2Vec2])
def test_loss_is_that_of_each_masked_frame_and_book(encoder, mask_with):
    module = objective(encoder, mask_with=mask_with, books=2).eval()
    batch = make_batch(module, [utterance(1), utterance(2, 0.8)])
    local = module.encoder.local_features(batch["waveform"], batch["waveform_lengths"])
    masked, z = batch["masked"], local.z.clone()
    if mask_with == "noise":
        z[masked] = 0.0  # the noise's mean in evaluation
    top = module.encoder.contextualise(z, local.lengths, masked=masked if mask_with == "embedding" else None).layers[-1]
    patches = mel_patches(
        batch["waveform"], batch["waveform_lengths"], num_frames=z.shape[1], stride=module.encoder.stride
    )
    loss = 0.0
    for b, t in zip(*masked.nonzero(as_tuple=True), strict=True):
        logits = module.head(top[b, t]).view(2, 16)
        for book in range(2):
            direction = F.normalize(patches[b, t] @ module.quantiser.projection[book], dim=0)
            code = (module.quantiser.codes[book] - direction).norm(dim=1).argmin()
            loss += F.cross_entropy(logits[book], code) / 2
    result = module(batch)
    assert result.count == masked.sum() > 10
    torch.testing.assert_close(result.loss_sum, loss, rtol=1e-5, atol=1e-4)


def test_noise_stands_in_masked_frames():
    module = objective(noise_std=0.5).train()
    seen = []
    module.encoder.contextualise = lambda z, lengths: (
        seen.append(z) or type(module.encoder).contextualise(module.encoder, z, lengths)
    )
    batch = make_batch(module, [utterance(k, 2.0) for k in range(4)])
    module(batch)
    z, masked = seen[0], batch["masked"]
    local = module.encoder.local_features(batch["waveform"], batch["waveform_lengths"]).z
    assert torch.equal(z[~masked], local[~masked])
    assert z[masked].mean().item() == pytest.approx(0, abs=0.05)
    assert z[masked].std().item() == pytest.approx(0.5, rel=0.05)


@pytest.mark.parametrize("masking", ["span", "self_guided"])
@pytest.mark.parametrize("mask_with", ["noise", "embedding"])
def test_masks_may_stand_in_front_of_the_convolutions(mask_with, masking):
    module = objective(mask_with=mask_with, masking=masking, mask_input=True).train()
    calls, seen = [], []
    module.encoder.frontend.register_forward_hook(lambda _, __, kwargs, out: calls.append(kwargs), with_kwargs=True)
    whole = type(module.encoder).contextualise
    module.encoder.contextualise = lambda z, lengths, **options: (
        seen.append((z, options)) or whole(module.encoder, z, lengths, **options)
    )
    batch = make_batch(module, [utterance(1, 2.0), utterance(2, 1.0)])
    module(batch).loss_sum.backward()
    given, (z, options) = calls[-1], seen[-1]
    assert given["noise_std"] == (0.1 if mask_with == "noise" else 0.0)
    if masking == "span":
        assert torch.equal(given["hidden"], batch["masked"])
        assert len(calls) == 1
    assert ("masked" in options) is (mask_with == "embedding")
    if mask_with == "embedding":
        local = module.encoder.local_features(batch["waveform"], batch["waveform_lengths"], hidden=given["hidden"])
        assert torch.equal(options["masked"], given["hidden"])
        assert torch.equal(z, local.z)
    assert module.encoder.frontend.convs[0].weight.grad.any()
    calls.clear()
    module.eval()(batch)
    assert calls[-1]["noise_std"] == 0


@pytest.mark.parametrize("config", [Wav2Vec2.Config.tiny(), FBank.Config(inputs="mfcc")])
def test_masks_in_the_filterbank_need_one(config):
    encoder = (FBank if isinstance(config, FBank.Config) else Wav2Vec2)(config)
    with pytest.raises(
        ValueError, match=r"objective\.mask_input: true, but .* has no filterbank in front; leave it out"
    ):
        BestRQ(encoder, BestRQ.Config(mask_input=True))


def test_default_masks_are_speechbrains():
    masked = make_batch(objective(), [utterance(1, 10.0)])["masked"]
    assert masked.float().mean().item() == pytest.approx(0.6, abs=0.01)


def test_a_shared_mask_is_that_of_the_shortest_utterance():
    items = [utterance(1, 3.0), utterance(2, 2.0), utterance(3, 4.0)]
    masked = make_batch(objective(shared_mask=True), items)["masked"]
    shortest = 99
    assert masked.shape == (3, 199)
    assert torch.equal(masked[0], masked[1])
    assert torch.equal(masked[0], masked[2])
    assert masked[0, :shortest].float().mean().item() == pytest.approx(0.6, abs=0.02)
    assert not masked[:, shortest:].any()
    own = make_batch(objective(), items)["masked"]
    assert not torch.equal(own[0, :shortest], own[1, :shortest])


def test_a_shared_mask_that_attention_chooses_is_refused():
    with pytest.raises(ValueError, match=r"objective\.shared_mask: true is for masking = 'span'"):
        BestRQ.Config(shared_mask=True, masking="self_guided")


def test_what_trains():
    module = objective()
    assert not module.encoder.mask_emb.requires_grad
    assert objective(mask_with="embedding").encoder.mask_emb.requires_grad
    assert not any("quantiser" in name for name, _ in module.named_parameters())
    assert "quantiser.codes" in module.state_dict()


def test_codes_that_can_be_heard_are_learnt():
    module = objective(num_codes=8, mask_with="embedding")
    tones = [
        (0.1 * np.sin(np.arange(RATE) * 0.1 * (k + 1)) * (np.arange(RATE) % 6400 < 3200)).astype(np.float32)
        for k in range(4)
    ]
    items = [Utterance(f"u{k}", tone, RATE) for k, tone in enumerate(tones)]
    optimizer = torch.optim.AdamW(module.parameters(), lr=3e-3)
    losses = []
    for step in range(25):
        result = module(make_batch(module, items, seed=step))
        loss = result.loss_sum / result.count
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert np.mean(losses[-5:]) < 0.6 * losses[0]


def test_self_guided_masks_are_exact():
    module = objective(masking="self_guided", mask_prob=0.5)
    batch = make_batch(module, [utterance(1), utterance(2, 0.8)])
    assert "masked" not in batch
    frames = module.encoder.num_frames(batch["waveform_lengths"])
    result = module(batch)
    assert result.count == sum(int(count) // 2 for count in frames)
    result.loss_sum.backward()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"books": 0}, "objective.books: 0 is not positive"),
        ({"mask_with": "embedding", "noise_std": 0.2}, "noise_std: 0.2 is for mask_with = 'noise'"),
        ({"query_share": 0.2}, "query_share: 0.2 is for masking = 'self_guided'"),
        ({"masking": "self_guided", "mask_length": 3}, "mask_length 3 and same_count False are for spans"),
        ({"masking": "self_guided", "query_share": 0.0}, r"query_share: 0.0 is not in \(0, 1\]"),
    ],
)
def test_configurations_that_make_no_sense_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        BestRQ.Config(**values)
