"""How often unmasked frames are named rightly, against loops over frames, for each objective that names frames."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from audiossl.contracts import Utterance
from audiossl.data.collate import collate, to_tensors
from audiossl.encoders.codes import Codes
from audiossl.encoders.fbank import FBank
from audiossl.encoders.wav2vec2 import Wav2Vec2
from audiossl.nn.masking import valid_frames
from audiossl.objectives._unmasked import looked_at, share_right
from audiossl.objectives.best_rq import BestRQ
from audiossl.objectives.dinosr import DinoSR
from audiossl.objectives.discrete_bert import DiscreteBERT
from audiossl.objectives.sela import SeLa
from audiossl.objectives.spidr import SpidR

RATE = 16000


def make_batch(module):
    views = []
    for k, seconds in enumerate((0.9, 0.6)):
        rng = np.random.default_rng(k)
        waveform = 0.1 * rng.standard_normal(round(seconds * RATE)).astype(np.float32)
        units = {name: rng.integers(0, 9, round(seconds * 100)) for name in module.needs}
        views.append(module.views(Utterance(str(k), waveform, RATE, units), rng))
    return to_tensors(module.batch_views(collate(views, ["0", "1"]), np.random.default_rng(0)))


def free_frames(module, batch, frames):
    """(utterance, frame) of the valid ones that are not masked."""
    masked = batch["masked"]
    return (valid_frames(frames, masked.shape[1]) & ~masked).nonzero().tolist()


def context(module, batch):
    """Local features and the layers of the masked pass, as the objectives make them in evaluation."""
    local = module.encoder.local_features(batch["waveform"], batch["waveform_lengths"])
    z, masked = local.z, batch["masked"]
    if isinstance(module, BestRQ):  # noise, whose mean is 0
        return local, module.encoder.contextualise(z.masked_fill(masked.unsqueeze(2), 0.0), local.lengths).layers
    return local, module.encoder.contextualise(z, local.lengths, masked=masked).layers


def by_online_codes(module, batch):
    local, _ = context(module, batch)
    tops = module.student_frames(local, batch["masked"])
    targets = list(module.targets(module.encoder.projection(local.z), local.lengths))
    books, rights = module.codebooks.codes(), []
    for u, t in free_frames(module, batch, local.lengths):
        for k, (head, layer) in enumerate(zip(module.heads, tops, strict=True)):
            wanted = (books[k] - targets[k][u, t]).norm(dim=1).argmin()
            rights.append(bool(head(layer[u, t]).argmax() == wanted))
    return np.mean(rights), len(rights) / len(books)


def by_best_rq(module, batch):
    local, layers = context(module, batch)
    codes = module._targets(batch, local).view(*local.z.shape[:2], -1)
    rights = []
    for u, t in free_frames(module, batch, local.lengths):
        said = module.head(layers[-1][u, t]).view(codes.shape[2], -1).argmax(1)
        rights += (said == codes[u, t]).tolist()
    return np.mean(rights), len(rights) / codes.shape[2]


def by_sela(module, batch):
    local, layers = context(module, batch)
    free = free_frames(module, batch, local.lengths)
    labels = module.labels(batch, torch.tensor([u * local.z.shape[1] + t for u, t in free]))
    rights = []
    for (u, t), wanted in zip(free, labels, strict=True):
        rights += (module.head(layers[-1][u, t]).view(len(wanted), -1).argmax(1) == wanted).tolist()
    return np.mean(rights), len(free)


CASES = {DinoSR: by_online_codes, SpidR: by_online_codes, BestRQ: by_best_rq, SeLa: by_sela}


def made(cls):
    torch.manual_seed(0)
    encoder = FBank(FBank.Config.tiny()) if cls in {BestRQ, SeLa} else Wav2Vec2(Wav2Vec2.Config.tiny())
    return cls(encoder, cls.Config.tiny())


@torch.no_grad()
@pytest.mark.parametrize("cls", CASES)
def test_unmasked_accuracy_is_that_of_each_frame(cls):
    module = made(cls).eval()
    batch = make_batch(module)
    right, count = module(batch).metrics["unmasked_accuracy"]
    wanted, frames = CASES[cls](module, batch)
    assert count == frames > 5
    assert float(right / count) == pytest.approx(wanted, abs=1e-6)
    assert 0 < wanted < 1


@pytest.mark.parametrize("cls", [DinoSR, SpidR, BestRQ])
def test_it_is_logged_in_training_and_gives_no_gradient(cls):
    gradients = []
    for drop in (False, True):
        module = made(cls).train()
        batch = make_batch(module)
        if drop:
            batch["unmasked_frames"] = batch["unmasked_frames"][:0]
        torch.manual_seed(0)
        output = module(batch)
        assert bool(output.metrics["unmasked_accuracy"][1]) is not drop
        output.loss_sum.backward()
        gradients.append([p.grad for p in module.parameters() if p.grad is not None])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_self_guided_masks_have_unmasked_frames_too():
    torch.manual_seed(0)
    config = BestRQ.Config(masking="self_guided", mask_length=1, same_count=False, num_codes=16, code_dim=4)
    module = BestRQ(FBank(FBank.Config.tiny()), config).eval()
    batch = make_batch(module)
    assert "unmasked_frames" not in batch
    output = module(batch)
    frames = module.encoder.num_frames(batch["waveform_lengths"]).sum()
    assert output.metrics["unmasked_accuracy"][1] == frames - output.count > 0


def test_units_that_discrete_bert_sees_are_what_it_should_name():
    torch.manual_seed(0)
    module = DiscreteBERT(Codes(Codes.Config.tiny()), DiscreteBERT.Config.tiny(), 9).eval()
    batch = make_batch(module)
    top = module.encoder(batch["waveform"], batch["waveform_lengths"], masked=batch["masked"]).layers[-1]
    chosen = set(batch["masked_frames"].tolist())
    rights = []
    for u, units in enumerate(batch["waveform"]):
        for t in range(int(batch["waveform_lengths"][u])):
            if u * len(units) + t not in chosen:
                logits = module.encoder.embedding.weight @ module.head(top[u, t]) + module.bias
                rights.append(bool(logits.argmax() == units[t]))
    right, count = module(batch).metrics["unmasked_accuracy"]
    assert count == len(rights) > 20
    assert right == sum(rights)


@pytest.mark.parametrize(("frames", "seen"), [(0, 0), (1, 1), (256, 256), (257, 129), (1000, 250)])
def test_a_step_looks_at_no_more_than_256_frames(frames, seen):
    assert len(looked_at(torch.arange(frames), training=True)) == seen
    assert len(looked_at(torch.arange(frames), training=False)) == frames


def test_share_right_is_the_mean_over_codebooks():
    right, count = share_right(torch.tensor([[1, 2], [3, 4], [5, 6]]), torch.tensor([[1, 2], [3, 0], [0, 0]]))
    assert (float(right), float(count)) == (1.5, 3.0)
