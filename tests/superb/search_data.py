"""What the tests of searching share: directories of noise in which queries are pieces of documents, and an upstream of three layers."""

from __future__ import annotations

import numpy as np
import torch

from audiossl.contracts import EncoderOutput
from audiossl.data.audio import write_audio
from audiossl.data.writer import CorpusUtterance, write_data_dir
from audiossl.diagnostics.sources import FeatureSource

HOP, DIM, LAYERS = 320, 6, 3


def upstream(*, fail_after=None, digest="d" * 64):
    """Frames of 20 ms; each layer is a random projection of the one above, the last one of the samples: a search with that one finds most.

    Computed in float64 and rounded, so that they are the same to the bit in any batch.
    """
    generator = torch.Generator().manual_seed(0)
    matrices = [torch.randn(rows, DIM, generator=generator).double() / rows**0.5 for rows in (HOP, DIM, DIM)]
    calls = []

    def extract(waveform, lengths):
        calls.append(len(waveform))
        if fail_after is not None and len(calls) > fail_after:
            raise KeyboardInterrupt
        x = 10 * waveform.double()[:, : waveform.shape[1] // HOP * HOP].unflatten(1, (-1, HOP))
        layers = []
        for matrix in matrices:
            x = torch.tanh(x @ matrix) + 0.3 * (len(layers) + 1)
            layers.append(x.float())
        return EncoderOutput(layers[::-1], lengths // HOP)

    return FeatureSource("layers", digest, 16_000, LAYERS, DIM, HOP, HOP, extract), calls


def write(root):
    """Write `documents`, and in `queries_dev` and `queries_eval` noisy pieces of some; the last query of either has four frames."""
    rng = np.random.default_rng(0)
    documents = {f"d{k:02d}": 0.1 * rng.standard_normal(HOP * (25 + 3 * k)) for k in range(20)}
    queries, relevant = {"queries_dev": {}, "queries_eval": {}}, {"queries_dev": [], "queries_eval": []}
    for part, (offset, letter) in {"queries_dev": (0, "v"), "queries_eval": (5, "e")}.items():
        for k in range(4):
            document = f"d{4 * k + offset % 4:02d}"
            length = 4 if k == 3 else 8 + k
            first = HOP * (3 + k)
            piece = documents[document][first : first + HOP * length]
            queries[part][f"{letter}{k}"] = piece + 0.08 * rng.standard_normal(len(piece))
            relevant[part].append((f"{letter}{k}", document))
    for name, waveforms in {"documents": documents, **queries}.items():
        rows = []
        for utterance, waveform in waveforms.items():
            path = root / "audio" / f"{utterance}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_audio(path, waveform.astype(np.float32), 16_000)
            rows.append(CorpusUtterance(utterance, utterance, path, utterance))
        write_data_dir(rows, root / name)
    for part, pairs in relevant.items():
        (root / part / "relevant").write_text("".join(f"{q} {d}\n" for q, d in pairs))
    return root


def features(source, manifest, index, layer):
    """(frame, dim) float64 of one utterance alone."""
    waveform = torch.from_numpy(manifest.audio(index, sample_rate=16_000))[None]
    output = source.extract(waveform, torch.tensor([waveform.shape[1]]))
    return output.layers[layer][0].double().numpy()
