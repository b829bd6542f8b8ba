"""`audiossl errors`: what it prints and writes, and one line for each misuse."""

from __future__ import annotations

import json
import os
import random
import re
from pathlib import Path

import pytest
from command import audiossl, complains, succeed

from audiossl.data.kaldi import write_table
from audiossl.metrics.character_error_rate import character_error_rate
from audiossl.metrics.word_error_rate import word_error_rate
from audiossl.nn.task import text_lines
from audiossl.superb.answers import write_lines

PAGE = Path(__file__).parents[2] / "docs/verbs/errors.md"
REF = {"u0": "the cat sat", "u1": "a dog", "u2": "the end", "u3": ""}
HYP = {"u0": "a cat sat", "u1": "a dog", "u2": "", "u3": "oh"}
SPEAKERS = {"u0": "s0", "u1": "s0", "u2": "s1", "u3": "s1"}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Make a data directory and a file of hypotheses, and go there."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    write_table(tmp_path / "data/text", REF.items())
    write_table(tmp_path / "data/utt2spk", SPEAKERS.items())
    write_table(tmp_path / "hyp", HYP.items())
    return tmp_path


def printed(*words):
    out, err = succeed("errors", *words)
    assert err == ""
    return out.splitlines()


def test_a_data_directory_and_hypotheses(place):
    lines = printed("data", "hyp", "--out", "made/errors")
    assert lines == [
        "wer 57.14 % (4 of 7: 1 inserted, 2 deleted, 1 substituted); 75.0 % of 4 utterances have errors",
        "speaker s1 150.00 % (3 of 2: 1 inserted, 2 deleted, 0 substituted)",
        "speaker s0 20.00 % (1 of 5: 0 inserted, 0 deleted, 1 substituted)",
        "substituted: the > a 1",
        "deleted: end 1, the 1",
        "inserted: oh 1",
    ]
    folder = place / "made/errors"
    assert sorted(path.name for path in folder.iterdir()) == ["confusions.tsv", "per_speaker.tsv", "per_utterance.txt"]
    assert (folder / "per_utterance.txt").read_text().splitlines() == [
        "u0 ref   the cat sat",
        "u0 hyp   a   cat sat",
        "u0 op    S   C   C",
        "u0 #csid 2 1 0 0",
        "u1 ref   a dog",
        "u1 hyp   a dog",
        "u1 op    C C",
        "u1 #csid 2 0 0 0",
        "u2 ref   the end",
        "u2 hyp   *** ***",
        "u2 op    D   D",
        "u2 #csid 0 0 0 2",
        "u3 ref   **",
        "u3 hyp   oh",
        "u3 op    I",
        "u3 #csid 0 0 1 0",
    ]
    head = "wer errors words correct substitutions deletions insertions utterances utterances_with_errors"
    rows = [line.split("\t") for line in (folder / "per_speaker.tsv").read_text().splitlines()]
    assert rows == [
        ["speaker", *head.split()],
        ["s1", "150.00", "3", "2", "0", "0", "2", "1", "2", "2"],
        ["s0", "20.00", "1", "5", "4", "1", "0", "0", "2", "1"],
    ]
    assert (folder / "confusions.tsv").read_text().splitlines() == [
        "kind\treference\thypothesis\ttimes",
        "substitution\tthe\ta\t1",
        "deletion\tend\t*\t1",
        "deletion\tthe\t*\t1",
        "insertion\t*\toh\t1",
    ]


def test_files_have_no_speakers_unless_they_are_given(place):
    lines = printed("data/text", "hyp")
    assert not [line for line in lines if line.startswith("speaker")]
    write_table(place / "spk", [(name, "one") for name in REF])
    assert printed("data/text", "hyp", "--utt2spk", "spk")[1].startswith("speaker one 57.14 %")
    assert printed("data", "hyp", "--utt2spk", "spk")[1].startswith("speaker one 57.14 %")


def test_a_speaker_of_empty_references(place):
    write_table(place / "spk", {**dict.fromkeys(REF, "s"), "u3": "t"}.items())
    lines = printed("data", "hyp", "--utt2spk", "spk", "--out", "o")
    assert lines[1] == "speaker t - (1 of 0: 1 inserted, 0 deleted, 0 substituted)"
    assert (place / "o/per_speaker.tsv").read_text().splitlines()[1].startswith("t\t\t1\t0\t")
    said = json.loads(succeed("errors", "data", "hyp", "--utt2spk", "spk", "--json")[0])
    assert said["speakers"]["t"]["wer"] is None


def test_json_has_all_of_it(place):
    out, err = succeed("errors", "data", "hyp", "--json")
    assert err == ""
    said = json.loads(out)
    assert said["wer"] == word_error_rate([*HYP.values()], [*REF.values()])
    assert (said["errors"], said["words"], said["utterances"], said["utterances_with_errors"]) == (4, 7, 4, 3)
    assert (said["correct"], said["substitutions"], said["deletions"], said["insertions"]) == (4, 1, 2, 1)
    assert [*said["speakers"]] == ["s1", "s0"]
    assert said["speakers"]["s1"]["wer"] == 150
    assert said["confusions"] == {
        "substitutions": [["the", "a", 1]],
        "deletions": [["end", 1], ["the", 1]],
        "insertions": [["oh", 1]],
    }


@pytest.mark.parametrize("writer", ["transcribe", "superb"])
def test_rates_are_those_of_the_metrics(tmp_path, writer):
    rng = random.Random(3)
    ref, hyp = (
        {
            f"u{n:03}": " ".join(rng.choices(["a", "b\u00a0c", "abc", "ça", "عربي"], k=rng.randrange(9)))
            for n in range(80)
        }
        for _ in range(2)
    )
    for name, texts in (("ref", ref), ("hyp", hyp)):
        if writer == "transcribe":
            write_table(tmp_path / name, texts.items())
        else:
            write_lines(tmp_path / name, text_lines(texts))
    words = ["errors", tmp_path / "ref", tmp_path / "hyp", "--json"]
    sides = [*hyp.values()], [*ref.values()]
    assert json.loads(succeed(*words)[0])["wer"] == word_error_rate(*sides)
    assert json.loads(succeed(*words, "--characters")[0])["cer"] == character_error_rate(*sides)


def test_characters_show_the_space(place):
    write_table(place / "a", [("u", "ab c")])
    write_table(place / "b", [("u", "abd")])
    lines = printed("a", "b", "--characters", "--out", "o")
    assert lines[0].startswith("cer 50.00 % (2 of 4: 0 inserted, 1 deleted, 1 substituted)")
    assert "deleted: c 1" in lines
    assert "substituted: _ > d 1" in lines
    assert (place / "o/per_utterance.txt").read_text().splitlines()[:3] == [
        "u ref   a b _ c",
        "u hyp   a b d *",
        "u op    C C S D",
    ]
    assert json.loads(succeed("errors", "a", "b", "--characters", "--json")[0])["confusions"]["substitutions"] == [
        [" ", "d", 1]
    ]


def test_columns_of_wide_and_marked_letters(place):
    write_table(place / "a", [("u", "中文 cafe\u0301 end")])
    write_table(place / "b", [("u", "中 cafes end")])
    printed("a", "b", "--out", "o")
    assert (place / "o/per_utterance.txt").read_text().splitlines()[:3] == [
        "u ref   中文 cafe\u0301  end",
        "u hyp   中   cafes end",
        "u op    S    S     C",
    ]


def test_ten_of_each_kind_are_printed(place):
    write_table(place / "a", [("u", " ".join(f"w{n:02}" for n in range(12)))])
    write_table(place / "b", [("u", " ".join(f"v{n:02}" for n in range(12)))])
    [_, line] = printed("a", "b")
    assert line == "substituted: " + ", ".join(f"w{n:02} > v{n:02} 1" for n in range(10))


def test_modes(place):
    write_table(place / "part", [("u0", "a cat sat"), ("x", "what"), ("y", "")])
    error = complains("errors", "data", "part")
    assert error == (
        "audiossl: part: lacks 3 of 4 utterances of data/text, the first is 'u1'; "
        "add them, or --mode present to leave them out, --mode all to count them as empty\n"
    )
    write_table(place / "more", [*HYP.items(), ("x", "what"), ("y", "")])
    error = complains("errors", "data", "more")
    assert "more: has 2 utterances that data/text lacks, the first is 'x'; add them there, or --mode present" in error
    left_out = "audiossl: part: has 2 utterances that data/text lacks, the first is 'x'; they are left out\n"
    lacks = "audiossl: part: lacks 3 of 4 utterances of data/text, the first is 'u1'; they "
    out, err = succeed("errors", "data", "part", "--mode", "present")
    assert out.startswith("wer 33.33 % (1 of 3: 0 inserted, 0 deleted, 1 substituted); 100.0 % of 1 utterances")
    assert err == f"{lacks}are left out\n{left_out}"
    out, err = succeed("errors", "data", "part", "--mode", "all")
    assert out.startswith("wer 71.43 % (5 of 7: 0 inserted, 4 deleted, 1 substituted); 75.0 % of 4 utterances")
    assert err == f"{lacks}count as empty\n{left_out}"
    write_table(place / "other", [("x", "what")])
    assert "other: has no utterance of data/text, whose first is 'u0'" in complains(
        "errors", "data", "other", "--mode", "present"
    )


def test_other_files_are_not_replaced(place):
    printed("data", "hyp", "--out", "o")
    before = {path: path.read_bytes() for path in (place / "o").iterdir()}
    write_table(place / "hyp", REF.items())
    error = complains("errors", "data", "hyp", "--out", "o")
    assert error.endswith("o/per_utterance.txt: exists already; choose another --out, or --overwrite\n")
    assert {path: path.read_bytes() for path in (place / "o").iterdir()} == before
    assert printed("data", "hyp", "--out", "o", "--overwrite")[0].startswith("wer 0.00 %")
    assert (place / "o/confusions.tsv").read_text().count("\n") == 1
    # No table of speakers is left beside errors of which they are not known.
    printed("data/text", "hyp", "--out", "o", "--overwrite")
    assert sorted(path.name for path in (place / "o").iterdir()) == ["confusions.tsv", "per_utterance.txt"]


def test_lines_need_not_be_sorted_and_may_come_through_a_pipe(place):
    (place / "ref").write_text("b x y\na z\n")
    read, write = os.pipe()
    with os.fdopen(write, "w") as pipe:
        pipe.write("a z\nb x\n")
    try:
        lines = printed("ref", f"/dev/fd/{read}", "--out", "o")
    finally:
        os.close(read)
    assert lines[0].startswith("wer 33.33 % (1 of 3: 0 inserted, 1 deleted")
    assert (place / "o/per_utterance.txt").read_text().startswith("b ref   x y\n")


def test_faults_are_one_line_each_and_leave_nothing(place):
    (place / "latin").write_bytes("u0 caf\u00e9\n".encode("latin-1"))
    (place / "twice").write_text("u0 a\nu1 b\nu0 c\n")
    (place / "void").write_text("")
    (place / "silent").write_text("".join(f"{name}\n" for name in REF))
    (place / "few").write_text("u0 s0\nu1\n")
    (place / "file").write_text("")
    before = sorted(place.rglob("*"))
    cases = (
        (["data", "hyp", "--overwrite"], 2, "--overwrite goes with --out; add it"),
        (["data", "hyp", "--mode", "some"], 2, "--mode"),
        (["data", "hyp", "--out", "file"], 1, "file: is a file, no folder; choose another --out or remove it"),
        (["none", "hyp"], 1, "none: no such file"),
        (["data", "none"], 1, "none: no such file"),
        (["data", "data"], 1, "data: Is a directory; give a file"),
        (["data", "latin"], 1, "latin:1: not UTF-8 (unexpected end of data); convert the file with iconv"),
        (["latin", "hyp"], 1, "latin:1: not UTF-8"),
        (["data", "twice"], 1, "twice:3: 'u0' comes twice; remove one of its lines"),
        (["twice", "hyp"], 1, "twice:3: 'u0' comes twice"),
        (["void", "void"], 1, "void: is empty; give references"),
        (["silent", "hyp"], 1, "silent: no words are counted, so their error rate is undefined; give references"),
        (["silent", "hyp", "--characters"], 1, "silent: no characters are counted"),
        (["data", "hyp", "--utt2spk", "few"], 1, "few: no speaker for utterance 'u1'; add a line for it"),
        (["data", "hyp", "--utt2spk", "none"], 1, "none: no such file"),
        (["data", "void"], 1, "void: lacks 4 of 4 utterances of data/text, the first is 'u0'"),
    )
    for words, status, message in cases:
        out = [] if "--out" in words or "--overwrite" in words else ["--out", "new/folder"]
        assert message in complains("errors", *words, *out, status=status)
        assert sorted(place.rglob("*")) == before


def test_the_example_of_its_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    block = PAGE.read_text(encoding="utf-8").partition("## Example\n\n")[2].partition("\n\n")[0]
    steps = re.split(
        r"^\$ ", "".join(f"{line.removeprefix('    ')}\n" for line in block.splitlines()), flags=re.MULTILINE
    )
    assert len(steps) == 6
    for step in filter(None, steps):
        command, _, text = step.partition("\n")
        program, *words = command.split()
        if program == "cat":
            Path(words[0]).write_text(text)
        elif program == "audiossl":
            assert audiossl(*words) == (0, text, "")
        else:
            assert words[:2] == ["-n", "8"]
            assert "".join(Path(words[2]).read_text().splitlines(keepends=True)[-8:]) == text
