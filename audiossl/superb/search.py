"""Tasks that train nothing and search: queries in documents, by the frames of one layer that the development queries choose.

One pass of the upstream over DIR/documents, DIR/queries_dev and DIR/queries_eval keeps the frames of all layers in OUT/layers, until the score is
there; one run at a time holds OUT. Then each layer is searched for the development queries, and the best one for the others.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass, replace
from functools import reduce
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from audiossl.data.json_files import read_json, write_json
from audiossl.data.loader import LoaderConfig
from audiossl.data.manifest import Manifest
from audiossl.data.progress import progress
from audiossl.diagnostics.subsequence_dtw import detection_scores, subsequence_dtw
from audiossl.superb.frame_store import CacheType, bytes_needed, told_size
from audiossl.superb.hearing import louder
from audiossl.superb.layer_store import StoredLayers, of_layers, store_layers
from audiossl.superb.score import Score
from audiossl.tasks.query_by_example import Truth
from audiossl.train.distributed import World
from audiossl.train.experiment import only_run
from audiossl.train.ledger import Ledger

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from audiossl.superb.job import Evaluation, Job

DOCUMENTS, DEV, EVAL = "documents", "queries_dev", "queries_eval"
_JOURNAL = "dev.json"
_GROUP_FRAMES = 2**15  # of documents, looked at together


@dataclass(frozen=True)
class Config:
    """How the search is done.

    layers: those that are tried, 0 the input of the first block; none named: all. precision: of the frames on disk. cache_gb: the most that
    they may take there. batch_seconds: padded audio per batch. num_workers: processes that read audio. max_bad_fraction: share of the
    recordings of a directory that may be unusable; they are left out.
    """

    layers: tuple[int, ...] = ()
    precision: CacheType = "float32"
    cache_gb: float = 100.0
    batch_seconds: float = 200.0
    num_workers: int = 2
    max_bad_fraction: float = 0.01


class Moments(NamedTuple):
    """Of the frames of a layer: their number, mean (dim,), and sum of squared differences from it (dim,); float64."""

    frames: int
    mean: np.ndarray
    squares: np.ndarray


def run(job: Job, evaluation: Evaluation, out: Path) -> Score:
    """Search with every layer for the development queries and with the best one for the others; nothing is random.

    ValueError where another run is in `out`, whose frames this one would remove.
    """
    with only_run(out, World(0, 1, torch.device(evaluation.device))):
        return _run(job, evaluation, out)


def _run(job: Job, evaluation: Evaluation, out: Path) -> Score:
    evaluation = replace(evaluation, upstream=louder(evaluation.upstream, job.task_config.gain_db))
    ledger, layers = Ledger(evaluation.device), evaluation.layers(job.config.layers)
    data = evaluation.data
    documents = Manifest.open(data / DOCUMENTS).ids  # what cannot be read is not searched, and counts as rejected
    truths = {part: Truth.read(data / part, data / DOCUMENTS, documents) for part in (DEV, EVAL)}
    for part, truth in truths.items():
        truth.check(Manifest.open(data / part).ids, documents)
    stores = _stores(evaluation, out / "layers", layers, job.config)
    search = _Search(job.task_class(job.task_config), job.task_config, stores, truths, evaluation)
    name = job.task_class.metric[0]
    facts = {"task": asdict(job.task_config), "data": job.labels.digest(data)}
    by_layer = _earlier(out, stores, facts)
    for layer in progress(layers, len(layers), f"{job.name}: layers"):
        if layer not in by_layer:
            by_layer[layer] = search.values(DEV, search.found(DEV, layer))[name]
            write_json(out / "layers" / _JOURNAL, {**facts, "dev": list(by_layer.items())})
    best = max(layers, key=by_layer.__getitem__)
    evaluation.log(f"{job.name}: layer {best} has the best {name} on {DEV}, {by_layer[best]:.4f}")
    found = search.found(EVAL, best)
    values = search.values(EVAL, found)
    ledger.forwards = sum(store.forwards for store in stores.values())
    ledger.cached_forwards = sum(len(store.ids) for store in stores.values()) - ledger.forwards
    alone = len(stores[DEV].ids) + len(stores[EVAL].ids) + 2 * len(stores[DOCUMENTS].ids)
    ledger.alone_forwards = len(layers) * alone  # a pass for each layer and set of queries
    shutil.rmtree(out / "layers")
    return Score(
        task=job.name,
        upstream=evaluation.upstream_name,
        values=values,
        metric=name,
        learning_rate=None,
        seed=evaluation.seed,
        selection=f"dev {name}",
        step=0,
        parameters=0,
        cost=ledger.cost(),
        more={"layer": best, "dev_by_layer": {str(layer): value for layer, value in by_layer.items()}},
        answers=search.task.answers(found, stores[EVAL].ids, stores[DOCUMENTS].ids),
    )


@dataclass(frozen=True)
class _Search:
    """A task with the frames that it searches, and what it should find."""

    task: Any
    config: Any
    stores: dict[str, StoredLayers]
    truths: dict[str, Truth]
    evaluation: Evaluation

    def found(self, part: str, layer: int) -> np.ndarray:
        """(query, document), what a search with a layer gives for the queries of a directory."""
        return searched(self.stores[part], self.stores[DOCUMENTS], layer, self.config, device=self.evaluation.device)

    def values(self, part: str, found: np.ndarray) -> dict[str, float]:
        """What it scores."""
        ids = self.stores[part].ids, self.stores[DOCUMENTS].ids
        values: dict[str, float] = self.task.evaluate(found, *ids, self.truths[part])
        return values


def searched(queries: StoredLayers, documents: StoredLayers, layer: int, config: Any, *, device: str) -> np.ndarray:
    """Score every query against every document: (query, document), mean 0 and deviation 1 for each query.

    Features are normalised to mean 0 and deviation 1 over the frames of all queries and documents. config: that of the task. In float64: a query's costs
    differ by hundredths, so that what float32 loses in them is a hundred times that in scores, for two thirds of the time.
    """
    moments = merged(layer_moments(queries, layer), layer_moments(documents, layer))
    deviation = np.sqrt(moments.squares / max(moments.frames - 1, 1)).clip(1e-9)
    mean, scale = (torch.from_numpy(values).to(device) for values in (moments.mean, deviation))

    def normalised(items: list[Tensor]) -> list[Tensor]:
        lengths = [len(item) for item in items]
        return list(((torch.cat(items).to(device) - mean) / scale).split_with_sizes(lengths))

    asked = [item for items in queries.groups(layer, _GROUP_FRAMES) for item in normalised(items)]
    costs = torch.cat(
        [
            subsequence_dtw(asked, normalised(items), distance=config.distance, min_max=config.min_max)
            for items in documents.groups(layer, _GROUP_FRAMES)
        ],
        dim=1,
    )
    lengths = torch.from_numpy(queries.lengths).to(costs.device)
    return detection_scores(costs, lengths, min_frames=config.min_frames).cpu().numpy()


def layer_moments(store: StoredLayers, layer: int) -> Moments:
    """Moments of all frames of a layer, by blocks."""

    def moments(items: list[Tensor]) -> Moments:
        block = torch.cat(items).numpy().astype(np.float64)
        mean = block.mean(axis=0)
        return Moments(len(block), mean, np.square(block - mean).sum(axis=0))

    return reduce(merged, map(moments, store.groups(layer, _GROUP_FRAMES)))


def merged(one: Moments, other: Moments) -> Moments:
    """Moments of two sets together (Chan et al., 1983)."""
    count = one.frames + other.frames
    gap = other.mean - one.mean
    squares = one.squares + other.squares + np.square(gap) * (one.frames * other.frames / count)
    return Moments(count, one.mean + gap * (other.frames / count), squares)


def _earlier(out: Path, stores: dict[str, StoredLayers], facts: dict[str, Any]) -> dict[int, float]:
    """Layers that an interrupted call has searched already, with the same frames and `facts`: settings and labels."""
    journal = out / "layers" / _JOURNAL
    if any(store.forwards for store in stores.values()) or not journal.is_file():
        return {}
    found = read_json(journal)
    return dict(found["dev"]) if all(found.get(key) == value for key, value in facts.items()) else {}


def _stores(evaluation: Evaluation, folder: Path, layers: tuple[int, ...], config: Config) -> dict[str, StoredLayers]:
    """Frames of documents and queries, with a line that says how much they take; ValueError where that is more than `cache_gb`."""
    upstream, log = evaluation.upstream, evaluation.log
    manifests = {part: Manifest.open(evaluation.data / part) for part in (DOCUMENTS, DEV, EVAL)}
    kept = of_layers(upstream, layers)
    size = sum(bytes_needed(manifest, kept, config.precision) for manifest in manifests.values())
    if size > 1e9 * config.cache_gb:
        raise ValueError(
            f"superb.cache_gb: {len(layers)} layers take about {size / 1e9:.3g} GB, more than {config.cache_gb:g}; "
            "raise it, name fewer layers, or set superb.precision to float16"
        )
    log(told_size(size, config.cache_gb))
    loading = LoaderConfig(
        batch_seconds=config.batch_seconds, num_workers=config.num_workers, max_bad_fraction=config.max_bad_fraction
    )
    return {
        part: store_layers(
            manifest, upstream, folder / part, layers=layers, precision=config.precision, loading=loading, log=log
        )
        for part, manifest in manifests.items()
    }
