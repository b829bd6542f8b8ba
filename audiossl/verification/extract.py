"""From a data directory to embeddings: whole utterances in batches of like lengths, or evenly spaced crops of each."""

from __future__ import annotations

import math
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from audiossl.contracts import EncoderOutput
from audiossl.data.directory import Wrapped
from audiossl.data.frame_grid import FrameGrid
from audiossl.data.json_files import read_json_table, write_json
from audiossl.data.kaldi import UTT2SPK, WAV_SCP
from audiossl.data.loader import BadRecordings, LoaderConfig, usable
from audiossl.data.whole import WholeUtterances, one_epoch
from audiossl.files import require_folder
from audiossl.interop.digest import encoder_digest
from audiossl.interop.encoder import load_encoder, require_layer
from audiossl.nn.batch_dependence import TOLERANCE, minds_batch_mates, one_by_one
from audiossl.nn.pooling import mean_over_frames
from audiossl.nn.resnet import ResNetBody
from audiossl.verification.embeddings import MATRIX, EmbeddingWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from torch import Tensor

    from audiossl.contracts import Batch, Utterance
    from audiossl.data.directory import Source
    from audiossl.data.loader import Viewing

    Embed = Callable[[Tensor, Tensor], Tensor]

CARD = "embeddings.json"

_PART = 20.0
_SHORTEST_PART = 4.0
"""Seconds of padded audio that a core is given at a time: what a layer makes of 20 s stays in its cache; below 4 s the calls cost more."""
_TOLERANCES = {"fp32": TOLERANCE, "bf16": 1e-2}
"""By precision, what embeddings may differ by beside others: rounding to bfloat16 alone is 6e-3."""


@dataclass(frozen=True)
class ExtractConfig:
    """How a data directory is read.

    crops: per utterance, of crop_duration s each, from its beginning to its end; None embeds it whole. batch_seconds: padded audio per
    batch. max_bad_fraction: share of the utterances that may be unusable.
    """

    crops: int | None = None
    crop_duration: float | None = None
    batch_seconds: float = 200.0
    num_workers: int = 2
    max_bad_fraction: float = 0.01

    def __post_init__(self) -> None:
        if (self.crops is None) != (self.crop_duration is None):
            raise ValueError(f"crops {self.crops} of {self.crop_duration} s: give both their number and their duration")
        if (self.crops is not None and self.crops < 1) or (self.crop_duration is not None and self.crop_duration <= 0):
            raise ValueError(f"{self.crops} crops of {self.crop_duration} s: give at least 1 crop, longer than 0 s")


@dataclass(frozen=True)
class Embedder:
    """Waveforms to embeddings.

    name: its source. what: what the embedding is, for people. digest: see `interop.digest`. min_samples: the shortest recording that has a
    frame. embed: waveform (batch, sample), lengths (batch,) -> (batch, dim) float32, without gradients; padding changes nothing.
    device: of what `embed` computes. precision: of its matrix products.
    """

    name: str
    what: str
    digest: str
    dim: int
    sample_rate: int
    min_samples: int
    embed: Embed
    device: str = "cpu"
    precision: str = "fp32"


def open_embedder(
    source: str,
    *,
    layer: int | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
    precision: Literal["fp32", "bf16"] = "fp32",
    own_code: bool = False,
) -> Embedder:
    """Load a source; see `embedder_of`. seed: of the weights of `random:SOURCE`. own_code: see `load_encoder`."""
    encoder = load_encoder(source, seed=seed, own_code=own_code)
    return embedder_of(encoder, source, layer=layer, device=device, precision=precision)


def embedder_of(
    encoder: Any,
    source: str,
    *,
    layer: int | None = None,
    device: str | torch.device = "cpu",
    precision: Literal["fp32", "bf16"] = "fp32",
) -> Embedder:
    """Embed with an encoder, in eval mode: its embeddings, or else the mean over time of one of its layers.

    encoder: from then on the embedder's own, float32, with batch norms folded into convolutions. source: its name. layer: counted from 0, the
    input of the first block; None is the last. precision: `bf16` computes under autocast, which is faster where the processor multiplies
    bfloat16 itself, and changes embeddings a little: cosines to those of fp32 are above 0.999. ValueError for a layer that is not there,
    and for one of an encoder that has embeddings of its own.
    """
    digest = encoder_digest(encoder)
    encoder = encoder.float().eval().to(device)
    if isinstance(getattr(encoder, "body", None), ResNetBody):
        encoder.body.fold_norms()
    kind = torch.device(device).type
    if hasattr(encoder, "embed"):
        if layer is not None:
            raise ValueError(f"layer {layer}: {source} has embeddings of its own; leave it out")
        what, dim, forward = "embeddings", encoder.embedding_dim, encoder.embed
    else:
        layer = encoder.num_layers if layer is None else layer
        require_layer(layer, encoder.num_layers, source)
        what, dim, forward = f"means over time of layer {layer}", encoder.dim, _time_mean(encoder, layer)

    @torch.no_grad()
    def embed(waveform: Tensor, lengths: Tensor) -> Tensor:
        with torch.autocast(kind, torch.bfloat16, enabled=precision == "bf16"):
            embedding: Tensor = forward(waveform.to(device), lengths.to(device))
        return embedding.float()

    rate, shortest = encoder.sample_rate, FrameGrid.of(encoder).first
    unmixed = _unmixed(embed, rate, shortest, _TOLERANCES[precision])
    return Embedder(source, what, digest, dim, rate, shortest, unmixed, kind, precision)


def extract(
    manifest: Source, embedder: Embedder, out: Path, config: ExtractConfig, *, log: Callable[[str], None]
) -> tuple[int, dict[str, str]]:
    """Write the embeddings of a data directory into the folder `out`, its `utt2spk` and a card beside them.

    Returns how many there are, and what is wrong with each utterance that was left out, which `log` is told too. ValueError
    when these are too many. Nothing appears in `out` unless all goes well, and then all of it together.
    """
    if out.suffix == ".npy":
        raise ValueError(f"{out}: utt2spk and {CARD} go beside the embeddings; give a folder for them")
    source, reader, loading = _reading(manifest, embedder, config)
    bad = BadRecordings(config.max_bad_fraction, len(manifest.ids))
    batches = one_epoch(
        source, reader, loading, sample_rate=embedder.sample_rate, label=f"{embedder.name} on {manifest.path.name}"
    )
    count, speakers = 0, manifest.path / UTT2SPK
    beside = [CARD, UTT2SPK] if speakers.is_file() else [CARD]
    opened = EmbeddingWriter(out, embedder.dim, crops=config.crops, beside=beside)
    with opened as writer, _on_all_cores(embedder) as embed:
        for batch in usable(batches, bad, log):
            writer.add(batch["utt_ids"], _embed(embed, batch))
            count += len(batch["utt_ids"])
        if not count:
            raise ValueError(f"{manifest.path}: none of its {len(manifest.ids)} utterances can be used; see above")
        facts = {"source": embedder.name, **_made_of(manifest, embedder, config)}
        write_json(writer.beside[CARD], {**facts, "utterances": count, "left_out": bad.messages})
        if UTT2SPK in writer.beside:
            shutil.copyfile(speakers, writer.beside[UTT2SPK])
    if UTT2SPK not in beside:
        (out / UTT2SPK).unlink(missing_ok=True)  # of other data
    return count, bad.messages


def require_place(out: Path, manifest: Source, embedder: Embedder, config: ExtractConfig, *, overwrite: bool) -> None:
    """Raise ValueError where `extract` would replace tables of a data directory or, unless told so, other embeddings in `out`."""
    require_folder(out)
    if (out / WAV_SCP).exists():
        raise ValueError(f"{out}: is a data directory, whose utt2spk would be replaced; choose another --out")
    if overwrite:
        return
    if not (out / CARD).is_file():
        if (out / MATRIX).exists() or (out / MATRIX).with_suffix(".ids").exists():
            raise ValueError(
                f"{out / MATRIX}: exists already, and no {CARD} says what it was made of; choose another --out, or --overwrite"
            )
        return
    before, now = (
        read_json_table(out / CARD, "choose another --out, or --overwrite"),
        _made_of(manifest, embedder, config),
    )
    other = next((key for key in now if before.get(key) != now[key]), None)
    if other is not None:
        raise ValueError(
            f"{out}: holds other embeddings already ({other} {before.get(other)}, not {now[other]}); choose another --out, or --overwrite"
        )


def _made_of(manifest: Source, embedder: Embedder, config: ExtractConfig) -> dict[str, Any]:
    """What embeddings depend on."""
    encoder = {"source_digest": embedder.digest, "what": embedder.what, "precision": embedder.precision}
    return {**encoder, "data": str(manifest.path), "crops": config.crops, "crop_duration": config.crop_duration}


@dataclass(frozen=True)
class EvenCrops:
    """Views for the loader: `count` crops of `samples` samples, the first at the beginning, the last at the end, evenly spaced.

    Only the crops are decoded, unless they cover the utterance: then it is decoded once. What is shorter than a crop is repeated.
    """

    count: int
    samples: int
    sample_rate: int
    needs: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """Of all crops together."""
        return self.count * self.samples / self.sample_rate

    def views(self, utterance: Utterance, rng: np.random.Generator) -> dict[str, Any]:  # noqa: ARG002 - the loader's contract
        """waveform: (crop, sample)."""
        if utterance.duration <= self.seconds:
            waveform = utterance.waveform
            if len(waveform) < self.samples:
                waveform = np.resize(waveform, self.samples)
            return {"waveform": waveform[self._starts(len(waveform))[:, None] + np.arange(self.samples)]}
        starts = self._starts(round(utterance.duration * self.sample_rate)) / self.sample_rate
        pieces = [utterance.cut(start, self.samples / self.sample_rate) for start in starts.tolist()]
        if not all(map(len, pieces)):
            raise ValueError(f"ends before {utterance.duration:.2f} s; make utt2dur again or leave it out")
        crops = np.stack([np.resize(piece, self.samples) for piece in pieces])  # rounding can cost one sample
        if not crops.any():
            raise ValueError("all crops are silent; leave it out")
        return {"waveform": crops}

    def batch_views(self, batch: Batch, rng: np.random.Generator) -> Batch:  # noqa: ARG002 - the loader's contract
        """Return the batch as it is."""
        return batch

    def _starts(self, length: int) -> np.ndarray:
        starts: np.ndarray = np.rint(np.linspace(0, length - self.samples, self.count)).astype(np.int64)
        return starts


@dataclass(frozen=True)
class _AtLeast(Wrapped):
    """A source whose utterances count as `seconds` at the least: short ones are repeated, and batches must not grow by that."""

    seconds: float

    @cached_property
    def durations(self) -> np.ndarray:
        return np.asarray(np.maximum(self.source.durations, self.seconds))


def _reading(manifest: Source, embedder: Embedder, config: ExtractConfig) -> tuple[Source, Viewing, LoaderConfig]:
    """Return what the loader reads from, the views, and its settings."""
    loading = LoaderConfig(
        batch_seconds=config.batch_seconds, num_workers=config.num_workers, max_bad_fraction=config.max_bad_fraction
    )
    if config.crops is None or config.crop_duration is None:
        return manifest, WholeUtterances(embedder.min_samples), loading
    crops = EvenCrops(config.crops, round(config.crop_duration * embedder.sample_rate), embedder.sample_rate)
    if crops.samples < embedder.min_samples:
        shortest = embedder.min_samples / embedder.sample_rate
        raise ValueError(f"crops of {config.crop_duration} s have no frame; give at least {shortest:.3f} s")
    return _AtLeast(manifest, crops.seconds), crops, replace(loading, crop_duration=crops.seconds)


@contextmanager
def _on_all_cores(embedder: Embedder) -> Iterator[Embed]:
    """On processors, embed parts of a batch side by side, each in a thread that keeps to one core, instead of all layer by layer.

    No core then waits for the others at the end of every layer, and a part stays in its cache. Batches with fewer rows than there are
    threads are left to torch.
    """
    threads = torch.get_num_threads()
    if embedder.device != "cpu":
        yield embedder.embed
        return

    def embed(waveform: Tensor, lengths: Tensor) -> Tensor:
        seconds = waveform.numel() / embedder.sample_rate
        parts = max(math.ceil(seconds / _PART), min(threads, int(seconds / _SHORTEST_PART)))
        if len(waveform) < threads or parts < 2:
            return embedder.embed(waveform, lengths)
        parts = min(parts, len(waveform))
        # Not cut to the longest of each part: kernels that were made for a length serve again.
        return torch.cat(list(pool.map(embedder.embed, waveform.tensor_split(parts), lengths.tensor_split(parts))))

    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            yield embed
        finally:
            torch.set_num_threads(threads)  # a thread's setting is what later ones start from


def _embed(embed: Embed, batch: Batch) -> np.ndarray:
    """(utterance, dim), or (utterance, crop, dim) of a batch of crops."""
    waveform = batch["waveform"]
    rows, lengths = waveform, batch["waveform_lengths"]
    if waveform.ndim == 3:
        rows = waveform.flatten(0, 1)  # (utterance * crop, sample)
        lengths = torch.full((len(rows),), rows.shape[1])
    embeddings: np.ndarray = embed(rows, lengths).cpu().numpy()
    return embeddings.reshape(*waveform.shape[:-1], -1)


def _time_mean(encoder: Any, layer: int) -> Embed:
    def forward(waveform: Tensor, lengths: Tensor) -> Tensor:
        output = encoder(waveform, lengths, num_layers=layer)
        return mean_over_frames(output.layers[-1], output.lengths)

    return forward


def _unmixed(embed: Embed, sample_rate: int, min_samples: int, tolerance: float) -> Embed:
    """Return `embed`, run on one recording at a time where an embedding depends on what shares its batch."""

    def as_frame(waveform: Tensor, lengths: Tensor) -> EncoderOutput:
        return EncoderOutput([embed(waveform, lengths).unsqueeze(1)], torch.ones_like(lengths))

    if not minds_batch_mates(as_frame, sample_rate=sample_rate, min_samples=min_samples, tolerance=tolerance):
        return embed
    alone = one_by_one(as_frame)
    return lambda waveform, lengths: alone(waveform, lengths).layers[-1].squeeze(1)
