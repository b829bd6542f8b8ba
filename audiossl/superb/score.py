"""A score of an upstream on a task, with what it may not be told without: how it was chosen, and what it cost."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Self

from audiossl.diagnostics.results import add_result
from audiossl.superb.answers import beside_score
from audiossl.train.ledger import Cost

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from audiossl.diagnostics.results import Result

LEFT_OUT = "test_left_out"
"""Key of `more`."""
_LAST = "last step"
_OFFICIAL = " (official)"


@dataclass(frozen=True)
class Choice:
    """The head that has the official value, where it need not be the one that dev chose. shares: of its layers, as of a score."""

    learning_rate: float
    step: int
    shares: tuple[float, ...] = ()


@dataclass(frozen=True)
class Score:
    """What one head reached; ValueError where it does not say how it came about.

    task: name of the recipe without `superb_` (`ks`). upstream: as on the command line. values: what the task's `evaluate` returned on
    test, by name. metric: which of them the table shows; None of them is a fraction of 1: rates are in percent. learning_rate: None where nothing
    takes steps, so that `step` is 0 and `more` names the `layer`. selection: what chose them, such as `dev wer`, or `last step`; where the official protocol selects on test, `official`
    holds the value so chosen and `values` the one chosen on dev. official_choice: whose head that is; None: dev's, at other settings. dev: the metric on dev by
    learning rate. shares: of the layers, sum 1; () where one layer is taken. parameters: trained ones. answers: lines of the files that are written beside it, by the end of
    their names, once: they may be made while they are written.
    """

    task: str
    upstream: str
    values: dict[str, float]
    metric: str
    learning_rate: float | None
    seed: int
    selection: str
    step: int
    parameters: int
    cost: Cost
    dev: dict[float, float] = field(default_factory=dict)
    official: dict[str, float] = field(default_factory=dict)
    official_choice: Choice | None = None
    shares: tuple[float, ...] = ()
    more: dict[str, Any] = field(default_factory=dict)
    answers: Mapping[str, Iterable[str]] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        place = f"score of {self.upstream or 'no upstream'} on {self.task or 'no task'}"
        for name in ("task", "upstream", "metric", "selection"):
            if not getattr(self, name).strip():
                raise ValueError(f"{place}: has no {name}; a score is not written without one")
        if not isinstance(self.seed, int):
            raise ValueError(f"{place}: seed {self.seed!r} is no whole number; a score is not written without its seed")
        if (self.learning_rate is None) != (self.step == 0) or min(self.step, self.parameters) < 0:
            raise ValueError(
                f"{place}: learning rate {self.learning_rate} at step {self.step}; what takes steps has a rate, what takes none has none"
            )
        if self.learning_rate is None and self.more.get("layer") is None:
            raise ValueError(
                f"{place}: has neither learning rate nor layer; a score is not written without what was chosen"
            )
        if self.selection != _LAST and self.selection.split()[0] != "dev":
            raise ValueError(
                f"{place}: selection {self.selection!r} names no split; say `dev` and the metric, or {_LAST!r} where nothing is chosen"
            )
        if self.metric not in self.values:
            raise ValueError(f"{place}: {self.metric!r} is not among its values {', '.join(self.values) or '(none)'}")
        numbers = {**self.values, **self.official, "learning rate": self.learning_rate or 0.0}
        odd = next((name for name, value in numbers.items() if not math.isfinite(value)), None)
        if odd is not None:
            raise ValueError(f"{place}: {odd} is {numbers[odd]}; only finite numbers are scores")

    @classmethod
    def of_rows(cls, rows: Sequence[Result]) -> Self:
        """Read what `write` wrote of one score, without its answers; of a value that is there twice the newer counts."""
        named = {row.name.split(" ", 2)[2]: row for row in rows}
        official = {name.removesuffix(_OFFICIAL): row for name, row in named.items() if name.endswith(_OFFICIAL)}
        values = {name: row for name, row in named.items() if not name.endswith(_OFFICIAL)}
        row = next(iter(values.values()))
        more = dict(row.more)
        own = {
            name: more.pop(name) for name in ("task", "upstream", "learning_rate", "selection", "step", "parameters")
        }
        cost = Cost(**{item.name: more.pop(item.name) for item in fields(Cost) if item.name in more})
        chosen = [
            Choice(one.more["learning_rate"], one.more["step"], tuple(one.more["layer_weights"]))
            for one in official.values()
        ]
        head = Choice(own["learning_rate"], own["step"], tuple(more["layer_weights"]))
        return cls(
            **own,
            values={name: one.value for name, one in values.items()},
            seed=row.seed,  # type: ignore[arg-type]  # checked when it is made
            cost=cost,
            dev={float(rate): value for rate, value in more.pop("dev").items()},
            official={name: one.value for name, one in official.items()},
            official_choice=next((one for one in chosen if one != head), None),
            shares=tuple(more.pop("layer_weights")),
            metric=more.pop("shown"),
            more=more,
        )

    def write(self, out: Path) -> None:
        """Append one row per value to `results.json` in a folder, with `answers` beside it in the place of those of an earlier score."""
        with beside_score(out, self.answers):
            self._add_rows(out)

    def _add_rows(self, out: Path) -> None:
        context = {
            "task": self.task,
            "upstream": self.upstream,
            "learning_rate": self.learning_rate,
            "seed": self.seed,
            "selection": self.selection,
            "step": self.step,
            "parameters": self.parameters,
            "dev": {str(rate): value for rate, value in self.dev.items()},
            "layer_weights": list(self.shares),
            "shown": self.metric,
            **self.cost.row(),
            **self.more,
        }
        for name, value in self.values.items():
            add_result(out, f"superb {self.task} {name}", value, unit_of(name), **context)
        chosen = {**context, "selection": "test, as the official protocol does"}
        if self.official_choice is not None:
            head = self.official_choice
            chosen |= {"learning_rate": head.learning_rate, "step": head.step, "layer_weights": list(head.shares)}
        for name, value in self.official.items():
            add_result(out, f"superb {self.task} {name}{_OFFICIAL}", value, unit_of(name), **chosen)


def told_left_out(recordings: int) -> dict[str, int]:
    """What `more` of a score says of recordings of test that could not be used; nothing where there are none."""
    return {LEFT_OUT: recordings} if recordings else {}


def unit_of(metric: str) -> str:
    """Percent, but for the measures that are none."""
    return {
        "mtwv": "",
        "mtwv_searched": "",
        "atwv": "",
        "min_dcf": "",
        "pesq": "",
        "si_sdr": "dB",
        "si_sdr_improvement": "dB",
        "mcd": "dB",
        "bleu": "",
    }.get(metric, "%")
