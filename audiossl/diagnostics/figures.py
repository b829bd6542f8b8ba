"""Plots of a report: each drawn twice, for a light and a dark page, as PNG."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from audiossl.diagnostics.curves import Curve, Curves

# Colours that the colour-blind can tell apart (Okabe and Ito, 2008); lighter ones of the same hues on dark ground.
_LIGHT = {"ground": "#ffffff", "ink": "#24292f", "faint": "#d8dee4"}
_LIGHT_CYCLE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8c6d00", "#3a86c8")
_DARK = {"ground": "#161b22", "ink": "#d8dee4", "faint": "#363d47"}
_REFERENCE = "#8f959d"  # to be seen on either ground, and behind the others
_DARK_CYCLE = ("#5cb8f0", "#ff9a4d", "#3fd3a2", "#eca6cc", "#f0d44c", "#a5b4ff")


@dataclass(frozen=True)
class Picture:
    """One plot as PNG bytes, for light and for dark pages."""

    light: bytes
    dark: bytes


@dataclass(frozen=True)
class Utterance:
    """What is shown of one utterance.

    log_mel: (frame, mel) at 100 Hz. seconds: its duration. units: (label,) codes, `rate` a second from its start. phones:
    (start, duration, phone), seconds.
    """

    name: str
    log_mel: np.ndarray
    seconds: float
    units: np.ndarray
    rate: float
    phones: list[tuple[float, float, str]]


def render(draw: Callable[[Figure], None], *, size: tuple[float, float] = (9.0, 3.6)) -> Picture:
    """Draw on a figure of `size` inches, once per page colour."""
    return Picture(_png(draw, size, _LIGHT, _LIGHT_CYCLE), _png(draw, size, _DARK, _DARK_CYCLE))


def draw_losses(figure: Figure, curves: Mapping[str, Mapping[str, Curve]]) -> None:
    """Loss over steps, one colour per experiment: train as a line, dev as a dashed one with markers.

    curves: experiment -> kind (`train`, `dev`) -> curve.
    """
    axes = figure.subplots()
    for number, (experiment, kinds) in enumerate(curves.items()):
        for kind, curve in kinds.items():
            style = {"linestyle": "--", "marker": "o", "markersize": 4} if kind == "dev" else {"linewidth": 1.4}
            thin = curve.thinned()
            axes.plot(thin.steps, thin.values, color=f"C{number % 6}", label=f"{experiment}, {kind}", **style)
    axes.set(xlabel="step", ylabel="loss")
    axes.margins(x=0.01)
    axes.legend(ncols=2 if len(curves) > 3 else 1)


def draw_metrics(figure: Figure, runs: Mapping[str, Curves], references: Mapping[str, Curves]) -> None:
    """Draw a panel per metric of any run, one colour per run, over references in grey; train as lines, dev dashed."""
    names = list(dict.fromkeys(name for metrics in runs.values() for name in metrics))
    panels = figure.subplots(-(-len(names) // 2), 2, squeeze=False).flatten()
    for axes, name in zip(panels, names, strict=False):
        for label, metrics in references.items():
            _draw_kinds(axes, metrics.get(name, {}), label, color=_REFERENCE, linewidth=2.6)
        for number, (label, metrics) in enumerate(runs.items()):
            _draw_kinds(axes, metrics.get(name, {}), label, color=f"C{number % 6}", linewidth=1.2)
        axes.set_title(name.replace("_", " "), loc="left")
        axes.margins(x=0.01)
    for axes in panels[len(names) :]:
        axes.remove()
    lines = {line.get_label(): line for axes in panels[: len(names)] for line in axes.get_lines()}
    figure.supxlabel("step", size=9)
    figure.legend(lines.values(), lines.keys(), loc="outside upper left", ncols=2)


def _draw_kinds(axes: Axes, kinds: Mapping[str, Curve], label: str, **style: Any) -> None:
    for kind, curve in kinds.items():
        thin = curve.thinned(100)  # as smooth as references are
        dev: dict[str, Any] = {"linestyle": "--", "marker": "o", "markersize": 4} if kind == "dev" else {}
        axes.plot(thin.steps, thin.values, label=f"{label}, {kind}", **style, **dev)


def draw_units(figure: Figure, counts: np.ndarray) -> None:
    """How often each unit occurs, commonest first, on a logarithmic scale. counts: (unit,)."""
    axes = figure.subplots()
    used = np.sort(counts)[::-1]
    used = used[used > 0]
    share = used / used.sum()
    perplexity = np.exp(-np.sum(share * np.log(share)))
    axes.bar(np.arange(len(used)), 100 * share, width=1.0, color="C0", linewidth=0)
    # What a codebook that uses all units alike would show.
    axes.axhline(
        100 / len(counts), color="C1", linewidth=1.2, linestyle="--", label=f"uniform: {100 / len(counts):.3g} %"
    )
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set(xlabel="units, commonest first", ylabel="% of frames", xlim=(-0.5, len(counts) - 0.5))
    axes.set_title(f"{len(used)} of {len(counts)} units in use, perplexity {perplexity:.1f}", loc="left")
    axes.legend()


def draw_layer_weights(figure: Figure, weights: Mapping[str, np.ndarray]) -> None:
    """Softmax weights over layers, one line per probe; layer 0 is the input of the first block."""
    axes = figure.subplots()
    lines = [
        axes.plot(np.arange(len(values)), values, color=f"C{number % 6}", marker="o", markersize=5)[0]
        for number, values in enumerate(weights.values())
    ]
    longest = max(len(values) for values in weights.values())
    axes.set_xticks(np.arange(0, longest, 1 if longest <= 26 else 4))
    axes.set(xlabel="layer (0: input of the first block)", ylabel="weight")
    axes.set_ylim(bottom=0)
    # Given, not found: matplotlib passes over labels that begin with `_`, and takes what is between two `$` for a formula.
    axes.legend(lines, [name.replace("$", r"\$") for name in weights])


def draw_label_fractions(figure: Figure, curves: Mapping[str, np.ndarray]) -> None:
    """Accuracy over the share of the training labels, one line per probe, with its deviation over seeds.

    curves: probe -> (fraction, 3): share of the labels up to 1, accuracy and deviation in percent.
    """
    axes = figure.subplots()
    for number, (name, rows) in enumerate(curves.items()):
        shares, accuracies, deviations = rows.T
        style: dict[str, Any] = {"marker": "o", "markersize": 5, "capsize": 3, "label": name}
        axes.errorbar(100 * shares, accuracies, deviations, color=f"C{number % 6}", **style)
    axes.set_xscale("log")
    ticks = np.unique(np.concatenate([100 * rows[:, 0] for rows in curves.values()]))
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set(xlabel="training labels, %", ylabel="test accuracy, %")
    axes.legend()


def draw_utterance(figure: Figure, utterance: Utterance) -> None:
    """Spectrogram, units and phones of one utterance, one above the other on one time axis."""
    spectrogram, units, phones = figure.subplots(
        3, 1, sharex=True, gridspec_kw={"height_ratios": (6, 1, 1), "hspace": 0.06}
    )
    extent = (0.0, len(utterance.log_mel) / 100, 0.0, float(utterance.log_mel.shape[1]))
    low, high = np.percentile(utterance.log_mel, (5, 99.5))
    spectrogram.imshow(
        utterance.log_mel.T, origin="lower", aspect="auto", extent=extent, cmap="magma", vmin=low, vmax=high
    )
    spectrogram.set_ylabel("mel band")
    spectrogram.set_title(utterance.name, loc="left")
    _draw_codes(units, utterance)
    _draw_phones(phones, utterance)
    for start, _, _ in utterance.phones:
        spectrogram.axvline(start, color="white", linewidth=0.6, alpha=0.55)
        units.axvline(start, color="white", linewidth=1.0)
    for axes in (spectrogram, units, phones):
        axes.grid(visible=False)
        axes.set_xlim(0, utterance.seconds)
        axes.tick_params(bottom=axes is phones)
    phones.set_xlabel("seconds")


def _draw_codes(axes: Axes, utterance: Utterance) -> None:
    from matplotlib.colors import hsv_to_rgb
    from matplotlib.patheffects import withStroke

    codes = utterance.units
    # Steps of the golden ratio: numbers that are close get hues that are not.
    hue = (codes * 0.61803398875) % 1.0
    value = 0.72 + 0.2 * ((codes * 0.41421356237) % 1.0)
    colours = hsv_to_rgb(np.stack([hue, np.full(len(codes), 0.55), value], axis=-1))
    axes.imshow(
        colours[None], aspect="auto", extent=(0.0, len(codes) / utterance.rate, 0.0, 1.0), interpolation="nearest"
    )
    edges = np.flatnonzero(np.diff(codes)) + 1
    starts, ends = np.concatenate([[0], edges]), np.concatenate([edges, [len(codes)]])
    for start, end in zip(starts / utterance.rate, ends / utterance.rate, strict=True):
        code = int(start * utterance.rate + 0.5)
        # Digits need room: about a hundredth of the width each.
        if (end - start) / utterance.seconds > 0.008 * len(str(codes[code])):
            outline = withStroke(linewidth=2.5, foreground=colours[code])  # phone boundaries run behind the number
            axes.text(
                (start + end) / 2, 0.5, str(codes[code]),
                ha="center", va="center", size=7, color="#111111", path_effects=[outline],
            )  # fmt: skip
    axes.set_yticks([])
    axes.set_ylabel("units", rotation=0, ha="right", va="center")


def _draw_phones(axes: Axes, utterance: Utterance) -> None:
    for number, (start, duration, phone) in enumerate(utterance.phones):
        axes.axvspan(start, start + duration, color="C0", alpha=0.16 if number % 2 else 0.34, linewidth=0)
        if duration / utterance.seconds > 0.006 * len(phone):
            axes.text(start + duration / 2, 0.5, phone, ha="center", va="center", size=8)
    axes.set_ylim(0, 1)
    axes.set_yticks([])
    axes.set_ylabel("phones", rotation=0, ha="right", va="center")


def _png(
    draw: Callable[[Figure], None], size: tuple[float, float], colours: dict[str, str], cycle: tuple[str, ...]
) -> bytes:
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with mpl.rc_context(_style(colours, cycle)):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        draw(figure)
        content = io.BytesIO()
        # Without the date and version of the library, the same data gives the same bytes.
        figure.savefig(content, format="png", dpi=160, metadata={"Software": None})
    return content.getvalue()


def _style(colours: dict[str, str], cycle: tuple[str, ...]) -> Any:
    from cycler import cycler

    ink, ground, faint = colours["ink"], colours["ground"], colours["faint"]
    return {
        "axes.prop_cycle": cycler(color=cycle),
        "figure.facecolor": ground,
        "axes.facecolor": ground,
        "savefig.facecolor": ground,
        "text.color": ink,
        "axes.labelcolor": ink,
        "axes.edgecolor": faint,
        "xtick.color": ink,
        "ytick.color": ink,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": faint,
        "grid.linewidth": 0.6,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": 10,
        "font.size": 9,
        "legend.frameon": False,
        "lines.linewidth": 1.6,
    }
