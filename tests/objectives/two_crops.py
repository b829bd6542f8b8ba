"""What the tests of objectives on two crops share: a small module, a batch of noise, and what its encoder says of each crop by itself."""

import numpy as np
import torch

from audiossl.encoders.xvector import XVector

SAMPLES = 4800  # 0.3 s


def encoder():
    """A tiny encoder whose embeddings point everywhere and have variances of about 1; untrained ones are all alike."""
    torch.manual_seed(0)
    made = XVector(XVector.Config.tiny()).eval()
    waveform = noise(20)["waveform"][:, :SAMPLES]
    with torch.no_grad():
        alike = made.embed(waveform, torch.full((20,), SAMPLES))
        made.body.embedding.weight /= alike.std(dim=0).unsqueeze(1)
        made.body.embedding.bias -= alike.mean(dim=0)
        made.body.embedding.bias /= alike.std(dim=0)
    return made


def make(cls, seed=1, **options):
    """The objective on crops of 0.3 s, in eval mode: its batch norms do not depend on how rows are put together."""
    own = encoder()
    torch.manual_seed(seed)
    return cls(own, cls.Config(crop_duration=0.3, **options)).eval()


def noise(utterances=6, seed=2):
    waveform = torch.randn(utterances, 2 * SAMPLES, generator=torch.Generator().manual_seed(seed))
    return {"waveform": waveform, "waveform_lengths": torch.full((utterances,), 2 * SAMPLES)}


def represented(module, batch):
    """y of the first and of the second crops, each encoded one utterance at a time: two of (batch, dim)."""
    with torch.no_grad():
        views = [
            [
                module.encoder.embed(row[None, start : start + SAMPLES], torch.tensor([SAMPLES]))[0]
                for row in batch["waveform"]
            ]
            for start in (0, SAMPLES)
        ]
    return [torch.stack(view) for view in views]


def projected(module, batch):
    """z of both views."""
    with torch.no_grad():
        return [module.projector(view) for view in represented(module, batch)]


def mean_of(output, name):
    total, count = output.metrics[name]
    return (total / count).item()


def unit(rows):
    rows = np.asarray(rows, dtype=np.float64)
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)
