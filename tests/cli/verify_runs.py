"""Embeddings and trials of noise for tests of `audiossl verify`, and a run of it."""

from __future__ import annotations

import json

import numpy as np
from command import audiossl, succeed

from audiossl.verification.embeddings import EmbeddingWriter

EACH = 6


def write_embeddings(folder, speakers, seed, prefix=""):
    """Noise around a point per speaker, with `utt2spk`; returns the matrix and the ids."""
    rng = np.random.default_rng(seed)
    matrix = np.repeat(rng.standard_normal((speakers, 8)), EACH, axis=0) + 1.2 * rng.standard_normal(
        (EACH * speakers, 8)
    )
    ids = [f"{prefix}s{row // EACH:02}-{row % EACH}" for row in range(len(matrix))]
    with EmbeddingWriter(folder, 8) as writer:
        writer.add(ids, matrix)
    (folder / "utt2spk").write_text("".join(f"{name} {name.split('-')[0]}\n" for name in ids))
    return matrix, ids


def write_trials(path, ids, count, seed):
    """Random pairs, a third of them of one speaker; returns (enrol, test, label) rows."""
    rng, rows = np.random.default_rng(seed), []
    for _ in range(count):
        i, alike = int(rng.integers(len(ids))), bool(rng.random() < 0.3)
        block = i // EACH if alike else (i // EACH + rng.integers(1, len(ids) // EACH)) % (len(ids) // EACH)
        rows.append((i, int(EACH * block + (i + rng.integers(1, EACH)) % EACH), alike))
    path.write_text("".join(f"{int(same)} {ids[i]} {ids[j]}\n" for i, j, same in rows))
    return rows


def make_corpus(root):
    """Embeddings, a cohort, two trial lists and durations below `root`; returns it, the cosines of the trials and their labels."""
    matrix, ids = write_embeddings(root / "e", 60, 0)
    write_embeddings(root / "c", 25, 1, "c")
    rows = write_trials(root / "trials", ids[:180], 600, 0)
    write_trials(root / "dev", ids[180:], 500, 1)
    (root / "utt2dur").write_text("".join(f"{name} {2 + index % 7}\n" for index, name in enumerate(ids)))
    units = matrix / np.linalg.norm(matrix, axis=1, keepdims=True)
    return root, np.array([units[i] @ units[j] for i, j, _ in rows]), np.array([label for *_, label in rows])


def run(*words):
    return audiossl("verify", *words)


def measured(*words):
    return json.loads(succeed("verify", *words, "--json")[0])
