"""Phone-normalised mutual information of discovered units."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from audiossl.metrics._contingency import checked_counts, entropy

if TYPE_CHECKING:
    from numpy import ndarray


def pnmi(counts: ndarray) -> float:
    """Share of the uncertainty about the phone that its unit takes away (Hsu et al., 2021, section IV-E).

    counts: (phone, unit), frames. Returns I(phone; unit) / H(phone), in [0, 1]; nan where only one phone occurs, for
    there is nothing to tell apart.
    """
    table = checked_counts(counts)
    phones, units = table.sum(axis=1), table.sum(axis=0)
    phone_entropy = entropy(phones)
    if phone_entropy == 0:
        return float("nan")
    information = phone_entropy + entropy(units) - entropy(table)
    return float(np.clip(information / phone_entropy, 0.0, 1.0))
