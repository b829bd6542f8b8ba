"""From data directories to batches of frames: labels and crops in the loader's workers, the upstream or the store after them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from audiossl.contracts import EncoderOutput
from audiossl.data.loader import BadRecordings, make_loader, make_sampler
from audiossl.data.piece import Piece
from audiossl.data.progress import progress
from audiossl.data.whole import one_epoch, require_frames
from audiossl.nn.masking import valid_frames
from audiossl.superb.frame_store import Undecoded
from audiossl.superb.hearing import CHUNK_START, Chunks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from torch import Tensor

    from audiossl.contracts import Batch, Utterance
    from audiossl.data.directory import Source
    from audiossl.data.loader import LoaderConfig
    from audiossl.data.manifest import Manifest
    from audiossl.diagnostics.sources import FeatureSource
    from audiossl.superb.frame_store import FrameStore


@dataclass(frozen=True)
class FrameViews:
    """What is done in the loader's workers: whole utterances or random crops, with the labels of each task as `<task>/<name>`.

    labels: (task, its labels). crop_seconds: longer utterances are cropped to it, from a start uniform on the samples; None never. hears: some
    labels look at the waveform, so that recordings are decoded also where their frames are known. min_samples: fewer do not give `min_frames` frames.
    """

    min_samples: int
    needs: tuple[str, ...] = ()
    labels: tuple[tuple[str, Callable[[Utterance], Mapping[str, Any]]], ...] = ()
    crop_seconds: float | None = None
    hears: bool = False
    min_frames: int = 1

    def views(self, utterance: Utterance, rng: np.random.Generator) -> dict[str, Any]:
        """Waveform, without samples where its frames are known, and labels."""
        piece = self._piece(utterance, rng)
        if len(piece.waveform):
            require_frames(len(piece.waveform), self.min_samples, self.min_frames, rate=piece.sample_rate)
        made = {f"{task}/{name}": value for task, labels in self.labels for name, value in labels(piece).items()}
        return {"waveform": piece.waveform, **made}

    def batch_views(self, batch: Batch, rng: np.random.Generator) -> Batch:  # noqa: ARG002 - the loader's contract
        """Return the batch as it is."""
        return batch

    def _piece(self, utterance: Utterance, rng: np.random.Generator) -> Piece:
        start, seconds = float(utterance.columns.get(CHUNK_START, 0.0)), utterance.duration
        if self.crop_seconds is not None and seconds > self.crop_seconds:
            spare = int((seconds - self.crop_seconds) * utterance.sample_rate)
            start, seconds = int(rng.integers(spare + 1)) / utterance.sample_rate, self.crop_seconds
            waveform = utterance.cut(start, seconds)
        else:
            waveform = utterance.waveform
        return Piece(utterance.id, waveform, utterance.sample_rate, utterance.columns, start, seconds)


class Frames:
    """What heads are given for a batch: from the store where it is there, else from the upstream.

    With a store, all frames are rounded to its dtype, kept or not: what a head sees does not depend on what was kept. forwards:
    utterances that went through the upstream so far; kept: those of them whose frames the store took.
    """

    def __init__(self, source: FeatureSource, store: FrameStore | None, device: torch.device) -> None:
        self.source, self.store, self.device = source, store, device
        self.forwards = self.kept = 0

    def of(self, batch: Batch, rows: Sequence[int]) -> EncoderOutput:
        """Float32 frames on the device, 0 in the padding. rows: of the batch's utterances in the data directory."""
        if self.store is None:
            return self._extract(batch, range(len(rows)))
        new = [place for place, row in enumerate(rows) if not self.store.has(row)]
        fresh: dict[int, np.ndarray] = {}
        if new:
            computed = self._extract(batch, new)
            if self.store.closed and len(new) == len(rows):
                return computed
            fresh = dict(zip(new, self._cut(computed), strict=True))
            self.store.add([rows[place] for place in new], list(fresh.values()))
            self.kept += sum(self.store.has(rows[place]) for place in new)
            if len(new) == len(rows):
                return computed
        return self._joined([fresh[k] if k in fresh else self.store.read(row) for k, row in enumerate(rows)])

    def _extract(self, batch: Batch, places: Sequence[int]) -> EncoderOutput:
        """Run the upstream on some utterances of a batch."""
        lengths = batch["waveform_lengths"][list(places)]
        output = self.source.extract(batch["waveform"][list(places), : int(lengths.max())], lengths)
        assert len(output.layers) == self.source.num_layers
        self.forwards += len(places)
        lengths = output.lengths.to(self.device)
        valid = valid_frames(lengths, int(lengths.max()))
        layers = [self._tidy(layer[:, : valid.shape[1]].to(self.device), valid) for layer in output.layers]
        finite = torch.stack([torch.isfinite(layer).all(dim=2).all(dim=1) for layer in layers]).all(dim=0)
        if not finite.all():
            odd = batch["utt_ids"][places[int(torch.argmin(finite.int()))]]
            rounded = f" in {self.store.dtype}" if self.store is not None else ""
            raise ValueError(
                f"{odd}: {self.source.name} gives nan or infinity{rounded}; check this recording and the upstream"
            )
        return EncoderOutput(layers, lengths)

    def _tidy(self, layer: Tensor, valid: Tensor) -> Tensor:
        layer = layer.float().masked_fill(~valid.unsqueeze(2), 0.0)
        return layer.half().float() if self.store is not None and self.store.dtype == np.float16 else layer

    def _cut(self, output: EncoderOutput) -> list[np.ndarray]:
        """Frames of each utterance, (layer, frame, dim) in the store's dtype."""
        assert self.store is not None
        dtype, lengths = self.store.dtype, output.lengths.tolist()
        return [
            np.stack([layer[k, :length].cpu().numpy() for layer in output.layers]).astype(dtype, copy=False)
            for k, length in enumerate(lengths)
        ]

    def _joined(self, frames: Sequence[np.ndarray]) -> EncoderOutput:
        lengths = [array.shape[1] for array in frames]
        layers, _, dim = frames[0].shape
        padded = np.zeros((layers, len(frames), max(lengths), dim), frames[0].dtype)
        for k, array in enumerate(frames):
            padded[:, k, : array.shape[1]] = array
        on_device = torch.from_numpy(padded).to(self.device).float()
        return EncoderOutput(list(on_device.unbind(0)), torch.tensor(lengths, device=self.device))


@dataclass(frozen=True)
class Taken:
    """A batch of a stream. number: its global one. output: None where none of its recordings can be used. forwards: that it cost; kept: for which frames are in the store now."""

    number: int
    batch: Batch
    output: EncoderOutput | None
    forwards: int
    kept: int = 0


class Split:
    """A data directory as heads see it. heard: what they see of its utterances, or the chunks of these; None: all of them as they are.

    min_frames: utterances with fewer cannot be used.
    """

    def __init__(
        self,
        manifest: Manifest,
        frames: Frames,
        config: LoaderConfig,
        seed: int,
        log: Callable[[str], None],
        *,
        heard: Source | None = None,
        min_frames: int = 1,
    ) -> None:
        self.manifest, self.frames, self._config, self._seed, self._log = manifest, frames, config, seed, log
        self._heard: Source = manifest if heard is None else heard
        self._bad = BadRecordings(config.max_bad_fraction, len(self._heard.ids))
        self._whole = FrameViews(frames.source.samples_of(min_frames), min_frames=min_frames)

    def joined(self, predictions: Mapping[str, Any]) -> Mapping[str, Any]:
        """Predictions by utterance."""
        return self._heard.joined(predictions) if isinstance(self._heard, Chunks) else predictions

    @property
    def left_out(self) -> int:
        """Number of recordings that could not be used so far; one without one of its chunks is none."""
        chunked = isinstance(self._heard, Chunks)
        return len({name.rpartition("@")[0] if chunked else name for name in self._bad.messages})

    def unusable(self) -> dict[str, str]:
        """What is wrong with the recordings that cannot be used, by id: one pass over the audio alone."""
        rate, label = self.frames.source.sample_rate, f"recordings of {self.manifest.path.name}"
        batches = one_epoch(self._heard, self._whole, self._config, sample_rate=rate, label=label)
        return {utterance: message for batch in batches for utterance, message in batch["bad"]}

    def once(self, label: str) -> Iterator[Taken]:
        """Every utterance once, whole and without labels. label: of the progress display."""
        yield from self._batches(self._whole, None, label)

    def shuffled(self, views: FrameViews, numbers: range, label: str) -> Iterator[Taken]:
        """Yield the training batches of these global numbers."""
        yield from self._batches(views, numbers, label)

    def _batches(self, views: FrameViews, numbers: range | None, label: str) -> Iterator[Taken]:
        store, ids, shuffle = self.frames.store, self._heard.ids, numbers is not None
        source = self._heard if store is None or views.hears else Undecoded(self._heard, store, 2 * views.min_frames)
        if views.labels and isinstance(self._heard, Chunks):
            views = replace(views, needs=(*views.needs, CHUNK_START))
        sampler = make_sampler(source, self._config, seed=self._seed, shuffle=shuffle)
        if numbers is None:
            numbers = range(sampler.batches_per_epoch(0))
        rate = self.frames.source.sample_rate
        loader = make_loader(
            source, views, self._config, sample_rate=rate, seed=self._seed, positions=numbers, shuffle=shuffle
        )
        for number, batch in zip(numbers, progress(loader, len(numbers), label), strict=True):
            for line in self._bad.add(batch["bad"]):
                self._log(line)
            if not batch["utt_ids"]:
                yield Taken(number, batch, None, 0)
                continue
            row = {ids[index]: index for index in sampler.batch(number)[1].tolist()}
            forwards, kept = self.frames.forwards, self.frames.kept
            output = self.frames.of(batch, [row[utterance] for utterance in batch["utt_ids"]])
            yield Taken(number, batch, output, self.frames.forwards - forwards, self.frames.kept - kept)
