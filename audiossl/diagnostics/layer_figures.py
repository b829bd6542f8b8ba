"""Plots of a diagnosis: curves over layers, spectra, scatters, histograms, stacked risks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.figure import Figure

_NAMED = 6  # classes with a colour of their own: as many as the page's cycle has


def draw_layers(
    figure: Figure, curves: Mapping[str, Sequence[float]], ylabel: str, *, levels: Mapping[str, float] | None = None
) -> None:
    """A value per layer, one line per name. levels: what is drawn across, such as chance."""
    axes = figure.subplots()
    for number, (name, values) in enumerate(curves.items()):
        style = "-" if number < _NAMED else "--"
        axes.plot(np.arange(len(values)), values, f"o{style}", color=f"C{number % _NAMED}", markersize=4, label=name)
    for number, (name, value) in enumerate((levels or {}).items()):
        axes.axhline(value, color=f"C{number % _NAMED}", linewidth=1.0, linestyle=":", label=name)
    longest = max(map(len, curves.values()))
    axes.set_xticks(np.arange(0, longest, 1 if longest <= 26 else 4))
    axes.set(xlabel="layer (0: input of the first block)", ylabel=ylabel)
    if len(curves) + len(levels or {}) > 1:
        axes.legend(ncols=2 if len(curves) > 3 else 1)


def draw_spectra(figure: Figure, spectra: Sequence[np.ndarray]) -> None:
    """Singular values of each layer relative to its largest, on a logarithmic scale; dark is early, light is late."""
    from matplotlib import colormaps

    axes = figure.subplots()
    colours = colormaps["viridis"](np.linspace(0.1, 0.9, len(spectra)))
    for layer, (values, colour) in enumerate(zip(spectra, colours, strict=True)):
        named = {0, len(spectra) // 2, len(spectra) - 1}
        relative = values / values[0] if values[0] > 0 else np.zeros_like(values)
        label = f"layer {layer}" if layer in named else None
        axes.plot(np.arange(1, len(values) + 1), np.maximum(relative, 1e-8), color=colour, linewidth=1.2, label=label)
    axes.set_yscale("log")
    axes.set(xlabel="singular value", ylabel="relative to the largest")
    axes.legend()


def draw_scatter(figure: Figure, panels: Mapping[str, np.ndarray], labels: np.ndarray, names: Sequence[str]) -> None:
    """Points in two dimensions, a panel per name; the commonest classes in colour. panels: (point, 2) each. labels: (point,), -1: none."""
    columns = figure.subplots(1, len(panels), squeeze=False)[0]
    counts = np.bincount(labels[labels >= 0], minlength=len(names))
    shown = [int(label) for label in np.argsort(-counts, kind="stable")[:_NAMED] if counts[label]]
    for axes, (title, points) in zip(columns, panels.items(), strict=True):
        rest = ~np.isin(labels, shown)
        axes.scatter(*points[rest].T, s=4, color="gray", alpha=0.4, linewidths=0, label="other" if rest.any() else None)
        for number, label in enumerate(shown):
            axes.scatter(*points[labels == label].T, s=6, color=f"C{number}", linewidths=0, label=names[label])
        axes.set_title(title, loc="left")
        axes.tick_params(labelbottom=False, labelleft=False)
    if shown:
        columns[-1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5), markerscale=3)


def draw_histogram(figure: Figure, groups: Mapping[str, np.ndarray], xlabel: str) -> None:
    """How values are distributed, one outline per group."""
    axes = figure.subplots()
    every = np.concatenate(list(groups.values()))
    edges = np.linspace(every.min(), every.max(), 41).tolist()
    for number, (name, values) in enumerate(groups.items()):
        axes.hist(
            values,
            edges,
            histtype="stepfilled",
            alpha=0.45,
            color=f"C{number % _NAMED}",
            label=f"{name} ({len(values)})",
        )
    axes.axvline(0.0, color="gray", linewidth=1.0, linestyle="--")
    axes.set(xlabel=xlabel, ylabel="utterances")
    axes.legend()


def draw_stacks(figure: Figure, bars: Mapping[str, Mapping[str, float]], ylabel: str) -> None:
    """Parts of a sum, one bar per name; a negative part hangs below zero."""
    axes = figure.subplots()
    place = np.arange(len(bars))
    above, below = np.zeros(len(bars)), np.zeros(len(bars))
    for number, part in enumerate(next(iter(bars.values()))):
        values = np.array([parts[part] for parts in bars.values()])
        axes.bar(place, values, bottom=np.where(values >= 0, above, below), width=0.6, color=f"C{number}", label=part)
        above += np.maximum(values, 0)
        below += np.minimum(values, 0)
    axes.set_xticks(place, list(bars))
    axes.set_xlim(-0.75, len(bars) - 0.25)
    axes.axhline(0.0, color="gray", linewidth=0.8)
    axes.set_ylabel(ylabel)
    axes.legend()
