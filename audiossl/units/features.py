"""What units are clusters of: MFCC, a layer of an encoder, or the codes of one that quantises. All turn a batch of recordings into frames."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

import torch

from audiossl.data.frame_grid import FrameGrid
from audiossl.interop.digest import encoder_digest
from audiossl.interop.encoder import (
    OWN,
    UPSTREAM,
    load_encoder,
    require_layer,
    require_methods,
    stops_early,
    weights_hash,
)
from audiossl.nn.batch_dependence import minds_batch_mates, one_by_one

if TYPE_CHECKING:
    from torch import Tensor

    from audiossl.contracts import EncoderOutput
    from audiossl.encoders.vq_wav2vec import VQWav2Vec
    from audiossl.nn.ssl_encoder import SSLEncoder

FeatureKind: TypeAlias = Literal["mfcc", "logmel", "chroma", "encoder", "codes"]

PUBLISHED_SCALE = 1.0
"""`full_scale` of new units of MFCC."""

_FORMER_SCALE = 32768.0


class Frames(Protocol):
    """Frames of a batch of recordings.

    min_samples: the shortest recording that has a frame. in_workers: cheap enough for the loader's worker processes. device: where the frames are.
    """

    sample_rate: int
    min_samples: int
    in_workers: bool
    device: str

    def __call__(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """waveform: (batch, sample), lengths: (batch,). Returns (batch, frame, dim) and (batch,) frames."""
        ...


class Features(Frames, Protocol):
    """Frames, float32, and what must be known to compute the same again.

    encoder: where the encoder was loaded from; layer: 1-based block whose output is taken (0: the first block's input);
    encoder_hash: see `interop.digest`; weights_hash: sha256 of its weights alone, as older cards have it. rate: frames per second. full_scale: of MFCC,
    what 1 in the waveform becomes, see `nn.features.fbank`; None is 32768, as codebooks have it whose card does not say, and stands for nothing in other features.
    """

    kind: FeatureKind
    encoder: str
    layer: int
    encoder_hash: str
    weights_hash: str
    rate: float
    dim: int
    full_scale: float | None


class MFCCFeatures:
    """13 cepstra with first and second differences, 39 numbers at 100 Hz (Hsu et al., 2021, section IV-B).

    By default of waveforms in [-1, 1] as they are, as in HuBERT's code: filters that hear little lie at the floor of energies.
    """

    kind: FeatureKind = "mfcc"
    encoder = ""
    layer = 0
    encoder_hash = ""
    weights_hash = ""
    rate = 100.0
    dim = 39
    sample_rate = 16_000
    min_samples = 400
    in_workers = True
    device = "cpu"

    def __init__(self, full_scale: float | None = PUBLISHED_SCALE) -> None:
        self.full_scale = full_scale

    def __call__(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """See `Features`."""
        from audiossl.nn.features import mfcc39

        return mfcc39(waveform, lengths, full_scale=self.full_scale or _FORMER_SCALE)


class MusicFeatures:
    """Log-mels or chroma at 24 kHz and 75 Hz, for units of music; see `nn.music_features`."""

    encoder = ""
    layer = 0
    encoder_hash = ""
    weights_hash = ""
    full_scale: float | None = None
    rate = 75.0
    sample_rate = 24_000
    min_samples = 320
    in_workers = True
    device = "cpu"

    def __init__(self, kind: Literal["logmel", "chroma"]) -> None:
        from audiossl.nn.music_features import Chroma, MusicLogMels

        self.kind: FeatureKind = kind
        self._extract: MusicLogMels | Chroma = MusicLogMels() if kind == "logmel" else Chroma()
        self.dim = self._extract.dim

    def __call__(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """See `Features`."""
        frames: tuple[Tensor, Tensor] = self._extract(waveform, lengths)
        return frames


class EncoderFeatures:
    """One layer of an encoder, in eval mode and float32; blocks above it are not run.

    An encoder whose features depend on what shares the batch (a published group norm counts padding) is run on one
    recording at a time, so that labels never depend on how utterances were batched.
    """

    kind: FeatureKind = "encoder"
    in_workers = False
    full_scale: float | None = None

    def __init__(self, encoder: SSLEncoder, *, source: str, layer: int, device: str = "cpu") -> None:
        require_layer(layer, encoder.num_layers, source)
        self._model = encoder.float().eval().to(device)
        self._until = {"num_layers": layer} if stops_early(encoder) else {}
        self.device = device
        self.encoder, self.layer = source, layer
        self.encoder_hash, self.weights_hash = encoder_digest(encoder), weights_hash(encoder)
        self.rate = encoder.sample_rate / encoder.stride
        self.dim, self.sample_rate = encoder.dim, encoder.sample_rate
        self.min_samples = FrameGrid.of(encoder).first
        rate, shortest = self.sample_rate, self.min_samples
        self.one_by_one = minds_batch_mates(self._run, sample_rate=rate, min_samples=shortest)
        self._extract = one_by_one(self._run) if self.one_by_one else self._run

    def __call__(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """See `Features`."""
        output = self._extract(waveform, lengths)
        return output.layers[self.layer], output.lengths

    @torch.no_grad()
    def _run(self, waveform: Tensor, lengths: Tensor) -> EncoderOutput:
        output: EncoderOutput = self._model(waveform.to(self.device), lengths.to(self.device), **self._until)
        return output


class CodeFeatures:
    """The frames of an encoder that quantises them, as the entries of its codebook, groups beside each other.

    The units of these are no clusters but the combinations of codes that a corpus holds (see `units.fit`), which the entries stand for: a
    combination that is not among the units becomes the most similar one.
    """

    kind: FeatureKind = "codes"
    in_workers = False
    layer = 0
    full_scale: float | None = None

    def __init__(self, encoder: VQWav2Vec, *, source: str, device: str = "cpu") -> None:
        self._model = encoder.float().eval().to(device)
        self.device = device
        self.encoder = source
        self.encoder_hash, self.weights_hash = encoder_digest(encoder), weights_hash(encoder)
        self.rate = encoder.sample_rate / encoder.stride
        self.dim, self.sample_rate = encoder.dim, encoder.sample_rate
        self.min_samples = FrameGrid.of(encoder).first

    def __call__(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """See `Features`."""
        codes, frames = self.codes(waveform, lengths)
        return self.entries(codes.flatten(0, 1)).view(*codes.shape[:2], -1), frames

    def codes(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, frame, group) int64, and (batch,) frames."""
        return self._model.codes(waveform.to(self.device), lengths.to(self.device))

    @torch.no_grad()
    def entries(self, codes: Tensor) -> Tensor:
        """What codes stand for. codes: (frame, group). Returns (frame, dim) float32."""
        return self._model.quantiser.look_up(codes.to(self.device))


class CodesAlone:
    """The codes of `CodeFeatures` as frames, for counting: (batch, frame, group) int64."""

    def __init__(self, features: CodeFeatures) -> None:
        self._features = features
        self.in_workers, self.device = False, features.device
        self.sample_rate, self.min_samples = features.sample_rate, features.min_samples

    def __call__(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """See `Frames`."""
        return self._features.codes(waveform, lengths)


def make_features(
    kind: FeatureKind,
    encoder: str,
    layer: int,
    *,
    device: str = "",
    full_scale: float | None = PUBLISHED_SCALE,
    own_code: bool = False,
) -> Features:
    """Return the features of that kind; ValueError where the first three do not go together.

    encoder: anything `audiossl.load` takes. device: "" is the GPU where there is one. full_scale: of MFCC; that of the card where there is a codebook.
    own_code: see `load_encoder`.
    """
    if kind in {"mfcc", "logmel", "chroma"} and (encoder or layer):
        raise ValueError(f"feature '{kind}' takes no encoder ({encoder!r}) and no layer ({layer}); leave them out")
    if kind == "mfcc":
        return MFCCFeatures(full_scale)
    if kind in {"logmel", "chroma"}:
        return MusicFeatures(kind)
    if not encoder:
        raise ValueError(
            f"feature '{kind}': no encoder is given; name an experiment folder or checkpoint, by --encoder or in a recipe by --units.encoder"
        )
    if kind == "codes" and layer:
        raise ValueError(f"feature 'codes' takes no layer ({layer}); leave it out")
    loaded: Any = load_encoder(encoder, own_code=own_code)
    if kind == "codes":
        require_methods(type(loaded), ("codes",), f"units of {encoder}")
        return CodeFeatures(loaded, source=encoder, device=device or default_device())
    if not (encoder.startswith(UPSTREAM) or OWN.fullmatch(encoder)):
        require_methods(type(loaded), ("local_features", "contextualise"), f"units of {encoder}")
    return EncoderFeatures(loaded, source=encoder, layer=layer, device=device or default_device())


def default_device() -> str:
    """Return "cuda" where a GPU can be used, else "cpu"."""
    return "cuda" if torch.cuda.is_available() else "cpu"
