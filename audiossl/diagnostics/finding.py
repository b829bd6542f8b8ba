"""What an analysis of a checkpoint found: numbers for `results.json`, and parts of the page."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from audiossl.diagnostics import figures
from audiossl.diagnostics.page import figure, table
from audiossl.diagnostics.results import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from matplotlib.figure import Figure


class SkippedError(Exception):
    """The data lack what an analysis needs; the message says what, in one line."""


@dataclass(frozen=True)
class Number:
    """One number. measure: what it is, the same for all layers. layer: None where it belongs to none. more: whatever else a result says."""

    measure: str
    value: float
    unit: str = ""
    layer: int | None = None
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Of the result."""
        return self.measure if self.layer is None else f"{self.measure} layer {self.layer}"


@dataclass
class Finding:
    """numbers: in the order of the page. body: HTML. notes: what was left out or assumed, one line each."""

    numbers: list[Number] = field(default_factory=list)
    body: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, measure: str, value: float, unit: str = "", **more: Any) -> None:
        """Add a number that belongs to no layer."""
        self.numbers.append(Number(measure, float(value), unit, None, more))

    def add_layers(self, measure: str, values: Iterable[float], unit: str = "", **more: Any) -> None:
        """Add one number per layer, from layer 0 (the input of the first block) on."""
        self.numbers += [Number(measure, float(value), unit, layer, more) for layer, value in enumerate(values)]

    def picture(self, draw: Callable[[Figure], None], caption: str, *, size: tuple[float, float] = (9.0, 3.6)) -> None:
        """Add a plot of `size` inches."""
        self.body.append(figure(figures.render(draw, size=size), caption))

    def table(self, headings: list[str], rows: list[list[str]]) -> None:
        """Add a table."""
        self.body.append(table(headings, rows))

    def tabulate(self) -> None:
        """Add tables of all numbers: a row per layer and a column per measure; those without layer in one of their own."""
        single = [number for number in self.numbers if number.layer is None]
        if single:
            rows = [[number.measure, f"{shown(number.value)} {number.unit}".strip()] for number in single]
            self.table(["measure", "value"], rows)
        by_layer = self.by_measure()
        if by_layer:
            layers = sorted({number.layer for number in self.numbers if number.layer is not None})
            names = [f"{measure}, {unit}" if unit else measure for measure, unit in by_layer]
            cells = [[str(layer), *(shown(values[layer]) for values in by_layer.values())] for layer in layers]
            self.table(["layer", *names], cells)

    def by_measure(self) -> dict[tuple[str, str], dict[int, float]]:
        """(measure, unit) -> layer -> value, of the numbers that belong to a layer."""
        found: dict[tuple[str, str], dict[int, float]] = {}
        for number in self.numbers:
            if number.layer is not None:
                found.setdefault((number.measure, number.unit), {})[number.layer] = number.value
        return found
