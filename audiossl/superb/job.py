"""What a runner is given: a task ready to be run, and the upstream that is scored on it."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from audiossl.config import to_table
from audiossl.superb.hearing import Hearing
from audiossl.superb.labels import Labels

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from audiossl.diagnostics.sources import FeatureSource

_ONLY_COST = frozenset(("num_workers", "cache_gb", "max_bad_fraction", "memory_gb"))
"""Settings that change what a score costs, and not what it is; so does `batch_seconds`, but where heads train on the frames of such a batch."""


TOLD_BESIDE = frozenset(("decoding", "lexicon", "recogniser", "verifier"))
"""Settings that say what is told beside the metric, or where models are: of these heads and the metric know nothing, or what the data's digest holds."""


def essential(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings (`task.hidden_dim`) that heads and the metric depend on; of `metrics` the first, which is the metric."""
    return {
        key: value[0] if key.endswith(".metrics") and isinstance(value, list | tuple) else value
        for key, value in settings.items()
        if key.rpartition(".")[2] not in TOLD_BESIDE
    }


@dataclass(frozen=True)
class Job:
    """A task ready to be run.

    name: of its recipe without `superb_`. task_name: as the registry knows it. task_config, config: the tables `[task]` and `[superb]`.
    """

    name: str
    task_name: str
    task_class: Any
    task_config: Any
    config: Any

    @property
    def runner(self) -> Any:
        """The module of this room that trains and scores it."""
        return runner_of(self.task_class)

    @property
    def labels(self) -> Labels:
        """What it is asked about its data."""
        return Labels(self.task_class, self.task_config, self.config)

    @property
    def stream(self) -> tuple[Any, ...] | None:
        """What tasks must agree on to share a stream of frames; None where the task has none."""
        if self.task_class.runner != "frames":
            return None
        return (Hearing.of(self.task_config), *(getattr(self.config, key) for key in self.runner.SHARED))

    @property
    def rounding(self) -> str:
        """How frames that are kept are rounded; without a cache they are not."""
        return str(self.config.cache_dtype) if self.config.cache_gb else "float32"

    @property
    def settings(self) -> dict[str, Any]:
        """All that was chosen and that the score depends on, flat: `superb.steps` and so on."""
        tables = {"task": to_table(self.task_config), "superb": to_table(self.config)}
        left_out = _ONLY_COST if self.stream is not None else _ONLY_COST | {"batch_seconds"}
        found = {"task": self.task_name} | {
            f"{section}.{key}": value
            for section, table in tables.items()
            for key, value in table.items()
            if key not in left_out
        }
        return found if self.stream is None else found | {"superb.cache_dtype": self.rounding}


@dataclass(frozen=True)
class Evaluation:
    """What is scored, and on what.

    upstream: frozen. upstream_name: as on the command line. data: folder with the data directories of the tasks. seed: of all that is drawn.
    device: of torch. log: takes what is to be said on the way, line by line.
    """

    upstream: FeatureSource
    upstream_name: str
    data: Path
    seed: int
    device: str
    log: Callable[[str], None]

    def layers(self, named: tuple[int, ...]) -> tuple[int, ...]:
        """Layers that `superb.layers` names, () all; ValueError for one that the upstream does not have."""
        count = self.upstream.num_layers
        wrong = next((layer for layer in named if not 0 <= layer < count), None)
        if wrong is not None:
            raise ValueError(f"superb.layers: {self.upstream.name} has layers 0 to {count - 1}, not {wrong}")
        return named or tuple(range(count))


def runner_of(task_class: Any) -> Any:
    """Import the module that a class of tasks names; it has `Config`, and `run(job, evaluation, out)` or, for `frames`, `run_together`."""
    return importlib.import_module(f"audiossl.superb.{task_class.runner}")
