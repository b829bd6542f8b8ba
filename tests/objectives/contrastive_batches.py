"""What the tests of wav2vec 2.0 and its relatives share: noise, batches of it, and the plain loss written out frame by frame."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from audiossl.contracts import Utterance
from audiossl.data.collate import collate, to_tensors
from audiossl.encoders.wav2vec2 import Wav2Vec2 as Encoder

RATE = 16000


class Augmented(Utterance):
    """An utterance as the loader makes it, with noise on everything but its clean self."""

    @property
    def clean(self):
        noise = np.random.default_rng(9).standard_normal(len(self.waveform))
        return Utterance(self.id, (self.waveform - 0.5 * noise).astype(np.float32), self.sample_rate)


def utterance(seed, seconds=0.9, kind=Utterance):
    waveform = np.random.default_rng(seed).standard_normal(round(seconds * RATE)).astype(np.float32)
    return kind(f"utt{seed}", waveform, RATE)


def objective(cls, **options):
    torch.manual_seed(0)
    small = {"crop_duration": 4.0, "mask_length": 3, "final_dim": 8, "num_negatives": 5, "entries": 4}
    return cls(Encoder(Encoder.Config.tiny()), cls.Config(**(small | options)))


def make_batch(module, utterances, seed=0):
    views = [module.views(item, np.random.default_rng([seed, k])) for k, item in enumerate(utterances)]
    batch = collate(views, [item.id for item in utterances])
    return to_tensors(module.batch_views(batch, np.random.default_rng(seed)))


def masked_frames(batch):
    """Places (utterance, frame) of masked frames by utterance."""
    return [[(u, t) for t in torch.nonzero(row).flatten().tolist()] for u, row in enumerate(batch["masked"])]


def nats_by_frame(context, targets, codes, batch, temperature, negatives="negatives"):
    """-log softmax of each masked frame, one at a time; context, targets, codes: (masked frame, ...)."""
    losses, frame = [], 0
    for u, places in enumerate(masked_frames(batch)):
        first = frame
        for slot in range(len(places)):
            others = [first + int(s) for s in batch[negatives][u, slot]]
            alive = [k for k in others if not torch.equal(codes[k], codes[frame])]
            cosines = F.cosine_similarity(context[frame], targets[[frame, *alive]], dim=-1)
            losses.append(F.cross_entropy(cosines[None] / temperature, torch.zeros(1, dtype=torch.long)))
            frame += 1
    return torch.stack(losses)
