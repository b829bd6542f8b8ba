"""What DinoSR and SpidR share: codebooks on the teacher's top layers that are learnt on the way, and a head for each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from audiossl.contracts import StepOutput
from audiossl.losses.dinosr import dinosr
from audiossl.nn.ema import follow, follower_of
from audiossl.nn.ema_codebook import EMACodebooks
from audiossl.nn.spread import spread
from audiossl.objectives._masked import NamedViews
from audiossl.objectives._teacher import TeacherConfig, TeacherObjective
from audiossl.objectives._units import code_health
from audiossl.objectives._unmasked import looked_at, share_right

if TYPE_CHECKING:
    from torch import Tensor

    from audiossl.contracts import Batch
    from audiossl.data.frame_grid import FrameGrid
    from audiossl.nn.ssl_encoder import LocalFeatures, SSLEncoder


@dataclass(frozen=True)
class OnlineCodesConfig(TeacherConfig):
    """The published base models' masks and codebooks, which are those of both.

    crop_duration: 320,000 samples. num_codes: of each codebook. codebook_decay: what its moving averages keep in a step. freeze_step: of
    the frontend and its projection, which stand still after it; 0: never.
    """

    crop_duration: float = 20.0
    mask_prob: float = 0.8
    num_codes: int = 256
    codebook_decay: float = 0.9
    freeze_step: int = 200_000

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_share("codebook_decay")
        if self.num_codes < 2:
            raise ValueError(f"objective.num_codes: {self.num_codes} leaves nothing to tell apart; give at least 2")
        if self.freeze_step < 0:
            raise ValueError(f"objective.freeze_step: {self.freeze_step} is negative; give 0 to freeze nothing")


class OnlineCodesObjective(TeacherObjective):
    """The base: the student names the codes of the teacher at masked frames. A subclass says from which layers, and how the teacher moves.

    frozen: whether the frontend stands still. `still` is what it then is: neither weight decay nor momentum may move it, and its parameters
    keep a gradient of zero, for which processes that train together would wait.
    """

    headline: ClassVar[tuple[str, ...]] = ("masked_accuracy", "target_perplexity")
    frozen: Tensor

    def __init__(self, encoder: SSLEncoder, config: OnlineCodesConfig) -> None:
        super().__init__(encoder, config)
        self.config = config
        books = config.top_layers
        self.codebooks = EMACodebooks(books, config.num_codes, encoder.dim, decay=config.codebook_decay)
        self.heads = nn.ModuleList(nn.Linear(encoder.dim, config.num_codes) for _ in range(books))
        self.still = follower_of(self._shared())
        for parameter in encoder.projection.parameters():
            parameter.register_hook(self._unless_frozen)  # type: ignore[no-untyped-call]
        self.register_buffer("frozen", torch.tensor(False))
        self._is_frozen = False

    def light_views(self, config: OnlineCodesConfig, grid: FrameGrid, *, normalise: bool) -> NamedViews:
        """Return views that also find the unmasked frames."""
        return NamedViews(config, grid, normalise)

    def pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        """Teacher and student without the positions, which the teacher takes as they are while it moves."""
        teacher, student = self.teacher, self.encoder.transformer
        return [(teacher.norm, student.norm), (teacher.layers, student.layers)]

    def begin(self) -> None:
        """Also look, once, whether a resumed run has frozen its frontend."""
        if not self._looked:
            self._is_frozen = bool(self.frozen)
            if not self.begun:
                follow(self._positions(), 0.0, buffers=True)
        super().begin()

    def student_frames(self, local: LocalFeatures, masked: Tensor) -> list[Tensor]:
        """What the heads look at, in the order of the teacher's layers: (batch, frame, dim) each. masked: (batch, frame) bool."""
        raise NotImplementedError

    def forward(self, batch: Batch) -> StepOutput:
        """Sum the loss over masked frames and count these (Liu et al., 2023, section 3). In training, codebooks note what they see."""
        self.begin()
        local = self._local_features(batch)
        masked, places = batch["masked"], batch["masked_frames"]
        assert masked.shape == local.z.shape[:2], (masked.shape, local.z.shape)
        others = looked_at(batch["unmasked_frames"], training=self.training)
        targets = self._target_vectors(local, torch.cat([places, others]))
        vectors, unmasked = targets[:, : len(places)], targets[:, len(places) :]
        codes = self.codebooks.nearest(vectors)
        if self.training:
            self.codebooks.observe(vectors, codes)
        tops = [frames.flatten(0, 1) for frames in self.student_frames(local, masked)]
        logits = self._logits(tops, places)
        loss = dinosr(logits, codes).sum()
        count = torch.full((), len(places), dtype=torch.float32, device=loss.device)
        metrics = spread(tops[-1][places]) | _code_metrics(logits, codes, self.config.num_codes)
        with torch.no_grad():
            named = self._logits(tops, others).argmax(2)
        metrics["unmasked_accuracy"] = share_right(named.T, self.codebooks.nearest(unmasked).T)
        return StepOutput(loss, count, metrics)

    def after_step(self, step: int) -> None:
        """Move the teacher and the codes, and keep a frozen frontend where it was."""
        super().after_step(step)
        if self.decay_after(step) < 1:
            follow(self._positions(), 0.0, buffers=True)
        self.codebooks.update()
        if self.config.freeze_step and step >= self.config.freeze_step:
            pair = (self.still, self._shared())
            follow([pair[::-1] if self._is_frozen else pair], 0.0, buffers=True)
            self.frozen.fill_(True)
            self._is_frozen = True

    def _target_vectors(self, local: LocalFeatures, places: Tensor) -> Tensor:
        """The teacher's frames at some places: (book, place, dim)."""
        # Projected with a graph: older versions of torch keep the weight that autocast casts here for the student too.
        projected = self.encoder.projection(local.z).detach()
        targets = self.targets(projected, local.lengths)
        return torch.stack([target.flatten(0, 1)[places] for target in targets])

    def _unless_frozen(self, gradient: Tensor) -> Tensor:
        return torch.zeros_like(gradient) if self._is_frozen else gradient

    def _logits(self, tops: list[Tensor], places: Tensor) -> Tensor:
        """What each head says of its layer's frames at some places: (book, frame, code)."""
        return torch.stack([head(top[places]) for head, top in zip(self.heads, tops, strict=True)])

    def _positions(self) -> list[tuple[nn.Module, nn.Module]]:
        return [(self.teacher.positions, self.encoder.transformer.positions)]

    def _shared(self) -> nn.ModuleList:
        assert isinstance(self.encoder.frontend, nn.Module)
        return nn.ModuleList([self.encoder.frontend, self.encoder.feature_norm, self.encoder.projection])

    def _local_features(self, batch: Batch) -> LocalFeatures:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self._is_frozen):
            local = self.encoder.local_features(batch["waveform"], batch["waveform_lengths"])
        if self._is_frozen:
            nothing = sum(0.0 * parameter.sum() for parameter in self._shared().parameters())
            local = local._replace(z=local.z + nothing)
        return local


@torch.no_grad()
def _code_metrics(logits: Tensor, codes: Tensor, num_codes: int) -> dict[str, tuple[Tensor, Tensor]]:
    """How many are right, mean over codebooks, and what must not collapse.

    logits: (book, masked frame, code). codes: (book, masked frame) int64.
    """
    predicted = logits.argmax(2)
    nats = F.cross_entropy(logits.float().transpose(1, 2), codes, reduction="none")
    count = torch.full((), codes.shape[1], dtype=torch.float32, device=codes.device)
    right = (predicted == codes).float().mean(0).sum()
    return {"masked_accuracy": (right, count)} | code_health(nats.T, predicted.T, codes.T, num_codes)
