from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from audiossl import registry
from audiossl.data.audio import write_audio
from audiossl.data.manifest import Manifest
from audiossl.data.validate import faults
from audiossl.units.guards import check_same_codebook
from audiossl.units.import_codes import CodesFile, CodesFormat, import_codes
from audiossl.units.labels import read_card

manifests = registry.get("data_prep", "fairseq_manifests")
IDS = ["-one-a", "-one-b_b", "-two-a", "-two-c"]
UNITS = {"labels": ("km", "mfcc"), "label_rate": (50.0, 100.0)}


@pytest.fixture
def corpus(tmp_path):
    manifests.fake(tmp_path / "corpus")
    return tmp_path / "corpus"


def prepare(corpus, out, **settings):
    manifests.prepare(corpus, out, manifests.Config(**settings))
    return {path.name: Manifest.open(path) for path in sorted(out.iterdir())}


def rewrite(path, change):
    """Let `change` edit the list of a file's lines."""
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    change(lines)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def replaced(number, line):
    """An edit of line `number`, from 1."""

    def change(lines):
        lines[number - 1] = line

    return change


def one_recording(root, name, samples=16_000):
    """A manifest of one recording of that path."""
    (root / "audio" / name).parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).uniform(-0.1, 0.1, 16_000)
    write_audio(root / "noise.flac", noise, 16_000)
    (root / "noise.flac").rename(root / "audio" / name)
    (root / "train.tsv").write_text(f"{root / 'audio'}\n{name}\t{samples}\n", encoding="utf-8")


def test_everything_is_taken(corpus, tmp_path):
    made = prepare(corpus, tmp_path / "out", **UNITS)
    assert list(made) == ["train", "valid"]
    for split, manifest in made.items():
        assert list(manifest.ids) == [split + name for name in IDS]
        assert list(manifest.column("utt2spk")) == list(manifest.ids)
        assert [round(seconds, 6) for seconds in manifest.durations] == [0.6, 0.8, 1.0, 1.2]
        assert list(manifest.column("text")) == ["HE HOPED", "IT'S LATE", "STEW", "I AM"]
        for label in ("km", "mfcc"):
            expected = (corpus / f"{split}.{label}").read_text().splitlines()
            assert list(manifest.column(f"units/{label}")) == expected
        assert [str(fault) for fault in faults(manifest.path)] == []
    assert list(made["valid"].column("utt2phones"))[1] == "IH T S"
    assert "utt2phones" not in made["train"].column_names()
    card = read_card(tmp_path / "out" / "train", "mfcc")
    assert (card.feature, card.encoder, card.rate, card.codebook_size) == ("imported", "mfcc", 100.0, 8)
    assert (card.utterances, card.left_out) == (4, 0)
    assert card.labels == sum(len(labels.split()) for labels in made["train"].column("units/mfcc"))
    check_same_codebook(made["train"], made["valid"], "km")


def test_units_are_those_that_units_import_writes(corpus, tmp_path):
    made = prepare(corpus, tmp_path / "out", **UNITS)["valid"]
    units = tmp_path / "out" / "valid" / "units"
    before = [(units / name).read_bytes() for name in ("km", "km.json")]
    lines = (corpus / "valid.km").read_text().splitlines()
    arrays = {f"valid{name}": np.array(line.split(), np.int64) for name, line in zip(IDS, lines, strict=True)}
    np.savez(tmp_path / "codes.npz", **arrays)
    import_codes(made, CodesFile(tmp_path / "codes.npz"), "km", CodesFormat(50.0, 5, "km"), log=print)
    assert [(units / name).read_bytes() for name in ("km", "km.json")] == before


def test_the_order_is_that_of_ids_and_not_of_the_manifest(corpus, tmp_path):
    expected = list(prepare(corpus, tmp_path / "out", **UNITS)["train"].column("units/km"))
    for suffix in ("wrd", "km", "mfcc"):
        rewrite(corpus / f"train.{suffix}", list.reverse)
    rewrite(corpus / "train.tsv", lambda lines: lines.__setitem__(slice(1, None), lines[:0:-1]))
    again = prepare(corpus, tmp_path / "again", **UNITS)["train"]
    assert list(again.column("units/km")) == expected
    assert list(again.column("text")) == ["HE HOPED", "IT'S LATE", "STEW", "I AM"]


def test_words_before_letters_and_one_rate_for_all(corpus, tmp_path, caplog):
    shutil.copy(corpus / "train.wrd", corpus / "valid.wrd")
    rewrite(corpus / "valid.wrd", replaced(3, "STEWED"))
    (corpus / "valid.km").unlink()
    made = prepare(corpus, tmp_path / "out", labels=("km",), label_rate=50)
    assert list(made["valid"].column("text"))[2] == "STEWED"
    assert "units/km" in made["train"].column_names()
    assert "units/km" not in made["valid"].column_names()
    assert "valid.tsv: has no .km, so no units/km" in caplog.text
    assert "train.mfcc: not taken; give --prep.labels '[\"mfcc\"]'" in caplog.text


def test_root_and_labels_elsewhere(corpus, tmp_path):
    (corpus / "recordings").rename(tmp_path / "moved")
    (tmp_path / "labels").mkdir()
    for name in ("train.km", "valid.km", "dict.km.txt"):
        (corpus / name).rename(tmp_path / "labels" / name)
    with pytest.raises(ValueError, match=r"train.tsv:1: the root 'recordings' is no folder here; .* --prep.root"):
        prepare(corpus, tmp_path / "lost")
    with pytest.raises(ValueError, match="prep.root: nowhere is no folder here"):
        prepare(corpus, tmp_path / "lost", root=manifests.Path("nowhere"))
    with pytest.raises(ValueError, match="dict.km.txt: not found, so the number of units is not known; write it"):
        prepare(corpus, tmp_path / "lost", root=tmp_path / "moved", labels=("km",), label_rate=50)
    with pytest.raises(ValueError, match="prep.label_dir: nowhere is no folder"):
        prepare(corpus, tmp_path / "lost", label_dir=manifests.Path("nowhere"))
    settings = {"root": tmp_path / "moved", "label_dir": tmp_path / "labels", "labels": ("km",), "label_rate": 50}
    made = prepare(corpus, tmp_path / "out", splits=("train",), **settings)
    assert list(made) == ["train"]
    assert {"units/km", "text"} < set(made["train"].column_names())


@pytest.mark.parametrize(
    ("name", "utterance"),
    [
        ('a b/it\'s $HOME & "x"; `y`.flac', 'a_b-it\'s_$HOME_&_"x";_`y`'),
        ("two  spaces.flac", "two_spaces"),
        ("全角\u3000空白.flac", "全角_空白"),
        ("2020-01-01T10:20:30.flac", "2020-01-01T10:20:30"),
        ("a|b.c.flac", "a|b.c"),
        ("../audio/x.flac", "..-audio-x"),
        ("no suffix", "no_suffix"),
    ],
)
def test_names_of_all_kinds(tmp_path, name, utterance):
    one_recording(tmp_path, name)
    made = prepare(tmp_path, tmp_path / "out")["train"]
    assert list(made.ids) == [utterance]
    assert len(made.audio(0, sample_rate=16_000)) == 16_000
    assert [str(fault) for fault in faults(made.path)] == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.zip:123:456", r"train.tsv:2: 'a.zip:123:456' is a slice of an archive; unpack the archive"),
        ("a.ark:12", "is a slice of an archive"),
        ("cat a.flac |", "cannot stand in wav.scp"),
        ("a.flac ", "cannot stand in wav.scp"),
        ("", r"train.tsv:2: '\\t16000' is not `path<TAB>number of samples`"),
    ],
)
def test_names_that_are_refused(tmp_path, name, message):
    one_recording(tmp_path, "a.flac")
    rewrite(tmp_path / "train.tsv", replaced(2, f"{name}\t16000"))
    with pytest.raises(ValueError, match=message):
        prepare(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out" / "train").exists()


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("train.tsv", lambda lines: lines.pop(0), "train.tsv:1: .* is no root of recordings"),
        ("train.tsv", replaced(3, "train/one/b b.flac 12800"), "train.tsv:3: .* is not `path<TAB>number of samples`"),
        ("train.tsv", replaced(3, ""), "train.tsv:3: '' is not"),
        ("train.tsv", replaced(3, "train/one/a.wav\t9600"), "train.tsv:3: .* id 'train-one-a', as does line 2"),
        ("train.tsv", lambda lines: lines.__delitem__(slice(1, None)), "train.tsv: lists no recording"),
        ("train.km", list.pop, r"train.km: 3 lines, where .*train.tsv lists 4 recordings; join all of its shards"),
        ("train.wrd", lambda lines: lines.append("X"), "train.wrd: 5 lines, where"),
        ("valid.ltr", list.pop, "valid.ltr: 3 lines, where"),
        ("valid.phn", list.pop, "valid.phn: 3 lines, where"),
        ("train.wrd", replaced(2, "  "), "train.wrd:2: is empty; transcribe"),
        ("valid.ltr", replaced(2, "|"), "valid.ltr:2: is empty"),
        ("train.km", lambda lines: lines.__setitem__(1, lines[1] + " 1.5"), "train.km:2: '1.5' is no unit"),
        ("train.km", lambda lines: lines.__setitem__(1, lines[1] + " -1"), "train.km:2: '-1' is no unit"),
        (
            "train.km",
            lambda lines: lines.__setitem__(1, lines[1] + " 5"),
            "train.km:2: unit 5 is not among the 5 of dict",
        ),
        (
            "train.km",
            replaced(4, ""),
            "train.km:4: 0 units; 1.200 s at 50 Hz should give about 60; correct --prep.label",
        ),
        ("dict.km.txt", replaced(2, "AA 1"), "dict.km.txt:2: 'AA' is no whole number"),
        ("dict.km.txt", list.clear, "dict.km.txt: tells of 0 units"),
    ],
)
def test_faults_of_files_are_named(corpus, tmp_path, file, change, message):
    rewrite(corpus / file, change)
    with pytest.raises(ValueError, match=message) as caught:
        prepare(corpus, tmp_path / "out", **UNITS)
    assert "\n" not in str(caught.value)


def test_bytes_that_are_not_utf_8(corpus, tmp_path):
    (corpus / "train.wrd").write_bytes(b"A\nB\nC\n\xff\n")
    with pytest.raises(ValueError, match="train.wrd:4: not UTF-8"):
        prepare(corpus, tmp_path / "out")


def test_one_unit_throughout_is_refused(corpus, tmp_path):
    rewrite(corpus / "train.km", lambda lines: lines.__setitem__(slice(None), ["1 " * len(x.split()) for x in lines]))
    with pytest.raises(ValueError, match="corpus/train.km: all 176 labels are 1; a model would learn nothing"):
        prepare(corpus, tmp_path / "out", **UNITS)
    assert not list((tmp_path / "out" / "train" / "units").iterdir())


def test_size_of_padded_and_sorted_dictionaries(corpus, tmp_path):
    (corpus / "dict.km.txt").write_text("4 90\n0 3\n2 2\nmadeupword0000 0\n")
    prepare(corpus, tmp_path / "out", labels=("km",), label_rate=50)
    assert read_card(tmp_path / "out" / "train", "km").codebook_size == 5


def test_codes_of_two_codebooks_are_numbered_by_their_dictionary(corpus, tmp_path):
    codes = ["4-0", "0-12", "31-2", "4-1", "0-0"]
    expected = {}
    for split in ("train", "valid"):
        lines = (corpus / f"{split}.km").read_text().splitlines()
        expected[split] = lines
        (corpus / f"{split}.km").write_text(
            "".join(" ".join(codes[int(n)] for n in line.split()) + "\n" for line in lines)
        )
    dictionary = [f"{code} {9 - place}" for place, code in enumerate(codes)]
    (corpus / "dict.km.txt").write_text("\n".join([*dictionary, "madeupword0000 0", ""]))
    made = prepare(corpus, tmp_path / "out", labels=("km",), label_rate=50)
    for split, lines in expected.items():
        assert list(made[split].column("units/km")) == lines
    assert read_card(tmp_path / "out" / "train", "km").codebook_size == 5
    rewrite(corpus / "train.km", lambda lines: lines.__setitem__(1, lines[1] + " 4-2"))
    with pytest.raises(ValueError, match="train.km:2: '4-2' is not among the 5 of dict.km.txt; correct it"):
        prepare(corpus, tmp_path / "other", labels=("km",), label_rate=50)
    rewrite(corpus / "dict.km.txt", replaced(6, "7 1"))
    with pytest.raises(ValueError, match="dict.km.txt: holds whole numbers and codes such as '4-0'; keep those of one"):
        prepare(corpus, tmp_path / "mixed", labels=("km",), label_rate=50)


def test_lengths_are_checked_and_labels_stay_with_their_recording(corpus, tmp_path, caplog):
    expected = list(prepare(corpus, tmp_path / "whole", **UNITS)["train"].column("units/km"))
    rewrite(corpus / "train.tsv", replaced(2, "train/one/a.flac\t9601"))
    (corpus / "recordings" / "train" / "two" / "a.flac").write_bytes(b"fLaC")
    with pytest.raises(
        ValueError, match=r"train.tsv:2.*a.flac: holds 9600 samples, the manifest says 9601; restore"
    ) as caught:
        prepare(corpus, tmp_path / "strict", **UNITS)
    assert "\n" not in str(caught.value)
    caplog.clear()
    made = prepare(corpus, tmp_path / "out", max_bad_fraction=0.5, **UNITS)["train"]
    assert list(made.ids) == ["train-one-b_b", "train-two-c"]
    assert list(made.column("units/km")) == expected[1::2]
    assert list(made.column("text")) == ["IT'S LATE", "I AM"]
    assert [str(fault) for fault in faults(made.path)] == []
    assert sum("left out" in message for message in caplog.messages) == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"labels": ("km",)}, "prep.label_rate: is not given"),
        ({"label_rate": 50.0}, "prep.label_rate: is given without prep.labels"),
        ({"labels": ("km",), "label_rate": -1.0}, "prep.label_rate: -1 is not positive"),
        ({"labels": ("km",), "label_rate": (50.0, 100.0)}, "2 rates for 1 prep.labels"),
        ({"labels": ("km", "km"), "label_rate": 50.0}, "must name each once"),
        ({"labels": ("ltr",), "label_rate": 50.0}, "prep.labels: 'ltr' is a transcript"),
        ({"labels": ("../km",), "label_rate": 50.0}, "units name '../km'"),
        ({"max_bad_fraction": 2.0}, "prep.max_bad_fraction: 2.0 is no fraction"),
    ],
)
def test_options_are_checked(settings, message):
    with pytest.raises(ValueError, match=message):
        manifests.Config(**settings)


def test_what_is_not_there_is_named(corpus, tmp_path):
    with pytest.raises(ValueError, match="test.tsv: not found"):
        prepare(corpus, tmp_path / "out", splits=("test",))
    (corpus / "dict.unit.txt").write_text("0 1\n1 1\n")
    with pytest.raises(ValueError, match="train.unit: not found; correct --prep.labels"):
        prepare(corpus, tmp_path / "out", labels=("unit",), label_rate=50)
    with pytest.raises(ValueError, match="recordings: holds no .tsv"):
        prepare(corpus / "recordings", tmp_path / "out")


def test_command_line(tmp_path):
    def audiossl(*arguments):
        command = [sys.executable, "-m", "audiossl", "prep", "fairseq_manifests", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=True)

    audiossl("--fake", tmp_path / "fake")
    units = ("--prep.labels", '["km", "mfcc"]', "--prep.label_rate", "[50, 100]")
    said = audiossl("--corpus", tmp_path / "fake", "--out", tmp_path / "out", *units, "--json")
    rows = json.loads(said.stdout)["written"]
    assert [(row["path"], row["utterances"]) for row in rows] == [
        (str(tmp_path / "out" / split), 4) for split in ("train", "valid")
    ]
    assert [str(fault) for fault in faults(tmp_path / "out" / "train")] == []
