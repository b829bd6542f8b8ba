"""Figures: what is drawn is what was given, on light and on dark ground."""

from __future__ import annotations

import io

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from audiossl.diagnostics import figures
from audiossl.diagnostics.curves import Curve
from audiossl.diagnostics.figures import Utterance


def test_thinned_curve_keeps_mean_and_ends():
    curve = Curve(np.arange(1.0, 10_001.0), np.linspace(4, 2, 10_000))
    thin = curve.thinned()
    assert len(thin.steps) == 400
    assert thin.values.mean() == pytest.approx(3.0)
    np.testing.assert_allclose(thin.values[0], curve.values[:25].mean())
    assert curve.steps[0] <= thin.steps[0] < thin.steps[-1] <= curve.steps[-1]
    short = Curve(np.arange(5.0), np.arange(5.0))
    assert short.thinned() is short


def test_losses_give_each_experiment_a_colour_and_each_kind_a_style():
    figure = Figure()
    curve = Curve(np.array([1.0, 2.0]), np.array([3.0, 2.5]))
    figures.draw_losses(figure, {"a": {"train": curve, "dev": curve}, "b": {"train": curve}})
    lines = {line.get_label(): line for line in figure.axes[0].get_lines()}
    assert set(lines) == {"a, train", "a, dev", "b, train"}
    assert lines["a, train"].get_color() == lines["a, dev"].get_color() != lines["b, train"].get_color()
    assert lines["a, dev"].get_linestyle() == "--"
    np.testing.assert_array_equal(lines["a, train"].get_ydata(), curve.values)


def test_units_are_sorted_and_described():
    figure = Figure()
    figures.draw_units(figure, np.array([1, 0, 4, 4, 0, 7]))
    axes = figure.axes[0]
    heights = [patch.get_height() for patch in axes.patches]
    np.testing.assert_allclose(heights, 100 * np.array([7, 4, 4, 1]) / 16)
    share = np.array([7, 4, 4, 1]) / 16
    assert axes.get_title(loc="left") == f"4 of 6 units in use, perplexity {np.prod(share**-share):.1f}"


def test_utterance_runs_and_phones_stand_where_they_were():
    figure = Figure()
    units = np.repeat([3, 12, 7], [20, 60, 20])
    phones = [(0.0, 0.5, "SIL"), (0.5, 1.5, "aː")]
    figures.draw_utterance(figure, Utterance("u", np.random.default_rng(0).random((200, 80)), 2.0, units, 50.0, phones))
    _, codes, spoken = figure.axes
    assert [(text.get_text(), text.get_position()[0]) for text in codes.texts] == [("3", 0.2), ("12", 1.0), ("7", 1.8)]
    assert [(text.get_text(), text.get_position()[0]) for text in spoken.texts] == [("SIL", 0.25), ("aː", 1.25)]
    assert codes.get_images()[0].get_extent() == [0.0, 2.0, 0.0, 1.0]


def test_pictures_come_on_light_and_dark_ground_and_always_the_same():
    def draw(figure):
        figures.draw_layer_weights(figure, {"a": np.array([0.2, 0.5, 0.3])})

    picture = figures.render(draw, size=(3, 2))
    light, dark = (imread(io.BytesIO(png))[..., :3] for png in (picture.light, picture.dark))
    assert light[0, 0].min() > 0.9
    assert dark[0, 0].max() < 0.2
    assert figures.render(draw, size=(3, 2)) == picture


def test_names_in_a_legend_are_as_they_are_written():
    figure, names = Figure(), ["_m.py:Mine", "a$x^$.py:Mine", "one$"]
    figures.draw_layer_weights(figure, {name: np.array([0.5, 0.5]) for name in names})
    figure.canvas.draw()
    texts = figure.axes[0].get_legend().get_texts()
    assert [text.get_text().replace("\\$", "$") for text in texts] == names


def test_a_formula_in_a_name_stops_no_picture():
    def draw(figure):
        figures.draw_layer_weights(figure, {"a$x^$.py:Mine": np.array([0.2, 0.8])})

    assert figures.render(draw, size=(3, 2)).light.startswith(b"\x89PNG")
