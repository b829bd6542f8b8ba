"""Probes of each layer alone: what a probe reads is one layer, held once."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from audiossl.diagnostics.analyses import probes
from audiossl.diagnostics.linear_probe import Split


def test_a_layer_is_copied_once_for_all_splits(tmp_path, monkeypatch):
    mapped = np.lib.format.open_memmap(tmp_path / "features.npy", "w+", np.float32, (9, 3, 4))
    mapped[:] = np.arange(mapped.size).reshape(mapped.shape)
    splits = [Split(mapped, np.arange(part, 9, 3), np.arange(3)) for part in range(3)]
    monkeypatch.setattr(probes, "train_probe", lambda *parts, **_: parts)
    found = probes.probe_layers(SimpleNamespace(num_layers=3, probe=None, device="cpu"), splits, 3)
    for layer, parts in enumerate(found):
        assert parts[0].features is parts[1].features is parts[2].features
        assert parts[0].features.flags.c_contiguous
        for part, split in zip(parts, splits, strict=True):
            np.testing.assert_array_equal(part.gather(np.arange(3)), mapped[split.rows, layer : layer + 1])
