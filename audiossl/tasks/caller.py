"""Callers: which animal, or kind of call, is heard in an utterance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from audiossl.metrics.accuracy import accuracy
from audiossl.metrics.area_under_curve import area_under_curve
from audiossl.metrics.unweighted_average_recall import unweighted_average_recall

if TYPE_CHECKING:
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
        "dev chooses one of all layers, where the last is taken, and the cost of errors in steps of ours"
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
