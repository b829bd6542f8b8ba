"""Cluster embeddings into pseudo-labels."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from audiossl.cli.main import MisuseError


def main(
    embeddings: Positional[Path],
    *,
    clusters: int,
    out: Path,
    iterations: int = 50,
    seed: int = 0,
    device: str = "auto",
    overwrite: bool = False,
    json: bool = False,
) -> int:
    """Cluster embeddings by direction and write the cluster of every utterance, as labels for the objective `pseudo_label`.

    The matrix stays on disk and is read once for each iteration. OUT.json says where the labels come from. The data directory may hold
    utterances without an embedding: they get no line, and `audiossl pretrain pseudo_label --data DATA` leaves them out.

    Example: audiossl cluster exp/simclr/train --clusters 6000 --out data/train/utt2cluster

    Args:
        embeddings: folder that `audiossl embed` wrote, or a matrix NAME.npy with NAME.ids.
        clusters: number of clusters.
        out: file to write, `utterance cluster` per line; in the data directory, by the name utt2cluster.
        iterations: at most; fewer if nothing moves any more.
        seed: the labels depend on it and on the embeddings alone.
        device: auto, cpu, cuda or cuda:N.
        overwrite: replace `out` if it is there and was not made of these embeddings by these options.
        json: print what was done as JSON.
    """
    from audiossl.data.json_files import write_json
    from audiossl.data.kaldi import keyed_by, write_table
    from audiossl.train.distributed import join_world
    from audiossl.verification.cluster import cluster
    from audiossl.verification.embeddings import Embeddings

    if keyed_by(out.name) != "utterance":
        raise MisuseError(
            f"audiossl cluster: --out {out}: no column of a data directory is called {out.name!r}; name it utt2cluster"
        )
    if iterations < 1:
        raise MisuseError(f"audiossl cluster: --iterations {iterations} is not positive")
    if not out.parent.is_dir():
        raise ValueError(f"{out.parent}: no such folder; give a file in the data directory of these utterances")
    card = out.with_name(f"{out.name}.json")
    made_of = {"embeddings": str(embeddings), "clusters": clusters, "max_iterations": iterations, "seed": seed}
    if out.exists() and not overwrite:
        _require_same(out, card, made_of)
    store = Embeddings.open(embeddings)
    with join_world(device) as world:
        found = cluster(store, clusters, iterations=iterations, seed=seed, device=str(world.device))
    digits = len(str(clusters - 1))
    write_table(
        out, ((name, f"c{label:0{digits}d}") for name, label in zip(store.ids, found.labels.tolist(), strict=True))
    )
    facts = {
        **made_of,
        "utterances": len(store),
        "used": int((found.counts > 0).sum()),
        "smallest": int(found.counts.min()),
        "largest": int(found.counts.max()),
        "mean_cosine": round(found.cosine, 6),
        "iterations": found.iterations,
    }
    write_json(card, facts)
    if json:
        print(json_module.dumps(facts))
    else:
        print(
            f"{out}: {len(store)} utterances in {facts['used']} clusters of {facts['smallest']} to {facts['largest']}, "
            f"mean cosine {found.cosine:.4f} after {found.iterations} iterations"
        )
    return 0


def _require_same(out: Path, card: Path, made_of: dict[str, Any]) -> None:
    """ValueError where the labels that are there were not made of the same, or are no labels of ours."""
    from audiossl.data.json_files import read_json_table

    before = read_json_table(card, "choose another --out, or --overwrite") if card.is_file() else {}
    if made_of != {key: before.get(key) for key in made_of}:
        raise ValueError(f"{out}: exists already and is made of something else; choose another --out, or --overwrite")
