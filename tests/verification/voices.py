"""Embeddings, trials and speakers for tests: noise around a point per speaker."""

from __future__ import annotations

import numpy as np

from audiossl.verification.embeddings import EmbeddingWriter


def write_embeddings(folder, speakers=12, each=6, dim=8, crops=None, seed=0, spread=1.0, prefix=""):
    """Write embeddings of `speakers` with `utt2spk`; returns the matrix, ids and speaker numbers."""
    rng = np.random.default_rng(seed)
    points = rng.standard_normal((speakers, dim))
    speaker = np.repeat(np.arange(speakers), each)
    noise = spread * rng.standard_normal((len(speaker), *([] if crops is None else [crops]), dim))
    matrix = (noise + (points[speaker] if crops is None else points[speaker, None])).astype(np.float32) * 3
    ids = [f"{prefix}s{number:02}-{index}" for index, number in enumerate(speaker)]
    with EmbeddingWriter(folder, dim, crops=crops) as writer:
        writer.add(ids[:5], matrix[:5])
        writer.add(ids[5:], matrix[5:])
    (folder / "utt2spk").write_text("".join(f"{name} {name.split('-')[0]}\n" for name in ids))
    return matrix, ids, speaker


def write_trials(path, ids, speaker, count=300, seed=0):
    """Write `count` random trials of different utterances, a third of them targets; returns (enrol, test, label) rows."""
    rng = np.random.default_rng(seed)
    rows = []
    while len(rows) < count:
        i = rng.integers(len(ids))
        alike = rng.random() < 0.3
        j = rng.choice(np.flatnonzero((speaker == speaker[i]) == alike))
        if i != j:
            rows.append((int(i), int(j), bool(alike)))
    lines = [f"{ids[i]} {ids[j]} {'target' if same else 'nontarget'}\n" for i, j, same in rows]
    path.write_text("".join(lines))
    return rows
