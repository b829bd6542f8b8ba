"""What the tasks that are trained by CTC share: labels, loss, reading; and the recurrent head of those of SUPERB, whose labels end in `<eos>`."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import nn

from audiossl.contracts import StepOutput
from audiossl.data.spec_augment import spec_augment
from audiossl.losses.ctc import ctc
from audiossl.metrics.character_error_rate import character_error_rate
from audiossl.metrics.word_error_rate import word_error_rate
from audiossl.nn.bpe import BPE, load_vocabulary
from audiossl.nn.ctc_reading import greedy_tokens
from audiossl.nn.pooling import WeightedLayers
from audiossl.nn.recurrent import BLSTM
from audiossl.nn.task import Task
from audiossl.nn.time_warp import time_warp
from audiossl.nn.vocabulary import TokenKind, Vocabulary
from audiossl.tasks._labels import check_texts, text_doubts

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

    from audiossl.contracts import Batch, EncoderOutput, Utterance
    from audiossl.data.manifest import Manifest
    from audiossl.nn.ssl_encoder import SSLEncoder

VOCABULARY = "vocabulary.json"

_LOG = logging.getLogger(__name__)


class CTCHead(Task):
    """Weighted layers to tokens by CTC (SUPERB: Yang et al., 2021, section 3.2); a subclass says what is between, in `tokens`.

    The loss is the mean over utterances of the loss per token; without `per_token`, of their losses. Texts end in `<eos>`, which is not scored.
    step: of the upstream's frames, every so manyth is scored.
    """

    kind: ClassVar[TokenKind]
    writes_text: ClassVar[bool] = True
    per_token: ClassVar[bool] = True
    step: int = 1

    def __init__(self, num_layers: int, config: Any, vocabulary: Vocabulary | BPE) -> None:
        super().__init__()
        self.config = config
        self.vocabulary = vocabulary
        self.needs = (config.column,)
        self.labels = TextLabels(vocabulary, config.column)
        self.weighted = WeightedLayers(num_layers)
        self._once = _Once()

    @classmethod
    def from_data(cls, encoder: SSLEncoder, config: Any, manifest: Manifest) -> Self:
        """Build it for the tokens of a data directory."""
        vocabulary = Vocabulary.from_manifest(manifest, config.column, cls.kind, end=True)
        return cls(encoder.dim, encoder.num_layers, config, vocabulary)  # type: ignore[call-arg]  # as all tasks have it

    @classmethod
    def from_experiment(cls, encoder: SSLEncoder, config: Any, experiment: Path) -> Self:
        """Build it for the tokens that an experiment was trained with."""
        vocabulary = load_vocabulary(experiment / VOCABULARY)
        return cls(encoder.dim, encoder.num_layers, config, vocabulary)  # type: ignore[call-arg]

    @classmethod
    def check_labels(cls, config: Any, manifest: Manifest) -> None:
        """Raise ValueError where no utterance has a word, so that an error rate would be undefined."""
        check_texts(manifest, config.column)

    def doubts(self, manifest: Manifest) -> list[str]:
        """Say where training lacks tokens of development texts."""
        return text_doubts(self, manifest)

    def save_labels(self, experiment: Path) -> None:
        """Write the vocabulary into the experiment folder."""
        self.vocabulary.save(experiment / VOCABULARY)

    def tokens(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Scores of the tokens, (batch, scored frame, token). features: (batch, frame, dim), of the weighted layers."""
        raise NotImplementedError

    def num_scored(self, lengths: Tensor) -> Tensor:
        """Number of frames that `tokens` scores, where the upstream has `lengths`."""
        return (lengths // self.step).clamp_min(1)

    def logits(self, output: EncoderOutput) -> Tensor:
        """Scores of the tokens: (batch, scored frame, token)."""
        return self.tokens(self.weighted(output), output.lengths)

    def layer_shares(self) -> Tensor | None:
        """Share of each layer."""
        return self.weighted.shares()

    def measured(self, logits: Tensor, lengths: Tensor) -> dict[str, tuple[Tensor, Tensor]]:  # noqa: ARG002 - of most tasks, nothing
        """What else is logged beside the loss, as sums and numbers. lengths: of scored frames."""
        return {}

    def loss(self, output: EncoderOutput, batch: Batch) -> StepOutput:
        """Sum over utterances of the CTC loss, by default per token, and their number.

        An utterance with too few frames for its text has loss 0, is counted in `impossible` and named once on the log.
        """
        target, target_lengths = batch["tokens"], batch["tokens_lengths"]
        logits, lengths = self.logits(output), self.num_scored(output.lengths)
        result = ctc(logits, lengths, target, target_lengths, blank=Vocabulary.blank_index)
        total = (result.loss / target_lengths.clamp_min(1) if self.per_token else result.loss).sum()
        utterances = torch.full_like(total, len(target)).detach()
        for utterance, fits in zip(batch["utt_ids"], result.possible.tolist(), strict=True):
            if not fits:
                self._once.warn(f"{utterance}: too few frames for its text; it adds no loss; correct or remove it")
        metrics = {
            "loss_per_token": (result.loss.detach().sum(), target_lengths.sum()),
            "impossible": ((~result.possible).sum(), utterances),
            "unknown_tokens": ((target == Vocabulary.unknown_index).sum(), target_lengths.sum()),
        }
        return StepOutput(total, utterances, metrics | self.measured(logits, lengths))

    def predict(self, output: EncoderOutput) -> list[str]:
        """Read out greedily."""
        return self.greedy(self.logits(output), self.num_scored(output.lengths))

    def greedy(self, logits: Tensor, lengths: Tensor) -> list[str]:
        """logits: (batch, scored frame, token); lengths: (batch,) valid ones."""
        tokens = greedy_tokens(logits, lengths, blank=Vocabulary.blank_index)
        return [self.vocabulary.decode(row) for row in tokens]


@dataclass(frozen=True)
class RecurrentConfig:
    """The head of SUPERB's ASR and SF, and SpecAugment in training, on the weighted layers.

    column: file of the data directory with the texts. projector_dim: of the linear layer below the BLSTM, whose layers have
    `hidden_dim` units in each direction and dropout behind them. time_warp: frames. time_width, frequency_width: largest ones of the
    masks, which are 0; the published code draws them one smaller at most, and lets those of time fall on padding. time_fraction: no
    mask of time is longer than this share of its utterance, as SpecAugment's bound p; published is none, for utterances of 12 seconds.
    """

    column: str
    projector_dim: int = 1024
    hidden_dim: int = 1024
    num_layers: int = 2
    dropout: float = 0.2
    time_warp: int = 5
    num_time_masks: int = 2
    time_width: int = 40
    time_fraction: float = 1.0
    num_frequency_masks: int = 4
    frequency_width: int = 50

    def __post_init__(self) -> None:
        if min(self.projector_dim, self.hidden_dim, self.num_layers) < 1 or not 0 <= self.dropout < 1:
            raise ValueError(
                f"task: projector_dim {self.projector_dim}, hidden_dim {self.hidden_dim} and num_layers {self.num_layers} "
                f"must be at least 1, and dropout {self.dropout} in [0, 1)"
            )
        masks = (self.num_time_masks, self.time_width, self.num_frequency_masks, self.frequency_width)
        if min(self.time_warp, *masks) < 0:
            raise ValueError("task: numbers and widths of masks, and time_warp, are counts; give 0 or more")
        if not 0 <= self.time_fraction <= 1:
            raise ValueError(f"task: time_fraction is {self.time_fraction}; give a number from 0 to 1")


class RecurrentCTC(CTCHead):
    """Linear layer, two layers of BLSTM, linear layer: ASR's and SF's head in SUPERB's code, without downsampling."""

    def __init__(self, encoder_dim: int, num_layers: int, config: RecurrentConfig, vocabulary: Vocabulary) -> None:
        super().__init__(num_layers, config, vocabulary)
        self.config: RecurrentConfig = config
        self.projector = nn.Linear(encoder_dim, config.projector_dim)
        self.blstm = BLSTM(config.projector_dim, config.hidden_dim, config.num_layers, dropout=config.dropout)
        self.classifier = nn.Linear(2 * config.hidden_dim, len(vocabulary))

    def tokens(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Scores of the tokens, (batch, scored frame, token)."""
        if self.training:
            features = self._augmented(features, lengths)
        frames = self.projector(features)[:, :: self.step]
        scores: Tensor = self.classifier(self.blstm(frames, self.num_scored(lengths)))
        return scores

    def _augmented(self, features: Tensor, lengths: Tensor) -> Tensor:
        # The generator that the loop seeds, on the processor: the masks do not depend on the device.
        generator = torch.default_generator
        warped = time_warp(features, lengths, window=self.config.time_warp, generator=generator)
        return spec_augment(
            warped,
            lengths,
            generator=generator,
            num_time_masks=self.config.num_time_masks,
            time_width=self.config.time_width,
            time_fraction=self.config.time_fraction,
            num_frequency_masks=self.config.num_frequency_masks,
            frequency_width=self.config.frequency_width,
        )


@dataclass(frozen=True)
class TextLabels:
    """Text to tokens, in the loader's workers."""

    vocabulary: Vocabulary | BPE
    column: str

    def __call__(self, utterance: Utterance) -> dict[str, Any]:
        """tokens: (label,) int64. text: as written, spaces tidied."""
        text = " ".join(utterance.columns[self.column].split())
        return {"tokens": self.vocabulary.encode(text), "text": text}


def error_rates(predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Word and character error rate, in percent."""
    return {
        "wer": word_error_rate(predictions, references),
        "cer": character_error_rate(predictions, references),
    }


class _Once:
    """Warns of everything once, also when the heads of several learning rates are copies of one another."""

    def __init__(self) -> None:
        self._said: set[str] = set()

    def __deepcopy__(self, memo: dict[int, Any]) -> _Once:
        return self

    def warn(self, message: str) -> None:
        if message not in self._said:
            self._said.add(message)
            _LOG.warning("%s", message)
