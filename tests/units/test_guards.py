"""Each guard stops the fault it is there for, with one line, and lets sound labels pass."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from audiossl.data.audio import OVERSHOOT
from audiossl.units import guards
from audiossl.units.guards import (
    LabelGuard,
    check_lengths,
    check_same_codebook,
    check_units,
    check_usage,
    empty_or_constant,
)
from audiossl.units.labels import UnitsCard, labels_path, write_card

CARD = UnitsCard("mfcc", "", 0, "", 100.0, "a" * 64, 4, 3, 300, 0)


def fail(line):
    pytest.fail(f"nothing is to be logged: {line}")


@pytest.fixture
def units(tmp_path):
    """Three utterances of a second, 98 labels each, of a codebook of four."""
    rng = np.random.default_rng(0)
    (tmp_path / "units").mkdir()
    lines = [f"u{n} " + " ".join(map(str, rng.integers(0, 4, 98))) + "\n" for n in range(3)]
    (tmp_path / "units/km").write_text("".join(lines))
    write_card(tmp_path, "km", CARD)
    return tmp_path


class Directory:
    """As much of a manifest as the guards look at."""

    def __init__(self, path, ids, durations):
        self.path, self.ids, self.durations = path, ids, np.asarray(durations, dtype=np.float64)

    def __len__(self):
        return len(self.ids)


@pytest.fixture
def directory(units):
    return Directory(units, ["u0", "u1", "u2"], np.ones(3))


def replace_line(directory, number, line):
    path = directory.path / "units/km"
    lines = path.read_text().splitlines()
    lines[number] = line
    path.write_text("\n".join(lines) + "\n")


def test_sound_units_pass(directory):
    counts = check_units(directory, "km", log=fail)
    text = (directory.path / "units/km").read_text()
    assert counts.tolist() == [
        sum(word == str(code) for line in text.splitlines() for word in line.split()[1:]) for code in range(4)
    ]


def test_labels_are_read_again_only_when_a_file_changed(directory, monkeypatch):
    reads = []
    read_labels = guards.read_labels
    monkeypatch.setattr(guards, "read_labels", lambda *a, **k: reads.append(1) or read_labels(*a, **k))
    first = check_units(directory, "km", log=fail)
    assert check_units(directory, "km", log=fail).tolist() == first.tolist()
    assert len(reads) == 1
    replace_line(directory, 1, "u1 " + "0 1 4 " * 33)
    with pytest.raises(ValueError, match="label 4"):
        check_units(directory, "km", log=fail)
    replace_line(directory, 1, "u1 " + "0 1 3 " * 33)
    assert check_units(directory, "km", log=fail).sum() == 98 + 99 + 98
    (directory.path / "utt2dur").write_text("u0 1\nu1 1\nu2 1\n")
    check_units(directory, "km", log=fail)
    assert len(reads) == 4


def test_labels_that_were_read_before_are_judged_again(directory):
    replace_line(directory, 1, "u1 " + "3 " * 98)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"1 of 3 utterances have no label or only one \(such as 'u1'\)"):
            check_units(directory, "km", log=fail)


@pytest.mark.parametrize(
    ("labels", "sound"), [(100, True), (98, True), (97, True), (103, True), (96, False), (104, False), (50, False)]
)
def test_lengths(labels, sound):
    arguments = ("units/km", ["u"], np.array([labels]), np.array([1.0]))
    if sound:
        check_lengths(*arguments, rate=100)
    else:
        with pytest.raises(ValueError, match=f"'u' has {labels} labels; 1.000 s at 100 Hz should give about 100"):
            check_lengths(*arguments, rate=100)


@pytest.mark.parametrize("samples", range(400, 3000, 37))
def test_a_whole_window_framing_passes_at_every_length(samples):
    lengths = np.array([(samples - 400) // 160 + 1])
    seconds = samples / 16000
    check_lengths("units/km", ["u"], lengths, np.array([round(seconds, 2)]), rate=100)
    check_lengths(
        "units/km", ["u"], lengths, np.array([seconds + OVERSHOOT]), rate=100
    )  # as validation and reading forgive


def test_lengths_of_compressed_audio_may_be_a_percent_off():
    check_lengths("units/km", ["u"], np.array([9910]), np.array([100.0]), rate=100)


def test_rate_in_the_card_is_wrong(directory):
    write_card(directory.path, "km", dataclasses.replace(CARD, rate=50.0))
    with pytest.raises(ValueError, match="units/km: 'u0' has 98 labels; 1.000 s at 50 Hz should give about 50"):
        check_units(directory, "km", log=fail)


def test_label_beyond_the_codebook(directory):
    replace_line(directory, 1, "u1 " + "0 1 4 " * 33)
    with pytest.raises(ValueError, match=r"units/km:2: 'u1': label 4 is not in the codebook of 4"):
        check_units(directory, "km", log=fail)


def test_label_is_no_number(directory):
    replace_line(directory, 2, "u2 0 x 1")
    with pytest.raises(ValueError, match=r"units/km:3: 'u2': a label is not a whole number"):
        check_units(directory, "km", log=fail)


def test_all_labels_are_one(directory):
    for n in range(3):
        replace_line(directory, n, f"u{n} " + "2 " * 98)
    with pytest.raises(ValueError, match="all 294 labels are 2; a model would learn nothing"):
        check_units(directory, "km", log=fail)


def test_no_labels_at_all():
    with pytest.raises(ValueError, match="there is no label at all"):
        check_usage(np.zeros(5, dtype=np.int64), "units/km", log=fail)


def test_unused_codes():
    counts = np.full(100, 1000)
    counts[:20] = 0
    lines = []
    check_usage(counts, "units/km", log=lines.append)
    assert lines == ["warning: units/km: 20 of 100 codes are never used"]
    counts[20] = 0
    with pytest.raises(ValueError, match="units/km: 21 of 100 codes are never used; fit"):
        check_usage(counts, "units/km", log=fail)


def test_few_labels_say_nothing_of_unused_codes():
    counts = np.zeros(100, dtype=np.int64)
    counts[:10] = 99
    check_usage(counts, "units/km", log=fail)


def test_empty_or_constant_is_a_loop_over_utterances():
    rng = np.random.default_rng(0)
    parts = [rng.integers(0, 2, n) for n in rng.integers(0, 14, 300)]
    parts += [np.full(n, 1) for n in (1, 9, 10, 50)] + [np.zeros(0, dtype=np.int64)]
    lengths = np.array([len(part) for part in parts])
    expected = [len(part) == 0 or (len(part) >= 10 and len(set(part.tolist())) == 1) for part in parts]
    assert empty_or_constant(np.concatenate(parts), lengths).tolist() == expected
    assert empty_or_constant(np.zeros(0, dtype=np.int64), np.zeros(2, dtype=np.int64)).tolist() == [True, True]


@pytest.mark.parametrize("labels", ["0 x 1", "0 1-2  3", "0 1.0 1", "0 0x1 1", "1e1", "0 -1 1"])
def test_label_that_only_begins_like_a_number(directory, labels):
    replace_line(directory, 2, f"u2 {labels}")
    with pytest.raises(ValueError, match=r"units/km:3: 'u2': (a label is not a whole number|label -1 is not in)"):
        check_units(directory, "km", log=fail)


@pytest.mark.parametrize("flat", ["u1 " + "3 " * 98, "u1"])
def test_constant_or_empty_utterances(directory, flat):
    if flat == "u1":
        directory.durations[1] = 0.02
    replace_line(directory, 1, flat)
    with pytest.raises(ValueError, match=r"units/km: 1 of 3 utterances have no label or only one \(such as 'u1'\)"):
        check_units(directory, "km", log=fail)


def test_a_few_constant_utterances_are_a_warning():
    lines = []
    guard = LabelGuard("units/km", rate=100, size=2, log=lines.append)
    labels = np.tile([0, 1], 50)
    for number in range(20):
        guard.add([f"u{number}"], labels if number else np.zeros(100, dtype=np.int64), np.array([100]), np.ones(1))
    guard.finish()
    assert lines == ["warning: units/km: 1 of 20 utterances have no label or only one (such as 'u0')"]


def test_utterance_without_labels(directory):
    longer = Directory(directory.path, [*directory.ids, "u3"], np.ones(4))
    with pytest.raises(ValueError, match="labels of 3 utterances, but .* has 4"):
        check_units(longer, "km", log=fail)
    write_card(directory.path, "km", dataclasses.replace(CARD, left_out=1))
    check_units(longer, "km", log=fail)


def test_labels_of_an_unknown_utterance(directory):
    shorter = Directory(directory.path, ["u0", "u2"], np.ones(2))
    with pytest.raises(ValueError, match=r"units/km:2: 'u1' is not in"):
        check_units(shorter, "km", log=fail)


def test_train_and_dev_of_two_codebooks(tmp_path):
    train, dev = (Directory(tmp_path / name, [], []) for name in ("train", "dev"))
    for part, codebook in ((train, "a" * 64), (dev, "b" * 64)):
        (part.path / "units").mkdir(parents=True)
        write_card(part.path, "km", dataclasses.replace(CARD, codebook_hash=codebook))
    check_same_codebook(train, train, "km")
    with pytest.raises(
        ValueError, match=r"dev/units/km: made by codebook bbbbbbbbbbbb, but those of .*train by aaaaaaaaaaaa"
    ):
        check_same_codebook(train, dev, "km")


def test_no_card(tmp_path):
    with pytest.raises(ValueError, match=r"km\.json: no such file; make it with `audiossl units apply`"):
        check_same_codebook(Directory(tmp_path, [], []), Directory(tmp_path, [], []), "km")


@pytest.mark.parametrize("name", ["", "../km", "a/b", ".km", "km.json", "km 100"])
def test_names(name, tmp_path):
    with pytest.raises(ValueError, match="units name"):
        labels_path(tmp_path, name)
