"""Every metric is called by the names of its arguments."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

from audiossl import registry

TRIALS = {"scores": np.array([0.1, 0.9, 0.4, 0.6, 0.2]), "labels": np.array([0, 1, 1, 0, 0])}
OF_TRIALS = [
    n for n in registry.names("metrics") if {*TRIALS} <= {*inspect.signature(registry.get("metrics", n)).parameters}
]


@pytest.mark.parametrize("name", registry.names("metrics"))
def test_arguments_have_names(name):
    parameters = inspect.signature(registry.get("metrics", name)).parameters.values()
    assert [p.name for p in parameters if p.kind is p.POSITIONAL_ONLY] == []


@pytest.mark.parametrize("name", OF_TRIALS)
def test_names_of_trials_do_what_positions_do(name):
    metric, options = registry.get("metrics", name), {}
    if "term_weighted" in name:
        options = {"queries": np.zeros(5, int)}
    if name == "term_weighted_value":
        options |= {"threshold": 0.5}
    assert metric(**TRIALS, **options) == metric(TRIALS["scores"], TRIALS["labels"], **options)
    assert metric(labels=TRIALS["labels"], scores=TRIALS["scores"], **options) == metric(**TRIALS, **options)


def test_options_of_trials_go_by_name():
    metric = registry.get("metrics", "equal_error_rate")
    assert metric(**TRIALS, convention="max") == metric(*TRIALS.values(), convention="max")
