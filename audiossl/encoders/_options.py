"""What every encoder asks of its options, whatever these are."""

from __future__ import annotations

import math
from typing import Any, get_type_hints


def check_options(config: Any, **least: int) -> None:
    """Raise ValueError for a number in an encoder's Config that means nothing.

    Whole numbers are sizes, from 1 or from what `least` says on. Others are from 0 on, and not above 1 where they are dropouts.
    """
    for name, hint in get_type_hints(type(config)).items():
        value = getattr(config, name)
        if hint is int and value < (floor := least.get(name, 1)):
            raise ValueError(f"encoder.{name}: {value} is too small; give at least {floor}")
        if hint is float and "drop" in name and not 0 <= value <= 1:
            raise ValueError(f"encoder.{name}: {value} is not between 0 and 1; give 0 for none")
        if hint is float and not 0 <= value < math.inf:
            raise ValueError(f"encoder.{name}: {value} is negative, or not finite; give 0 or more")
