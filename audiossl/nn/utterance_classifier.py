"""What tasks that classify utterances share: the head of `pooling.py` with its labels, loss, predictions and score."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
import torch
from torch.nn import functional as F

from audiossl.contracts import StepOutput
from audiossl.metrics.accuracy import accuracy
from audiossl.nn.pooling import UtteranceHead
from audiossl.nn.task import Task
from audiossl.nn.vocabulary import Vocabulary

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
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

    @property
    def columns(self) -> tuple[str, ...]:
        """Files with the labels, one for each label that an utterance has."""
        return (self.column,)


class UtteranceClassifier(Task):
    """Cross entropy over classes on the time-mean of the weighted layers (SUPERB: Yang et al., 2021).

    An utterance has a label of each of `config.columns`, most tasks of one: the head's outputs are the classes of all, the loss is the sum of their
    cross entropies, and an utterance is right if every label is. vocabularies: of kind `words`, each word a class, in the order of the columns.
    """

    metric = ("accuracy", "max")
    runner: ClassVar[Literal["pooled"]] = "pooled"
    writes_text: ClassVar[bool] = True
    probe: ClassVar[dict[str, Any]] = {"steps": 2000, "batch": 256}
    """What `audiossl probe` starts from: keys of its `[probe]` table."""

    def __init__(self, encoder_dim: int, num_layers: int, config: Any, *vocabularies: Vocabulary) -> None:
        super().__init__()
        self.config = config
        self.vocabularies = vocabularies
        self.sizes = tuple(len(vocabulary) - _RESERVED for vocabulary in vocabularies)
        self.classes = tuple(chain.from_iterable(vocabulary.tokens[_RESERVED:] for vocabulary in vocabularies))
        self.needs = config.columns
        each = tuple(ClassLabels(*pair) for pair in zip(vocabularies, config.columns, strict=True))
        self.labels = each[0] if len(each) == 1 else JointLabels(each)
        self.head = UtteranceHead(encoder_dim, num_layers, sum(self.sizes), projector_dim=config.projector_dim)

    @classmethod
    def from_data(cls, encoder: SSLEncoder, config: Any, manifest: Manifest) -> Self:
        """Build it for the classes of a data directory."""
        found = (Vocabulary.from_manifest(manifest, column, config.tokens) for column in config.columns)
        return cls(encoder.dim, encoder.num_layers, config, *found)

    @classmethod
    def from_experiment(cls, encoder: SSLEncoder, config: Any, experiment: Path) -> Self:
        """Build it for the classes that an experiment was trained with."""
        found = (Vocabulary.load(experiment / name) for name in _files(config.columns))
        return cls(encoder.dim, encoder.num_layers, config, *found)

    def save_labels(self, experiment: Path) -> None:
        """Write the classes into the experiment folder."""
        for vocabulary, name in zip(self.vocabularies, _files(self.needs), strict=True):
            vocabulary.save(experiment / name)

    def layer_shares(self) -> Tensor:
        """Share of each layer."""
        return self.head.weighted.shares()

    def loss(self, output: EncoderOutput, batch: Batch) -> StepOutput:
        """Sum of the cross entropies of the utterances, and their number; an unknown class adds no loss and is an error."""
        logits, label = self.head(output).float(), batch["label"]
        label = label.view(len(logits), len(self.sizes))
        parts = list(zip(logits.split(list(self.sizes), dim=1), label.unbind(dim=1), strict=True))
        total = torch.stack(
            [F.cross_entropy(part, wanted, reduction="sum", ignore_index=_UNKNOWN) for part, wanted in parts]
        ).sum()
        count = torch.tensor(float(len(label)), device=logits.device)
        right = torch.stack([part.argmax(dim=1) == wanted for part, wanted in parts])  # (label, utterance)
        unknown = (label == _UNKNOWN).any(dim=1).sum()
        return StepOutput(total, count, {"accuracy": (right.all(dim=0).sum(), count), "unknown": (unknown, count)})

    def predict(self, output: EncoderOutput) -> list[str]:
        """Return the likeliest class of each utterance; of several labels, one after the other."""
        chosen, first = [], 0
        for part in self.head(output).split(list(self.sizes), dim=1):
            chosen.append([self.classes[first + index] for index in part.argmax(dim=1).tolist()])
            first += part.shape[1]
        return [" ".join(words) for words in zip(*chosen, strict=True)]

    def score(self, predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
        """Accuracy in percent."""
        return {"accuracy": accuracy(predictions, references)}

    def references(self, utterances: Iterable[str], manifest: Manifest) -> list[str]:
        """Labels of these utterances, one after the other."""
        columns = [manifest.column(name) for name in self.needs]
        where = {utterance: index for index, utterance in enumerate(manifest.ids)}
        return [" ".join(column[where[name]].strip() for column in columns) for name in utterances]

    def answers(
        self,
        said: Mapping[str, str],
        manifest: Manifest,
        settings: Mapping[str, Any],  # noqa: ARG002 - as all tasks have it
    ) -> dict[str, Iterable[str]]:
        """Lines `utterance predicted reference`; of several labels all predicted ones, then all references."""
        return {"predictions": self._prediction_lines(said, manifest)}

    def _prediction_lines(self, said: Mapping[str, str], manifest: Manifest) -> Iterator[str]:
        wanted = dict(zip(said, self.references(said, manifest), strict=True))
        for name in sorted(said):
            yield f"{name} {said[name]} {wanted[name]}"


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


@dataclass(frozen=True)
class JointLabels:
    """Several labels of one utterance, in the loader's workers."""

    each: tuple[ClassLabels, ...]

    def __call__(self, utterance: Utterance) -> dict[str, Any]:
        """label: (label,) class numbers, -100 for a class that training did not have. text: the labels with spaces between them."""
        found = [labels(utterance) for labels in self.each]
        return {"label": np.array([one["label"] for one in found]), "text": " ".join(one["text"] for one in found)}


def _files(columns: Sequence[str]) -> list[str]:
    """Names of the files with the classes of each label, in an experiment folder."""
    stem = CLASSES.removesuffix(".json")
    return [CLASSES] if len(columns) == 1 else [f"{stem}_{column.removeprefix('utt2')}.json" for column in columns]
