"""What a data directory says of an utterance as a whole: its class, its tags, or numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Self

import numpy as np
import torch
from torch.nn import functional as F

from audiossl.metrics.accuracy import accuracy
from audiossl.metrics.area_under_curve import area_under_curve
from audiossl.metrics.average_precision import average_precision
from audiossl.metrics.r_squared import r_squared
from audiossl.metrics.unweighted_average_recall import unweighted_average_recall
from audiossl.metrics.weighted_key_score import parse_key, weighted_key_score
from audiossl.nn.task import class_lines, measured_lines

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import Tensor

    from audiossl.data.manifest import Manifest

Kind = Literal["class", "pitch", "key", "tags", "numbers"]

# The first of each kind is what chooses and is shown. Those of `_ON_DEMAND` leave out classes that all or none of the scored utterances are of.
_METRICS = {
    "class": ("accuracy", "unweighted_average_recall"),
    "pitch": ("accuracy", "chroma_accuracy"),
    "key": ("weighted_key_score", "accuracy"),
    "tags": ("roc_auc", "map"),
    "numbers": ("r2",),
}
_NO_TAG = "-"
_ON_DEMAND = {"class": ("roc_auc", "map")}


class Attribute:
    """Labels of utterances for the probes of benchmarks such as MARBLE and HEAR: cross entropy, binary cross entropies, or squared errors."""

    @dataclass(frozen=True)
    class Config:
        """Where the labels stand and what is made of them.

        kind: `class` is one word; `pitch` a class that is a number of MIDI, `key` one like `C#_minor`; `tags` are any words, `-` is none; `numbers` one in each
        column. metric: what chooses and is shown. "": accuracy, of keys weighted_key_score, of tags roc_auc, of numbers r2; tags also have map, classes roc_auc and map.
        count: of different labels that training must have; 0: any. More than expected are often tags of two words, which must be written as one.
        """

        kind: Kind = "class"
        columns: tuple[str, ...] = ("utt2label",)
        metric: str = ""
        count: int = 0

        def __post_init__(self) -> None:
            if not self.columns or (len(self.columns) > 1 and self.kind != "numbers"):
                raise ValueError(f"task.columns: {list(self.columns)} for kind {self.kind!r}; give exactly one")
            known = _METRICS[self.kind] + _ON_DEMAND.get(self.kind, ())
            if self.metric and self.metric not in known:
                raise ValueError(f"task.metric: {self.metric!r} is none of kind {self.kind!r}; use {', '.join(known)}")
            if self.count < 0:
                raise ValueError(f"task.count: {self.count} is below 0; give the number of labels, or 0 for any")

        @classmethod
        def tiny(cls) -> Attribute.Config:
            """Return the smallest one that exercises everything, for tests."""
            return cls(columns=("utt2keyword",))

    runner: ClassVar[str] = "mlp"

    def __init__(self, config: Config, names: tuple[str, ...]) -> None:
        """names: of the outputs: classes, tags, or the columns of the numbers."""
        self.config, self.names = config, names
        self.metric = config.metric or _METRICS[config.kind][0]

    @classmethod
    def from_data(cls, config: Config, manifest: Manifest) -> Self:
        """Learn classes or tags of a data directory; ValueError for fewer than two classes, for another number than `count`, for what is no pitch or key."""
        if config.kind == "numbers":
            return cls(config, config.columns)
        values = manifest.column(config.columns[0])
        words = {word for value in values for word in _words(value, config.kind)}
        place = manifest.path / config.columns[0]
        if len(words) < (1 if config.kind == "tags" else 2):
            raise ValueError(f"{place}: has {len(words)} different labels; a probe needs more")
        if config.count and len(words) != config.count:
            raise ValueError(
                f"{place}: has {len(words)} different labels, not {config.count}; write each as one word, `no_vocals`, "
                "and give all of them, or set task.count 0 for labels of your own"
            )
        for word in words:
            _check(word, config.kind, place)
        return cls(config, tuple(sorted(words)))

    @classmethod
    def label_files(cls, config: Config, part: str) -> tuple[str, ...]:  # noqa: ARG003 - as all tasks have it
        """Columns of the labels."""
        return config.columns

    def labels(self, manifest: Manifest) -> np.ndarray:
        """Labels of all utterances: (utterance,) int64 class numbers, (utterance, tag) or (utterance, number) float32.

        ValueError names an utterance of an unknown class or tag, and what is no number.
        """
        columns = [manifest.column(name) for name in self.config.columns]
        if self.config.kind == "numbers":
            return np.array(
                [[_number(column[row], manifest, name, row) for column, name in zip(columns, self.names, strict=True)]
                 for row in range(len(manifest))], np.float32,
            )  # fmt: skip
        number = {name: index for index, name in enumerate(self.names)}
        said = [_words(value, self.config.kind) for value in columns[0]]
        for row, words in enumerate(said):
            strange = next((word for word in words if word not in number), None)
            if strange is not None:
                raise ValueError(
                    f"{manifest.path / self.config.columns[0]}: {manifest.ids[row]} is labelled {strange!r}, which training does not have; "
                    "give directories that share their labels"
                )
        if self.config.kind != "tags":
            return np.array([number[words[0]] for words in said], np.int64)
        found = np.zeros((len(said), len(self.names)), np.float32)
        for row, words in enumerate(said):
            found[row, [number[word] for word in words]] = 1.0
        return found

    def targets(self, labels: np.ndarray, train: np.ndarray) -> np.ndarray:
        """Labels as heads are trained and scored on: numbers are standardised by those of training, of which R squared knows nothing, others as they are."""
        if self.config.kind != "numbers":
            return labels
        spread = train.std(axis=0)
        found: np.ndarray = (labels - train.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
        return found

    def check_scored(self, labels: np.ndarray, place: str) -> list[str]:
        """Tags or classes that curves leave out, since all or none of the utterances have them; ValueError where nothing is left. place: of the labels."""
        if self.config.kind != "tags" and self.metric not in {"roc_auc", "map"}:
            return []
        told = _told(self._flags(labels))
        if not told.any():
            raise ValueError(
                f"{place}: of no label are there utterances with and without it, so that {self.metric} has nothing to score; give others"
            )
        return [name for name, kept in zip(self.names, told, strict=True) if not kept]

    def losses(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Loss of each item; of several tags or numbers the mean. outputs: (head, item, output). Returns (head, item)."""
        if self.config.kind in {"tags", "numbers"}:
            wanted = labels.expand_as(outputs)
            if self.config.kind == "numbers":
                return (outputs - wanted).square().mean(dim=2)
            return F.binary_cross_entropy_with_logits(outputs, wanted, reduction="none").mean(dim=2)
        right = outputs.gather(2, labels.expand(outputs.shape[:2]).unsqueeze(2)).squeeze(2)
        return torch.logsumexp(outputs, dim=2) - right

    def headline(self, outputs: np.ndarray, labels: np.ndarray) -> float:
        """The metric alone; higher is better. outputs: (item, output)."""
        return self._value(self.metric, outputs, labels)

    def scores(self, outputs: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """All metrics of the kind, in percent; of several numbers also each by itself."""
        names = dict.fromkeys((self.metric, *_METRICS[self.config.kind]))
        found = {name: self._value(name, outputs, labels) for name in names}
        if self.config.kind == "numbers" and len(self.names) > 1:
            found |= {
                f"r2_{name.removeprefix('utt2')}": 100.0 * r_squared(outputs[:, place], labels[:, place])
                for place, name in enumerate(self.names)
            }
        return found

    def answers(self, utterances: Sequence[str], outputs: np.ndarray, labels: np.ndarray) -> dict[str, Iterable[str]]:
        """Lines `utterance predicted reference`; of tags `utterance tag value ...`, the outputs; of numbers, which are standardised, none."""
        if self.config.kind == "numbers":
            return {}
        if self.config.kind != "tags":
            return {"predictions": class_lines(utterances, self.names, outputs, labels)}
        rows = zip(utterances, outputs, strict=True)
        return {
            "scores": (line for u, row in rows for line in measured_lines({u: dict(zip(self.names, row, strict=True))}))
        }

    def _flags(self, labels: np.ndarray) -> np.ndarray:
        """(item, output) of 0 and 1."""
        return labels if labels.ndim == 2 else np.eye(len(self.names), dtype=np.float32)[labels]

    def _value(self, metric: str, outputs: np.ndarray, labels: np.ndarray) -> float:
        if metric in {"roc_auc", "map"}:
            curve = area_under_curve if metric == "roc_auc" else average_precision
            values = outputs
            if self.config.kind == "class":  # among classes only shares can be compared
                values = np.exp(outputs - outputs.max(axis=1, keepdims=True))
                values /= values.sum(axis=1, keepdims=True)
            flags = self._flags(labels)
            told = _told(flags)
            return 100.0 * curve(values[:, told], flags[:, told])
        if metric == "r2":
            return 100.0 * r_squared(outputs, labels)
        predicted = outputs.argmax(axis=1)
        if metric == "accuracy":
            return accuracy(predicted, labels)
        if metric == "unweighted_average_recall":
            return unweighted_average_recall(predicted, labels)
        if metric == "chroma_accuracy":
            tones = np.array([int(name) % 12 for name in self.names])
            return accuracy(tones[predicted], tones[labels])
        return weighted_key_score([self.names[one] for one in predicted], [self.names[one] for one in labels])


def _told(flags: np.ndarray) -> np.ndarray:
    """(output,) whether some items have it and some have not. flags: (item, output) of 0 and 1."""
    count = flags.sum(axis=0)
    found: np.ndarray = (count > 0) & (count < len(flags))
    return found


def _words(value: str, kind: Kind) -> list[str]:
    """Labels of an utterance."""
    if kind != "tags":
        return [value.strip()]
    return [] if value.strip() == _NO_TAG else value.split()


def _check(word: str, kind: Kind, place: object) -> None:
    if kind == "pitch" and not word.isdecimal():
        raise ValueError(f"{place}: {word!r} is no pitch; write the number that MIDI has for it")
    if kind == "key":
        try:
            parse_key(word)
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from None


def _number(text: str, manifest: Manifest, column: str, row: int) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        raise ValueError(f"{manifest.path / column}: {manifest.ids[row]} has {text!r}, which is no number; write one")
    return value
