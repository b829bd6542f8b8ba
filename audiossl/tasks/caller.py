"""Callers: which animal, or kind of call, is heard in an utterance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from audiossl.metrics._detection import Interval, checked_tail
from audiossl.metrics.accuracy import accuracy
from audiossl.metrics.area_under_curve import area_under_curve
from audiossl.metrics.unweighted_average_recall import unweighted_average_recall
from audiossl.nn.task import class_lines

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from audiossl.data.manifest import Manifest


class Caller:
    """Detection of callers by frozen features (Sarkar and Magimai.-Doss, 2023): unweighted average recall and macro AUC.

    Any column with one label per utterance will do: callers, types of calls, species.
    """

    @dataclass(frozen=True)
    class Config:
        """column: file of the data directory with the labels."""

        column: str = "utt2caller"

        @classmethod
        def tiny(cls) -> Caller.Config:
            """Return the smallest one that exercises everything, for tests."""
            return cls(column="utt2spk")

    runner: ClassVar[str] = "layers"
    variant: ClassVar[str] = (
        "each fold's dev chooses one of all layers, where the last is taken, and by unweighted average recall, not macro F1"
    )
    metric = "unweighted_average_recall"

    def __init__(self, config: Config, names: tuple[str, ...]) -> None:
        """names: of the callers."""
        self.config, self.names = config, names

    @classmethod
    def from_data(cls, config: Config, manifest: Manifest) -> Self:
        """Learn the callers of a data directory; ValueError for fewer than two."""
        names = tuple(sorted({value.strip() for value in manifest.column(config.column)}))
        if len(names) < 2:
            raise ValueError(f"{manifest.path / config.column}: has {len(names)} label; at least two are needed")
        return cls(config, names)

    @classmethod
    def label_files(cls, config: Config, part: str) -> tuple[str, ...]:  # noqa: ARG003 - as all tasks have it
        """Column of the labels."""
        return (config.column,)

    def labels(self, manifest: Manifest) -> np.ndarray:
        """(utterance,) int64, numbers of callers; ValueError names one that training does not have."""
        number = {name: index for index, name in enumerate(self.names)}
        found = np.empty(len(manifest), np.int64)
        for row, value in enumerate(manifest.column(self.config.column)):
            if value.strip() not in number:
                raise ValueError(
                    f"{manifest.path / self.config.column}: {manifest.ids[row]} is of {value.strip()!r}, which training does not have; "
                    "give directories that share their labels"
                )
            found[row] = number[value.strip()]
        return found

    def scores(self, outputs: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """Percent. auc: mean over the callers that are heard and not all there is, each against all others. outputs: (item, caller)."""
        predicted = outputs.argmax(axis=1)
        flags = np.eye(len(self.names), dtype=bool)[labels]
        told = flags.any(axis=0) & ~flags.all(axis=0)
        if not told.any():
            raise ValueError("callers: all tested utterances are of one caller; nothing can be told apart")
        return {
            "unweighted_average_recall": unweighted_average_recall(predicted, labels),
            "auc": 100.0 * area_under_curve(outputs[:, told], flags[:, told]),
            "accuracy": accuracy(predicted, labels),
        }

    def answers(self, utterances: Sequence[str], outputs: np.ndarray, labels: np.ndarray) -> dict[str, Iterable[str]]:
        """Lines `utterance predicted reference`. outputs: (utterance, caller)."""
        return {"predictions": class_lines(utterances, self.names, outputs, labels)}

    def intervals(
        self, tested: Sequence[tuple[np.ndarray, np.ndarray]], *, seed: int, num_samples: int = 1000
    ) -> dict[str, Interval]:
        """95 % percentile intervals of the mean of `scores` over folds (Efron, 1979).

        Utterances of each fold are drawn with replacement within their callers. That takes them for independent, which calls of one recording are not.
        tested: outputs (item, caller) and labels (item,) of each fold.
        """
        tail, generator = checked_tail(num_samples), np.random.default_rng(seed)
        members = [[np.flatnonzero(labels == caller) for caller in np.unique(labels)] for _, labels in tested]
        drawn: dict[str, list[float]] = {}
        for _ in range(num_samples):
            folds = []
            for (outputs, labels), callers in zip(tested, members, strict=True):
                rows = np.concatenate([own[generator.integers(0, len(own), len(own))] for own in callers])
                folds.append(self.scores(outputs[rows], labels[rows]))
            for name in folds[0]:
                drawn.setdefault(name, []).append(float(np.mean([fold[name] for fold in folds])))
        return {name: Interval(*np.quantile(values, (tail, 1.0 - tail)).tolist()) for name, values in drawn.items()}
