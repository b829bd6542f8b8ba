from __future__ import annotations

import pytest

from audiossl import registry
from audiossl.data.manifest import Manifest
from audiossl.metrics._slots import slots

snips = registry.get("data_prep", "snips")


def prepared(root):
    snips.fake(root / "corpus")
    snips.prepare(root / "corpus", root / "out")
    return {part: Manifest.open(root / "out" / part) for part in ("train", "dev", "test")}


def test_parts_have_other_voices(tmp_path):
    made = prepared(tmp_path)
    voices = {part: set(manifest.column("utt2spk")) for part, manifest in made.items()}
    assert voices == {"train": {"Ivy", "Joanna"}, "dev": {"Aditi", "Amy"}, "test": {"Brian", "Emma"}}
    assert {len(manifest) for manifest in made.values()} == {6}


def test_marks_of_words_become_marks_around_slots(tmp_path):
    made = prepared(tmp_path)["test"]
    index = list(made.ids).index("Emma-snips-test-0")
    assert made.column("text")[index] == "PLAY THE CLASH"
    assert made.column("utt2slots")[index] == "PLAY B-artist THE CLASH E-artist"
    assert made.column("utt2intent")[index] == "PlayMusic"


@pytest.mark.parametrize(
    ("marks", "said", "found"),
    [
        ("x x O x", "B-x A B E-x C B-x D E-x", {"x": ["A B", "D"]}),
        ("x x x y", "B-x A B C E-x B-y D E-y", {"x": ["A B C"], "y": ["D"]}),
        ("B-x I-x O B-y", "B-x A B E-x C B-y D E-y", {"x": ["A B"], "y": ["D"]}),
        ("O O O O", "A B C D", {}),
    ],
)
def test_slots(marks, said, found):
    assert snips.with_slots(["A", "B", "C", "D"], marks.split()) == said
    assert slots(said) == found


@pytest.mark.parametrize(
    ("line", "text", "said"),
    [
        (
            "BOS what the forecast for winnfield georgia EOS\tO O O O O city state GetWeather",
            "WHAT THE FORECAST FOR WINNFIELD GEORGIA",
            "WHAT THE FORECAST FOR B-city WINNFIELD E-city B-state GEORGIA E-state",
        ),
        ("BOS a & b EOS\tO x x x Play", "A AND B", "B-x A AND B E-x"),
        ("BOS a , b - c ? EOS\tO x x x O x x Play", "A B C", "B-x A B E-x B-x C E-x"),
        ("BOS hear . well EOS\tO O x O Play", "HEAR WELL", "HEAR WELL"),
    ],
)
def test_lines_as_published(tmp_path, line, text, said):
    (tmp_path / "list").write_text(f"Ivy-snips-train-0 {line}\n")
    [(name, columns)] = snips._columns(tmp_path / "list")
    assert (name, columns["text"], columns["utt2slots"]) == ("Ivy-snips-train-0", text, said)


def test_listed_utterances_without_a_recording_are_counted(tmp_path, caplog):
    snips.fake(tmp_path)
    for number in (0, 2):
        (tmp_path / f"SNIPS/test/Emma-snips-test-{number}.wav").unlink()
    snips.prepare(tmp_path, tmp_path / "out")
    (line,) = caplog.messages
    assert line.endswith(
        "test: 2 utterances that all.iob.snips.txt lists have no .wav, as Emma-snips-test-0; unpack the whole corpus"
    )


def test_a_line_whose_marks_do_not_fit_is_named(tmp_path):
    snips.fake(tmp_path)
    path = tmp_path / "SNIPS/all.iob.snips.txt"
    path.write_text(path.read_text() + "Ivy-snips-train-9 BOS play it EOS\tO O PlayMusic\n")
    with pytest.raises(ValueError, match=r"all\.iob\.snips\.txt:19: 3 marks for 2 words"):
        snips.prepare(tmp_path, tmp_path / "out")
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(ValueError, match=r"set prep\.test"):
        snips.prepare(tmp_path, tmp_path / "out", snips.Config(test=("Nobody",)))
