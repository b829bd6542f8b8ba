"""Speech recognition by CTC: a linear layer on an encoder writes characters, word pieces, words or phones."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import nn

from audiossl.contracts import StepOutput
from audiossl.losses.ctc import ctc
from audiossl.metrics.character_error_rate import character_error_rate
from audiossl.metrics.word_error_rate import word_error_rate
from audiossl.nn.bpe import BPE, load_vocabulary
from audiossl.nn.pooling import WeightedLayers
from audiossl.nn.task import Task
from audiossl.nn.vocabulary import Vocabulary

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from torch import Tensor

    from audiossl.contracts import Batch, EncoderOutput, Utterance
    from audiossl.data.manifest import Manifest
    from audiossl.nn.ssl_encoder import SSLEncoder

VOCABULARY = "vocabulary.json"

_LOG = logging.getLogger(__name__)


class CTC(Task):
    """Softmax layer over the tokens of a vocabulary, trained and read out by CTC (Graves et al., 2006).

    Its weights start as torch's linear layers do; fairseq's as Xavier's.
    """

    writes_text: ClassVar[bool] = True

    @dataclass(frozen=True)
    class Config:
        """The published recipe: characters, one linear layer on the last layer (Baevski et al., 2020, section 3.3).

        tokens: `bpe` are word pieces, `bpe_size` of them, learnt from the training text (extra `asr`). column: file of the data
        directory that holds the text. layers: the last one, or a learned weighted sum of all, the input of the first block included.
        hidden_dim: units of a GELU layer in front of the output; 0 is none. dropout: in front of each linear layer.
        """

        tokens: Literal["characters", "bpe", "words", "phones"] = "characters"
        bpe_size: int = 0
        column: str = "text"
        layers: Literal["last", "weighted"] = "last"
        hidden_dim: int = 0
        dropout: float = 0.0

        def __post_init__(self) -> None:
            if self.hidden_dim < 0 or not 0 <= self.dropout < 1:
                raise ValueError(f"task: hidden_dim {self.hidden_dim} or dropout {self.dropout} is out of range")
            if self.bpe_size < 0 or (self.bpe_size > 0) != (self.tokens == "bpe"):
                raise ValueError(
                    f"task.bpe_size: {self.bpe_size} with tokens {self.tokens!r}; give it with 'bpe', such as 500, and not otherwise"
                )

        @classmethod
        def tiny(cls) -> CTC.Config:
            """Return the smallest one that exercises everything, for tests."""
            return cls(layers="weighted", hidden_dim=8, dropout=0.1)

    def __init__(self, encoder_dim: int, num_layers: int, config: Config, vocabulary: Vocabulary | BPE) -> None:
        super().__init__()
        self.config: CTC.Config = config
        self.vocabulary = vocabulary
        # What `predict` reads with instead of greedily: from log probabilities, (batch, frame, token), and lengths to texts.
        self.decoder: Callable[[Tensor, Tensor], list[str]] | None = None
        self.needs = (config.column,)
        self.labels = CTCLabels(vocabulary, config.column)
        # What chooses the best checkpoint: a key of `score`.
        self.metric: tuple[str, Literal["min", "max"]] = ("per" if config.tokens == "phones" else "wer", "min")
        if config.layers == "weighted":
            self.weighted = WeightedLayers(num_layers)
        self.head = nn.Sequential(nn.Dropout(config.dropout))
        if config.hidden_dim:
            self.head.extend([nn.Linear(encoder_dim, config.hidden_dim), nn.GELU(), nn.Dropout(config.dropout)])
        self.head.append(nn.Linear(config.hidden_dim or encoder_dim, len(vocabulary)))
        self._named: set[str] = set()

    @classmethod
    def from_data(cls, encoder: SSLEncoder, config: Config, manifest: Manifest) -> CTC:
        """Build it for the tokens of a data directory; ValueError if its text holds none."""
        vocabulary: Vocabulary | BPE
        if config.tokens == "bpe":
            vocabulary = BPE.from_manifest(manifest, config.column, config.bpe_size)
        else:
            vocabulary = Vocabulary.from_manifest(manifest, config.column, config.tokens)
        return cls(encoder.dim, encoder.num_layers, config, vocabulary)

    @classmethod
    def from_experiment(cls, encoder: SSLEncoder, config: Config, experiment: Path) -> CTC:
        """Build it for the vocabulary that an experiment was trained with."""
        return cls(encoder.dim, encoder.num_layers, config, load_vocabulary(experiment / VOCABULARY))

    def save_labels(self, experiment: Path) -> None:
        """Write the vocabulary into the experiment folder."""
        self.vocabulary.save(experiment / VOCABULARY)

    def logits(self, output: EncoderOutput) -> Tensor:
        """Scores of the tokens: (batch, frame, token)."""
        features = self.weighted(output) if self.config.layers == "weighted" else output.layers[-1]
        scores: Tensor = self.head(features)
        return scores

    def layer_shares(self) -> Tensor | None:
        """Share of each layer, where all are taken."""
        return self.weighted.shares() if self.config.layers == "weighted" else None

    def loss(self, output: EncoderOutput, batch: Batch) -> StepOutput:
        """Sum of the utterances' CTC losses, and the number of utterances.

        An utterance with too few frames for its text has loss 0, is counted in `impossible` and named once on the log.
        """
        logits, target, target_lengths = self.logits(output), batch["tokens"], batch["tokens_lengths"]
        result = ctc(logits, output.lengths, target, target_lengths, blank=Vocabulary.blank_index)
        total = result.loss.sum()
        utterances = torch.full_like(total, len(target)).detach()
        self._name_impossible(result.possible, batch["utt_ids"])
        frames, tokens = output.lengths.sum(), target_lengths.sum()
        blanks = (self._best(logits, output.lengths) == Vocabulary.blank_index).sum()
        metrics = {
            "loss_per_token": (total.detach(), tokens),
            "impossible": ((~result.possible).sum(), utterances),
            "unknown_tokens": ((target == Vocabulary.unknown_index).sum(), tokens),
            "blank_frames": (blanks, frames),
        }
        return StepOutput(total, utterances, metrics)

    def predict(self, output: EncoderOutput) -> list[str]:
        """Read out greedily, the best token of each frame, repetitions merged, then blanks dropped; or with `decoder`."""
        return self.read(self.logits(output), output.lengths)

    def read(self, logits: Tensor, lengths: Tensor) -> list[str]:
        """As `predict`, from (batch, frame, token) scores and (batch,) frames."""
        if self.decoder is not None:
            return self.decoder(logits.float().log_softmax(dim=2), lengths)
        best = self._best(logits, lengths)
        before = torch.nn.functional.pad(best[:, :-1], (1, 0), value=-1)
        kept = (best > Vocabulary.blank_index) & (best != before)
        return [self.vocabulary.decode(row[keep].tolist()) for row, keep in zip(best.cpu(), kept.cpu(), strict=True)]

    def score(self, predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
        """Error rates in percent: `per` of phones, else `wer` and `cer`."""
        if self.config.tokens == "phones":
            return {"per": word_error_rate(predictions, references)}
        return {
            "wer": word_error_rate(predictions, references),
            "cer": character_error_rate(predictions, references),
        }

    @staticmethod
    def _best(logits: Tensor, lengths: Tensor) -> Tensor:
        """Best token per frame, -1 in the padding: (batch, frame)."""
        best = logits.detach().argmax(dim=2)
        frame = torch.arange(best.shape[1], device=best.device)
        return best.masked_fill(frame >= lengths.unsqueeze(1), -1)

    def _name_impossible(self, possible: Tensor, ids: Sequence[str]) -> None:
        for utterance, fits in zip(ids, possible.tolist(), strict=True):
            if not fits and utterance not in self._named:
                self._named.add(utterance)
                _LOG.warning("%s: too few frames for its text; it adds no loss; correct or remove it", utterance)


@dataclass(frozen=True)
class CTCLabels:
    """Text to tokens, in the loader's workers."""

    vocabulary: Vocabulary | BPE
    column: str

    def __call__(self, utterance: Utterance) -> dict[str, Any]:
        """tokens: (label,) int64. text: as written, spaces tidied, for scoring."""
        text = " ".join(utterance.columns[self.column].split())
        return {"tokens": self.vocabulary.encode(text), "text": text}
