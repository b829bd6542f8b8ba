"""What probes and scores look at: an encoder, trained or with random weights, or the filterbank or cepstra that any encoder must beat."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from audiossl.contracts import EncoderOutput, read_by
from audiossl.data.frame_grid import FrameGrid
from audiossl.data.whole import WholeUtterances
from audiossl.interop.encoder import require_layer, stops_early
from audiossl.nn.batch_dependence import minds_batch_mates, one_by_one

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from audiossl.contracts import UnitsInput
    from audiossl.data.manifest import Manifest
    from audiossl.nn.ssl_encoder import SSLEncoder

FILTERBANKS = ("fbank", "fbank+deltas", "fbank+deltas+cmvn")
"""The last one is SUPERB's own, of the rows called FBANK in published tables; the others keep the mean of each utterance."""
MFCC = "mfcc"
TRANSFORMERS = "transformers:"
_CALIBRATION_SECONDS = 600.0


@dataclass(frozen=True)
class FeatureShape:
    """What a task must know of the features that it will get, under the names that an encoder has for it.

    num_layers: blocks; there is one tensor more, the input of the first. stride: samples from frame to frame.
    """

    dim: int
    num_layers: int
    stride: int
    sample_rate: int


@dataclass(frozen=True)
class FeatureSource:
    """Waveforms to frames, and what must be known to compute the same again.

    extract: waveform (batch, sample), lengths (batch,) -> EncoderOutput, without gradients. num_layers: tensors that it gives, the input
    of the first block among them. digest: sha256 of all that the features depend on except the audio. min_samples: the shortest
    recording that has a frame. stride: samples from frame to frame. reads: the units that `extract` is given instead of waveforms.
    """

    name: str
    digest: str
    sample_rate: int
    num_layers: int
    dim: int
    min_samples: int
    stride: int
    extract: Callable[[Tensor, Tensor], EncoderOutput]
    reads: UnitsInput | None = None

    def samples_of(self, frames: int) -> int:
        """About the fewest samples that give so many frames."""
        return self.min_samples + (frames - 1) * self.stride

    @property
    def reader(self) -> WholeUtterances:
        """What the loader's workers do for it."""
        return WholeUtterances(self.min_samples, self.reads)

    @property
    def shape(self) -> FeatureShape:
        """What tasks are built for."""
        return FeatureShape(self.dim, self.num_layers - 1, self.stride, self.sample_rate)


def open_features(source: str, *, seed: int, device: str, train: Manifest, layer: int | None = None) -> FeatureSource:
    """Return the features that a source means: a filterbank, cepstra, a trained encoder, or one with random weights.

    train: where a filterbank encoder built from a recipe, and so never calibrated, measures its mean and deviation. layer: the last to be
    computed, see `encoder_source`; ValueError where there is none of that number.
    """
    from audiossl.config import find_recipe, load_toml
    from audiossl.interop.digest import encoder_digest
    from audiossl.interop.encoder import RANDOM, build_encoder, load_encoder

    if source == MFCC or source in FILTERBANKS:
        require_layer(layer or 0, 0, source)
    if source == MFCC:
        return mfcc_source()
    if source in FILTERBANKS:
        return superb_fbank_source() if "cmvn" in source else fbank_source(deltas="deltas" in source)
    place = source.removeprefix(TRANSFORMERS)
    if source.startswith(TRANSFORMERS) and not (Path(place) / "config.json").is_file():
        raise ValueError(f"{source}: {place} has no config.json; give a folder that transformers wrote")
    name = source.removeprefix(RANDOM)
    if is_random_recipe(source):
        tables = load_toml(find_recipe(name))
        if "encoder" not in tables:
            raise ValueError(f"{source}: the recipe has no table [encoder]; name one for pretraining")
        torch.manual_seed(seed)
        encoder = build_encoder(tables["encoder"], f"{name}: encoder")
        if hasattr(encoder, "calibrate"):
            _calibrate(encoder, train)
    else:
        encoder = load_encoder(place, seed=seed, own_code=True)
    return encoder_source(source, encoder, digest=encoder_digest(encoder), device=device, layer=layer)


def is_random_recipe(source: str) -> bool:
    """Whether a source is `random:` and a recipe, which is calibrated on `train`, rather than an experiment."""
    from audiossl.config import recipe_names
    from audiossl.interop.encoder import RANDOM

    name = source.removeprefix(RANDOM)
    return source.startswith(RANDOM) and (name in recipe_names() or name.endswith(".toml"))


def _calibrate(encoder: Any, train: Manifest) -> None:
    """Set the filterbank's mean and deviation from utterances evenly spread over the training data."""
    count = int(np.ceil(_CALIBRATION_SECONDS / np.mean(train.durations)))
    chosen = np.unique(np.linspace(0, len(train) - 1, min(count, len(train))).astype(np.int64))
    waveforms = (train.audio(int(index), sample_rate=encoder.sample_rate) for index in chosen)
    encoder.calibrate((torch.from_numpy(waveform)[None], torch.tensor([len(waveform)])) for waveform in waveforms)


def fbank_source(*, deltas: bool = False) -> FeatureSource:
    """80 log-mel energies at 100 Hz, with first and second differences on request (240).

    SUPERB's baseline without its normalisation of each utterance, which leaves nothing of a time-mean but zeros: see `superb_fbank_source`.
    """

    @torch.no_grad()
    def extract(waveform: Tensor, lengths: Tensor) -> EncoderOutput:
        from audiossl.nn.features import deltas as differences
        from audiossl.nn.features import fbank

        frames, num_frames = fbank(waveform, lengths)
        if deltas:
            first = differences(frames, num_frames)
            frames = torch.cat([frames, first, differences(first, num_frames)], dim=-1)
        return EncoderOutput([frames], num_frames)

    name = "fbank+deltas" if deltas else "fbank"
    digest = hashlib.sha256(f"{name} 80 mels 25/10 ms".encode()).hexdigest()
    # 400 samples are one window of 25 ms.
    return FeatureSource(name, digest, 16_000, 1, 240 if deltas else 80, 400, 160, extract)


def mfcc_source() -> FeatureSource:
    """13 cepstra at 100 Hz with first and second differences (39), of waveforms in 16-bit range as Kaldi reads them.

    Their means and deviations over time are the usual baseline of bioacoustics.
    """

    @torch.no_grad()
    def extract(waveform: Tensor, lengths: Tensor) -> EncoderOutput:
        from audiossl.nn.features import mfcc39

        frames, num_frames = mfcc39(waveform, lengths)
        return EncoderOutput([frames], num_frames)

    digest = hashlib.sha256(b"mfcc 13 of 23 mels 25/10 ms, two differences").hexdigest()
    return FeatureSource(MFCC, digest, 16_000, 1, 39, 400, 160, extract)  # 400 samples are one window of 25 ms


def superb_fbank_source() -> FeatureSource:
    """The upstream FBANK of SUPERB (Yang et al., 2021), as its code has it: `fbank+deltas` of waveforms in [-1, 1], mean 0 and deviation 1 in each utterance.

    The deviation divides by one frame less than there are, so that a recording needs two. Tasks that start from time-means, KS, IC, ER and SID, get zeros.
    """

    @torch.no_grad()
    def extract(waveform: Tensor, lengths: Tensor) -> EncoderOutput:
        from audiossl.nn.features import deltas, fbank
        from audiossl.nn.masking import valid_frames

        frames, num_frames = fbank(waveform, lengths, full_scale=1.0)
        first = deltas(frames, num_frames)
        frames = torch.cat([frames, first, deltas(first, num_frames)], dim=-1)
        valid, count = valid_frames(num_frames, frames.shape[1]).unsqueeze(2), num_frames[:, None, None]
        centred = (frames - frames.sum(dim=1, keepdim=True) / count) * valid  # padding is zero before and after
        deviation = (centred.square().sum(dim=1, keepdim=True) / (count - 1)).sqrt()
        return EncoderOutput([centred / (deviation + 1e-10)], num_frames)

    digest = hashlib.sha256(b"fbank+deltas+cmvn 80 mels 25/10 ms").hexdigest()
    return FeatureSource(
        "fbank+deltas+cmvn", digest, 16_000, 1, 240, 560, 160, extract
    )  # two windows of 25 ms, 10 ms apart


def encoder_source(
    name: str, encoder: SSLEncoder, *, digest: str, device: str = "cpu", layer: int | None = None
) -> FeatureSource:
    """Every layer of an encoder, in eval mode and float32. digest: see `interop.digest`. layer: the last that is wanted: blocks above it are not run.

    An encoder whose features depend on what shares the batch (a published group norm counts padding) is run on one recording
    at a time.
    """
    last = encoder.num_layers if layer is None else layer
    require_layer(last, encoder.num_layers, name)
    model = encoder.float().eval().to(device)
    until = {"num_layers": last} if layer is not None and stops_early(model) else {}

    @torch.no_grad()
    def together(waveform: Tensor, lengths: Tensor) -> EncoderOutput:
        output: EncoderOutput = model(waveform.to(device), lengths.to(device), **until)
        return EncoderOutput(output.layers[: last + 1], output.lengths)

    rate, shortest, reads = encoder.sample_rate, FrameGrid.of(encoder).first, read_by(encoder)
    # What is tried is noise; an encoder of units has no norm over its padded input.
    alone = reads is None and minds_batch_mates(together, sample_rate=rate, min_samples=shortest)
    extract = one_by_one(together) if alone else together
    return FeatureSource(name, digest, rate, last + 1, encoder.dim, shortest, encoder.stride, extract, reads)
