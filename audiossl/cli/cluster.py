"""Cluster embeddings into pseudo-labels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tyro.conf import Positional

from audiossl.cli._printed import answer
from audiossl.cli.main import MisuseError

if TYPE_CHECKING:
    from audiossl.verification.cluster import Clusters


def main(
    embeddings: Positional[Path],
    *,
    clusters: int,
    out: Path,
    iterations: int = 50,
    balanced: bool = False,
    seed: int = 0,
    device: str = "auto",
    overwrite: bool = False,
    json: bool = False,
) -> int:
    """Cluster embeddings by direction and write the cluster of every utterance, as labels for the objective `pseudo_label`.

    The matrix stays on disk and is read once for each iteration, more often where clusters are balanced. OUT.json says where the labels come
    from. The data directory may hold utterances without an embedding: they get no line, and `audiossl pretrain pseudo_label --data DATA` leaves them out.

    Example: audiossl cluster exp/simclr/train --clusters 6000 --out data/train/utt2cluster

    Args:
        embeddings: folder that `audiossl embed` wrote, or a matrix NAME.npy with NAME.ids.
        clusters: number of clusters.
        out: file to write, `utterance cluster` per line; in the data directory, by the name utt2cluster.
        iterations: at most; fewer if nothing moves any more.
        balanced: give all clusters about as many utterances.
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
    store, card = Embeddings.open(embeddings), out.with_name(f"{out.name}.json")
    made_of = {
        "digest": store.digest(),
        "clusters": clusters,
        "max_iterations": iterations,
        "balanced": balanced,
        "seed": seed,
    }
    if out.exists() and not overwrite:
        _require_same(out, card, made_of)
    with join_world(device) as world:
        found = cluster(store, clusters, iterations=iterations, seed=seed, balanced=balanced, device=str(world.device))
    digits = len(str(clusters - 1))
    write_table(
        out, ((name, f"c{label:0{digits}d}") for name, label in zip(store.ids, found.labels.tolist(), strict=True))
    )
    facts = {"embeddings": str(embeddings), **made_of, **_sizes(found)}
    write_json(card, facts)
    answer(facts, _spoken(out, facts), json=json)
    return 0


def _sizes(found: Clusters) -> dict[str, Any]:
    return {
        "utterances": len(found.labels),
        "used": int((found.counts > 0).sum()),
        "smallest": int(found.counts.min()),
        "largest": int(found.counts.max()),
        "mean_cosine": round(found.cosine, 6),
        "iterations": found.iterations,
    }


def _spoken(out: Path, facts: dict[str, Any]) -> str:
    return (
        f"{out}: {facts['utterances']} utterances in {facts['used']} clusters of {facts['smallest']} to {facts['largest']}, "
        f"mean cosine {facts['mean_cosine']:.4f} after {facts['iterations']} iterations"
    )


def _require_same(out: Path, card: Path, made_of: dict[str, Any]) -> None:
    """ValueError where the labels that are there were not made of the same, or are no labels of ours."""
    from audiossl.data.json_files import read_json_table

    before = read_json_table(card, "choose another --out, or --overwrite") if card.is_file() else {}
    if made_of != {key: before.get(key, False if key == "balanced" else None) for key in made_of}:
        raise ValueError(f"{out}: exists already and is made of something else; choose another --out, or --overwrite")
