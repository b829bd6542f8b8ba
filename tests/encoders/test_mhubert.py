from __future__ import annotations

from dataclasses import replace

import pytest

from audiossl.encoders.mhubert import MHuBERT


def test_it_has_one_convolution_for_positions():
    with pytest.raises(ValueError, match="position_depth: 3"):
        MHuBERT(replace(MHuBERT.Config.tiny(), position_depth=3))
