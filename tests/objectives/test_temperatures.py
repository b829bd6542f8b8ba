"""No objective takes a temperature of 0: a run with one would stop in its first step, a folder later."""

from dataclasses import fields

import pytest

from audiossl import registry
from audiossl.objectives.combined import Combined

CONFIGS = {name: getattr(registry.get("objectives", name), "Config", None) for name in registry.names("objectives")}
TEMPERATURES = [
    (name, item.name)
    for name, config in CONFIGS.items()
    if config is not None
    for item in fields(config)
    if item.name.endswith("temperature") and isinstance(item.default, float)
]


def test_the_contrastive_ones_are_here():
    assert {"simclr", "moco", "ssps", "cpc", "swav", "deepcluster", "dino", "wav2vec2"} <= {n for n, _ in TEMPERATURES}


@pytest.mark.parametrize(("name", "temperature"), TEMPERATURES)
@pytest.mark.parametrize("value", [0.0, -0.1])
def test_a_temperature_of_zero_or_less_is_refused(name, temperature, value):
    with pytest.raises(ValueError, match=rf"^objective\.{temperature}: {value} is not positive$"):
        CONFIGS[name](**{temperature: value})


def test_of_a_term_too():
    with pytest.raises(ValueError, match=r"^objective\.y\.info_nce\.temperature: 0 is not positive$"):
        Combined.Config(y={"info_nce": {"temperature": 0}})
