"""What tasks with one label per utterance share: the head of `pooling.py` with its labels, loss, predictions and score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import torch
from torch.nn import functional as F

from audiossl.contracts import StepOutput
from audiossl.metrics.accuracy import accuracy
from audiossl.nn.pooling import UtteranceHead
from audiossl.nn.task import Task
from audiossl.nn.vocabulary import Vocabulary

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

    from audiossl.contracts import Batch, EncoderOutput, Utterance
    from audiossl.data.manifest import Manifest
    from audiossl.nn.ssl_encoder import SSLEncoder

CLASSES = "classes.json"
_RESERVED = 2  # `<blank>` and `<unk>` come first in a vocabulary and are no classes
_UNKNOWN = -100  # label of a class that training did not have


@dataclass(frozen=True)
class ClassifierConfig:
    """column: file of the data directory with the labels. projector_dim: 256 in SUPERB; 0 is none."""

    tokens: ClassVar[Literal["words"]] = "words"

    column: str
    projector_dim: int = 256


class UtteranceClassifier(Task):
    """Cross entropy over classes on the time-mean of the weighted layers (SUPERB: Yang et al., 2021).

    vocabulary: of kind `words`, each word a class.
    """

    metric = ("accuracy", "max")

    def __init__(self, encoder_dim: int, num_layers: int, config: ClassifierConfig, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.config = config
        self.classes = vocabulary.tokens[_RESERVED:]
        self.needs = (config.column,)
        self.vocabulary = vocabulary
        self.labels = ClassLabels(vocabulary, config.column)
        self.head = UtteranceHead(encoder_dim, num_layers, len(self.classes), projector_dim=config.projector_dim)

    @classmethod
    def from_data(cls, encoder: SSLEncoder, config: ClassifierConfig, manifest: Manifest) -> Self:
        """Build it for the classes of a data directory."""
        vocabulary = Vocabulary.from_manifest(manifest, config.column, config.tokens)
        return cls(encoder.dim, encoder.num_layers, config, vocabulary)

    @classmethod
    def from_experiment(cls, encoder: SSLEncoder, config: ClassifierConfig, experiment: Path) -> Self:
        """Build it for the classes that an experiment was trained with."""
        return cls(encoder.dim, encoder.num_layers, config, Vocabulary.load(experiment / CLASSES))

    def save_labels(self, experiment: Path) -> None:
        """Write the classes into the experiment folder."""
        self.vocabulary.save(experiment / CLASSES)

    def layer_shares(self) -> Tensor:
        """Share of each layer."""
        return self.head.weighted.shares()

    def loss(self, output: EncoderOutput, batch: Batch) -> StepOutput:
        """Sum of the cross entropies of the utterances, and their number; an unknown class adds no loss and is an error."""
        logits, label = self.head(output).float(), batch["label"]
        total = F.cross_entropy(logits, label, reduction="sum", ignore_index=_UNKNOWN)
        count = torch.tensor(float(len(label)), device=logits.device)
        hits = (logits.argmax(dim=1) == label).sum()
        return StepOutput(total, count, {"accuracy": (hits, count), "unknown": ((label == _UNKNOWN).sum(), count)})

    def predict(self, output: EncoderOutput) -> list[str]:
        """Return the likeliest class of each utterance."""
        best: Tensor = self.head(output).argmax(dim=1)
        return [self.classes[index] for index in best.tolist()]

    def score(self, predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
        """Accuracy in percent."""
        return {"accuracy": accuracy(predictions, references)}


@dataclass(frozen=True)
class ClassLabels:
    """Labels to class numbers, in the loader's workers."""

    vocabulary: Vocabulary
    column: str

    def __call__(self, utterance: Utterance) -> dict[str, Any]:
        """label: class number, -100 for a class that training did not have. text: the label itself."""
        text = str(utterance.columns[self.column]).strip()
        indices = self.vocabulary.encode(text)
        if len(indices) != 1:
            raise ValueError(
                f"{utterance.id}: {self.column} says {text!r}; a label is one word: write it with underscores"
            )
        known = indices[0] != self.vocabulary.unknown_index
        return {"label": int(indices[0]) - _RESERVED if known else _UNKNOWN, "text": text}
