"""What a report shows of a data directory: how often its units occur, and one utterance with units and phones."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

import numpy as np

from audiossl.data.json_files import read_json
from audiossl.diagnostics.figures import Utterance

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_SAMPLE_RATE = 16_000
_PHONES = "phones.ctm"


def unit_counts(data: Path, units: str) -> np.ndarray:
    """How often each unit of the codebook occurs: (unit,) int64. ValueError names what is missing or malformed."""
    from audiossl.data.kaldi import read_table

    path = data / "units" / units
    size = int(_fact(data, units, "codebook_size"))
    if not path.is_file():
        raise ValueError(f"{path}: no such units; make them with `audiossl units apply`")
    counts = np.zeros(size, dtype=np.int64)
    for line, utterance, value in read_table(path):
        labels = _labels(value, f"{path}:{line}: {utterance}")
        if labels.size and labels.max() >= size:
            raise ValueError(
                f"{path}:{line}: {utterance}: unit {labels.max()} is not below {size}; make the units again"
            )
        counts += np.bincount(labels, minlength=size)
    if not counts.any():
        raise ValueError(f"{path}: holds no units; make them with `audiossl units apply`")
    return counts


def utterance_to_show(data: Path, units: str, utterance: str = "") -> tuple[Utterance, list[str]]:
    """Return an utterance (the first one where none is named) with its spectrogram, and a line for what it lacks."""
    import torch

    from audiossl.data.manifest import Manifest
    from audiossl.nn.features import fbank

    manifest = Manifest.open(data)
    index = _index(manifest.ids, utterance, data) if utterance else 0
    name = manifest.ids[index]
    labels = _labels(manifest.column(f"units/{units}")[index], f"{data / 'units' / units}: {name}")
    if not labels.size:
        raise ValueError(f"{data / 'units' / units}: {name} has no labels; choose another --utterance")
    waveform = torch.from_numpy(manifest.audio(index, sample_rate=_SAMPLE_RATE))
    energies, _ = fbank(waveform[None], torch.tensor([len(waveform)]))
    phones = _phones(data / _PHONES, name)
    missing = [] if phones else [f"{data / _PHONES} has no phones of {name}; the picture is without them"]
    seconds = len(waveform) / _SAMPLE_RATE
    return Utterance(name, energies[0].numpy(), seconds, labels, _fact(data, units, "rate"), phones), missing


def _index(ids: Sequence[str], utterance: str, data: Path) -> int:
    place = bisect_left(ids, utterance)
    if place == len(ids) or ids[place] != utterance:
        raise ValueError(f"{data}: has no utterance {utterance!r}; choose another --utterance")
    return place


def _fact(data: Path, units: str, key: str) -> float:
    """Read a positive number from the description of the units."""
    path = data / "units" / f"{units}.json"
    found = read_json(path)
    value = found.get(key) if isinstance(found, dict) else None
    if not isinstance(value, int | float) or value <= 0:
        raise ValueError(f"{path}: does not say {key!r}; make the units again")
    return value


def _labels(text: str, where: str) -> np.ndarray:
    try:
        labels = np.array(text.split(), dtype=np.int64)
    except ValueError:
        raise ValueError(f"{where}: not whole numbers; make the units again") from None
    if labels.size and labels.min() < 0:
        raise ValueError(f"{where}: has a negative unit; make the units again")
    return labels


def _phones(path: Path, utterance: str) -> list[tuple[float, float, str]]:
    """Read the phones of one utterance, none where the file or the utterance is missing."""
    if not path.is_file():
        return []
    found = []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            name, *rest = line.split() or [""]
            if name != utterance:
                continue
            try:
                _, start, duration, phone = rest
                found.append((float(start), float(duration), phone))
            except ValueError:
                raise ValueError(
                    f"{path}:{number}: not `utterance 1 start duration phone`; run `audiossl data validate` on the directory"
                ) from None
    return found
