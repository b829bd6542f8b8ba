"""UniSpeech-SAT: HuBERT that also learns, at an inner layer, who speaks (Chen et al., 2022)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path  # noqa: TC003 - the configuration resolves the annotations at run time
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import nn

from audiossl.data.augment import Noises
from audiossl.data.mixing import NoiseMix, add_pieces, draw_noises, draw_overlaps
from audiossl.losses.codebook_diversity import codebook_diversity
from audiossl.losses.utterance_contrastive import utterance_contrastive
from audiossl.nn.gumbel_quantiser import GumbelQuantiser, code_perplexity, gumbel_temperature
from audiossl.objectives._codewords import CodewordConfig, CodewordObjective
from audiossl.objectives._contrastive import check_gumbel, compared
from audiossl.objectives._units import UnitViews

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from audiossl.contracts import Batch
    from audiossl.data.frame_grid import FrameGrid
    from audiossl.nn.ssl_encoder import SSLEncoder
    from audiossl.objectives._units import Metrics


class UniSpeechSAT(CodewordObjective):
    """HuBERT's loss on mixed utterances, and at `speaker_layer` whether two masked frames share an utterance.

    Frames are compared with quantised ones from the whole batch, so the loss depends on who shares it.
    """

    @dataclass(frozen=True)
    class Config(CodewordConfig):
        """The published base model as far as it is known.

        speaker_layer: block whose output tells speakers, from 1. speaker_weight: of the utterance-wise loss; the published value is not known, 1 is our
        variant. candidates: frames of the batch that each is compared with. quantised: targets go through a Gumbel quantiser, else they are the projected
        frames. groups, entries, gumbel_*: of the quantiser, see `nn.gumbel_quantiser`; wav2vec 2.0's, as is diversity_weight (unverified).
        mix_probability: share of the utterances over which another one is laid, at most `mix_share` of their length, at mix_ratio_db (dB); 0.2 is the released
        dataset's default, which its task sets to 0.5, and what the published models had is not known. noise_dirs: data directories of noise,
        which with noise_probability is laid there instead, at noise_snr (dB); without any, as by default there. What share the published models had is not
        known: half is our variant.
        """

        labels: tuple[str, ...] = ("it1_l6_km500",)
        label_rate: float = 50.0
        speaker_layer: int = 6
        speaker_weight: float = 1.0
        speaker_temperature: float = 0.1
        candidates: int = 100
        quantised: bool = True
        groups: int = 2
        entries: int = 320
        gumbel_start: float = 2.0
        gumbel_end: float = 0.5
        gumbel_decay: float = 0.999995
        diversity_weight: float = 0.1
        mix_probability: float = 0.2
        mix_share: float = 0.5
        mix_ratio_db: tuple[float, float] = (-5.0, 5.0)
        noise_dirs: tuple[Path, ...] = ()
        noise_probability: float = 0.5
        noise_snr: tuple[float, float] = (-5.0, 20.0)

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.quantised:
                check_gumbel(self)
            for name in ("speaker_layer", "speaker_weight", "speaker_temperature", "candidates"):
                if getattr(self, name) <= 0:
                    raise ValueError(f"objective.{name}: {getattr(self, name)} is not positive")
            for name in ("mix_probability", "mix_share", "noise_probability"):
                if not 0 <= getattr(self, name) <= 1:
                    raise ValueError(f"objective.{name}: {getattr(self, name)} is not between 0 and 1")
            for name in ("mix_ratio_db", "noise_snr"):
                low, high = getattr(self, name)
                if low > high:
                    raise ValueError(f"objective.{name}: {[low, high]}; give the lower end first")
            for name in ("noise_probability", "noise_snr"):
                if not self.noise_dirs and getattr(self, name) != getattr(UniSpeechSAT.Config, name):
                    raise ValueError(f"objective.{name}: is for noise_dirs, which are none; leave it out, or give some")

        @classmethod
        def tiny(cls) -> UniSpeechSAT.Config:
            """Return the smallest one that exercises everything, for tests."""
            return cls(
                crop_duration=0.5,
                mask_length=3,
                final_dim=8,
                unmasked_weight=0.5,
                special_rows=1,
                speaker_layer=1,
                candidates=5,
                entries=4,
                mix_probability=0.5,
            )

    config: Config
    additive = False
    headline: ClassVar[tuple[str, ...]] = ("masked_accuracy", "utterance_gap")
    collapse_cure = "lower optim.peak_lr, lengthen optim.warmup_steps, check the targets, or raise data.batch_seconds where a batch holds one utterance"
    temperature: Tensor

    def __init__(self, encoder: SSLEncoder, config: Config, num_codes: tuple[int, ...]) -> None:
        if config.speaker_layer > encoder.num_layers:
            raise ValueError(
                f"objective.speaker_layer: {config.speaker_layer}, but the encoder has {encoder.num_layers} blocks; name one of them"
            )
        super().__init__(encoder, config, num_codes)
        # Of blocks that normalise their input, all but the last leave their output unnormalised.
        unnormalised = encoder.config.pre_norm and config.speaker_layer < encoder.num_layers
        self.speaker_norm = nn.LayerNorm(encoder.dim) if unnormalised else nn.Identity()
        self.speaker_projection = nn.Linear(encoder.dim, config.final_dim)
        self.quantiser: GumbelQuantiser | None = None
        self.target_projection: nn.Linear | None = None
        if config.quantised:
            self.quantiser = GumbelQuantiser(
                encoder.dim, groups=config.groups, entries=config.entries, code_dim=config.final_dim
            )
            self.target_projection = nn.Linear(config.final_dim, config.final_dim)
        self.register_buffer("temperature", torch.tensor(config.gumbel_start))

    def light_views(self, config: Config, grid: FrameGrid, *, normalise: bool) -> MixedViews:  # type: ignore[override]  # its own Config
        """Return views that mix utterances."""
        noise = None
        if config.noise_dirs:
            noise = NoiseMix(Noises(config.noise_dirs), config.noise_probability, config.noise_snr, grid.sample_rate)
        return MixedViews(config, grid, normalise, self.num_codes, noise)

    def after_step(self, step: int) -> None:
        """Cool the Gumbel softmax."""
        config = self.config
        self.temperature.fill_(
            gumbel_temperature(step, start=config.gumbel_start, end=config.gumbel_end, decay=config.gumbel_decay)
        )

    def further_loss(self, layers: list[Tensor], batch: Batch, metrics: Metrics) -> Tensor:
        """Sum the utterance-wise contrastive loss (section 3.2) over masked frames, and N times the diversity loss of the quantiser."""
        inner = layers[self.config.speaker_layer]
        places: Tensor = batch["masked_frames"]
        frames: Tensor = self.speaker_norm(inner.flatten(0, 1)[places])  # (masked frame, dim)
        anchors = self.speaker_projection(frames)
        targets, diversity = anchors, frames.new_zeros((), dtype=torch.float32)
        if self.quantiser is not None and self.target_projection is not None:
            quantised = self.quantiser(frames, self.temperature)
            targets, diversity = self.target_projection(quantised.q), codebook_diversity(quantised.soft_probs)
            _log_codes(quantised.codes, self.config.entries, metrics)
        found = utterance_contrastive(
            anchors,
            targets,
            places // inner.shape[1],
            batch["candidates"],
            temperature=self.config.speaker_temperature,
        )
        loss: Tensor = self.config.speaker_weight * found.loss.sum()
        total = torch.full((), len(places), dtype=torch.float32, device=loss.device)
        metrics["utterance_loss"] = (found.loss.detach().sum(), total)
        metrics["diversity"] = (diversity.detach() * total, total)
        metrics |= compared(anchors, targets)
        _log_pairs(found.cosine[:, 1:], found.same[:, 1:], metrics)
        return loss + self.config.diversity_weight * total * diversity


@dataclass(frozen=True)
class MixedViews(UnitViews):
    """The work in the loader's workers: labels stay those of the main speaker, whoever and whatever else is heard."""

    config: UniSpeechSAT.Config
    noise: NoiseMix | None = None

    def batch_views(self, batch: Batch, rng: np.random.Generator) -> Batch:
        """Mix, mask, and draw what frames are compared with.

        Adds to HuBERT's candidates: (masked frame, candidate) int64, numbers of other masked frames of the batch; none where there is only one frame.
        """
        waveform, lengths = np.asarray(batch["waveform"]), np.asarray(batch["waveform_lengths"])
        config = self.config
        pieces = draw_overlaps(
            waveform,
            lengths,
            probability=config.mix_probability,
            ratio_db=config.mix_ratio_db,
            max_share=config.mix_share,
            rng=rng,
        )
        noises = None
        if self.noise is not None:
            pieces, noises = draw_noises(pieces, waveform, lengths, self.noise, rng)
        mixed = add_pieces(waveform, lengths, pieces, normalise=self.normalise, noises=noises)
        made = super().batch_views({**batch, "waveform": mixed}, rng)
        return {**made, "candidates": _others(len(made["masked_frames"]), config.candidates, rng)}


def _others(frames: int, candidates: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """For each of some frames others of them, uniform, with repetitions: (frame, candidate)."""
    if frames < 2:
        return np.zeros((frames, 0), dtype=np.int64)
    drawn = rng.integers(0, frames - 1, (frames, candidates))
    return drawn + (drawn >= np.arange(frames)[:, None])


def _log_codes(codes: Tensor, entries: int, metrics: Metrics) -> None:
    """Perplexity of the chosen codes, of the group that uses the fewest; averaged over batches by their frames."""
    total = torch.full((), len(codes), dtype=torch.float32, device=codes.device)
    least = code_perplexity(codes, entries).min() if len(codes) else total
    metrics["code_perplexity"] = (least * total, total)


def _log_pairs(cosine: Tensor, same: Tensor, metrics: Metrics) -> None:
    """How many candidates are of other utterances, and how much nearer those of the same one are: 0 where the layer knows nothing of speakers.

    cosine, same: (frame, candidate).
    """
    total = torch.full((), len(cosine), dtype=torch.float32, device=cosine.device)
    within = (cosine * same).sum() / same.sum().clamp(min=1)
    between = (cosine * ~same).sum() / (~same).sum().clamp(min=1)
    metrics["live_negatives"] = ((~same).sum().float(), total)
    metrics["utterance_gap"] = ((within - between).float() * total, total)
