"""Quality against a loop over labels that asks the alignment for each one's phone."""

from __future__ import annotations

import codecs
import dataclasses
import math
from collections import Counter

import numpy as np
import pytest

from audiossl.units.labels import UnitsCard, write_card
from audiossl.units.quality import measure

CARD = UnitsCard("mfcc", "", 0, "", 100.0, "a" * 64, 6, 3, 300, 0)


@pytest.fixture
def folder(tmp_path):
    """u1 has gaps between phones, u2 is not aligned, u4 is aligned but has no units; the alignment of u3 ends early."""
    rng = np.random.default_rng(0)
    (tmp_path / "units").mkdir()
    write_card(tmp_path, "km", CARD)
    lines = [f"u{n} " + " ".join(map(str, rng.integers(0, 5, 98))) for n in (1, 2, 3)]
    (tmp_path / "units/km").write_text("\n".join(lines) + "\n")
    rows = [f"u1 1 {0.137 * n:.3f} {0.1 + 0.037 * (n % 2):.3f} {'abc'[n % 3]}" for n in range(7)]
    rows += [f"u3 1 {0.05 * n:.2f} 0.05 {'bcd'[n % 3]} 0.9" for n in range(12)]
    rows += ["u4 1 0.0 1.0 z"]
    (tmp_path / "phones.ctm").write_text("\n".join(rows) + "\n")
    return tmp_path


def slow_pairs(folder):
    alignment = [line.split() for line in (folder / "phones.ctm").read_text().splitlines()]
    for line in (folder / "units/km").read_text().splitlines():
        utterance, *labels = line.split()
        for index, label in enumerate(labels):
            middle = (index + 0.5) / 100
            for name, _, start, duration, phone, *_ in alignment:
                if name == utterance and float(start) <= middle < float(start) + float(duration):
                    yield phone, int(label)


def test_phone_match(folder):
    _, match = measure(folder, "km")
    pairs = list(slow_pairs(folder))
    joint, total = Counter(pairs), len(pairs)
    phones, units = Counter(p for p, _ in pairs), Counter(u for _, u in pairs)
    information = sum(n / total * math.log(n * total / (phones[p] * units[u])) for (p, u), n in joint.items())
    assert match.frames == total
    assert (match.phones, match.utterances) == (4, 2)
    assert match.phone_purity == pytest.approx(sum(max(joint[p, u] for p in phones) for u in units) / total)
    assert match.cluster_purity == pytest.approx(sum(max(joint[p, u] for u in units) for p in phones) / total)
    assert match.pnmi == pytest.approx(information / -sum(n / total * math.log(n / total) for n in phones.values()))


def test_code_use(folder):
    use, _ = measure(folder, "km")
    counts = Counter(label for line in (folder / "units/km").read_text().splitlines() for label in line.split()[1:])
    entropy = -sum(n / 294 * math.log2(n / 294) for n in counts.values())
    assert use.entropy == pytest.approx(entropy)
    assert dataclasses.astuple(use) == (6, 5, use.entropy, pytest.approx(2**entropy), 3, 294)


def test_units_that_are_the_phones(folder):
    """Perfect units score 1."""
    for path in (folder / "units/km", folder / "phones.ctm"):
        path.unlink()
    labels = np.repeat([0, 3, 1, 3], 10)
    (folder / "units/km").write_text("u1 " + " ".join(map(str, labels)) + "\n")
    (folder / "phones.ctm").write_text("u1 1 0 0.1 x\nu1 1 0.1 0.1 y\nu1 1 0.2 0.1 z\nu1 1 0.3 0.1 y\n")
    _, match = measure(folder, "km")
    assert (match.phone_purity, match.cluster_purity, match.pnmi) == (1.0, 1.0, pytest.approx(1.0))


def test_without_an_alignment(folder):
    (folder / "phones.ctm").unlink()
    use, match = measure(folder, "km")
    assert match is None
    assert use.labels == 294


@pytest.mark.parametrize("row", ["u1 1 0.0 0.1", "u1 1 zero 0.1 a", "u1 1 0.0 nan a", "u1"])
def test_malformed_alignment(folder, row):
    path = folder / "phones.ctm"
    path.write_text(path.read_text().replace("u1 1 0.137", f"{row}\nu1 1 0.137"))
    with pytest.raises(ValueError, match=r"phones\.ctm:2: .*write `utterance 1 start duration phone`"):
        measure(folder, "km")


def test_a_mark_and_an_empty_line_of_an_alignment(folder):
    _, match = measure(folder, "km")
    path = folder / "phones.ctm"
    path.write_bytes(codecs.BOM_UTF8 + path.read_bytes())
    assert measure(folder, "km")[1] == match
    path.write_text("\n" + path.read_text(encoding="utf-8-sig"))
    with pytest.raises(ValueError, match=r"phones\.ctm:1: an empty line; run `audiossl data fix"):
        measure(folder, "km")


def test_alignment_out_of_order(folder):
    path = folder / "phones.ctm"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[7:] + lines[:7]) + "\n")
    with pytest.raises(ValueError, match=r"phones\.ctm:14: 'u1' is not in order"):
        measure(folder, "km")


def test_units_out_of_order(folder):
    path = folder / "units/km"
    path.write_text("".join(f"{line}\n" for line in path.read_text().splitlines()[::-1]))
    with pytest.raises(ValueError, match=r"units/km:2: 'u2' is not in order"):
        measure(folder, "km")


def test_alignment_of_other_utterances(folder):
    path = folder / "phones.ctm"
    path.write_text("other 1 0.0 1.0 a\n")
    with pytest.raises(ValueError, match="no phone lies under a label"):
        measure(folder, "km")
