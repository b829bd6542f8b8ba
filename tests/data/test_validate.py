"""Every fault of a data directory is found, with its file, line and cure."""

from __future__ import annotations

import json
import re
import subprocess

import numpy as np
import pytest
import soundfile
from kaldi_dirs import RATE, make, tone

from audiossl.data.audio import write_audio
from audiossl.data.fix import fix
from audiossl.data.validate import faults


@pytest.fixture
def data(tmp_path):
    return make(tmp_path)


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def found(data, **how):
    return [str(fault).removeprefix(f"{data}/").replace(str(data), "DIR") for fault in faults(data, **how)]


FIX = "; run `audiossl data fix DIR`"
OUT = ", or run `audiossl data fix DIR` to leave it out"  # of all tables
ADD, CORRECT, ICONV = "; add it" + OUT, "; correct the line" + OUT, "; convert the file with iconv" + OUT


@pytest.mark.parametrize("segments", [True, False])
def test_a_sound_directory_has_none(tmp_path, segments):
    assert found(make(tmp_path, segments=segments), check_audio=True) == []


def test_no_directory(tmp_path):
    assert found(tmp_path) == ["wav.scp:0: missing; give a data directory, or make one with `audiossl prep`"]


def test_tabs_crlf_and_what_is_optional_are_no_faults(data):
    path = data / "text"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n").replace(b" ", b"\t", 1))
    for name in ("utt2dur", "utt2lang", "phones.ctm", "trials", "units/km4", "units/km4.json"):
        (data / name).unlink()
    (data / "spk2gender").write_text("s0 f\n")
    (data / "README").write_text("anything \n\n")
    assert found(data) == []


CASES = [
    ("text", "s0-1 WORD 1\n", "", ["text:0: no line for utterance 's0-1'" + ADD]),
    ("text", "s0-1 WORD 1\n", "s0-1 WORD 1\ns0-1 WORD 1\n", ["text:3: 's0-1' was in line 2 already" + FIX]),
    ("text", "s0-1 WORD 1\n", "s0-1\n", ["text:2: 's0-1': nothing follows the id" + CORRECT]),
    ("text", "s0-1 WORD 1\n", "s0-1 WORD 1\n\n", ["text:3: an empty line" + FIX]),
    ("text", "s1-2 WORD 2\n", "s1-2 WORD 2\nx X\n", ["text:7: unknown utterance 'x'" + FIX]),
    ("text", "s0-0 WORD 0\ns0-1 WORD 1\n", "s0-1 A\ns0-0 B\n", ["text:2: 's0-0' comes after 's0-1': not in C order" + FIX]),
    ("text", "s0-0", "\ufeffs0-0", ["text:1: a byte order mark before the first id" + FIX]),
    ("text", "s0-1 WORD 1\n", "s0-1 WORD 1\ns0-1 X\n", ["text:3: 's0-1' was in line 2 already, with another value; delete the wrong one, or run `audiossl data fix DIR` to keep the first sound one"]),
    ("trials", "s0-0 s0-1", "\ufeffs0-0 s0-1", ["trials:1: a byte order mark before the first id" + FIX]),
    ("phones.ctm", "s0-0 1 0 ", "\ufeffs0-0 1 0 ", ["phones.ctm:1: a byte order mark before the first id" + FIX]),
    ("utt2lang", "s0-1 xx\n", "", ["utt2lang:0: no line for utterance 's0-1'" + ADD]),
    ("segments", "s0-1 s0 1 2\n", "s0-1 s0 1\n", ["segments:2: 's0-1': 's0 1' is not `recording start end`, in seconds" + CORRECT]),
    ("segments", "s0 1 2\n", "s0 2 2\n", ["segments:2: 's0-1': no segment lasts from 2 to 2 s" + CORRECT]),
    ("segments", "s0 1 2\n", "s0 nan 2\n", ["segments:2: 's0-1': no segment lasts from nan to 2 s" + CORRECT]),
    ("segments", "s0 2 3\n", "s0 2 3.02\n", ["segments:3: 's0-2' ends at 3.02 s, its recording 's0' ends at 3 s" + FIX]),
    ("segments", "s0 2 3\n", "s0 2 5000.0\n", ["segments:3: 's0-2' ends at 5000 s, its recording 's0' ends at 3 s" + CORRECT]),
    ("segments", "s0 2 3\n", "s0 3 -1\n", ["segments:3: 's0-2' starts at 3 s, its recording 's0' ends at 3 s" + CORRECT]),
    ("segments", "s0 2 3\n", "s0 2 -1\n", []),
    ("segments", "s0 1 2\n", "s0 1 -1\n", ["units/km4:2: 's0-1': 10 labels", "utt2dur:2: 's0-1' is said to last 1 s, but lasts 2 s" + FIX]),
    ("segments", "s0 2 3\n", "s0 2 3.005\n", []),
    ("segments", "s0-1 s0", "s0-1 s9", ["segments:2: 's0-1': unknown recording 's9'" + CORRECT]),
    ("utt2spk", "s0-1 s0", "s0-1 s0 x", ["utt2spk:2: 's0-1': 's0 x' is not one speaker id" + CORRECT, "'s0-1' does not start", "spk2utt:0:", "spk2utt:1:"]),
    ("utt2spk", "s0-1 s0\n", "", ["utt2spk:0: no line for utterance 's0-1'" + ADD, "spk2utt:1: 's0': differs from utt2spk about 's0-1'" + FIX]),
    ("utt2spk", "s0-1 s0\n", "s0-1 s1\n", ["utt2spk:2: 's0-1' does not start with its speaker 's1'", "spk2utt:1: 's0': differs", "spk2utt:2: 's1': differs"]),
    ("spk2utt", "s0-0 s0-1", "s0-1 s0-0", ["spk2utt:1: 's0': differs from utt2spk in order or number" + FIX]),
    ("spk2utt", "s0 s0-0", "s2 s0-0", ["spk2utt:2: 's1' comes after 's2'", "spk2utt:1: unknown speaker 's2'" + FIX, "spk2utt:0: no line for speaker 's0'" + FIX]),
    ("utt2dur", "s0-1 1", "s0-1 0", ["utt2dur:2: 's0-1': '0' is not a duration above 0 s" + FIX, "utt2dur:2: 's0-1' is said to last 0 s, but lasts 1 s"]),
    ("utt2dur", "s0-1 1", "s0-1 -1", ["utt2dur:2: 's0-1': '-1' is not a duration", "is said to last -1 s"]),
    ("utt2dur", "s0-1 1", "s0-1 1.06", ["utt2dur:2: 's0-1' is said to last 1.06 s, but lasts 1 s" + FIX]),
    ("utt2dur", "s0-1 1", "s0-1 1.04", ["utt2dur:2: 's0-1' is said to last 1.04 s, but lasts 1 s" + FIX]),
    ("utt2dur", "s0-1 1", "s0-1 0.94", ["utt2dur:2: 's0-1' is said to last 0.94 s, but lasts 1 s" + FIX]),
    ("utt2dur", "s0-1 1", "s0-1 1.01", []),
    ("utt2dur", "s0-1 1", "s0-1 0.96", []),
    ("utt2dur", "s0-1 1", "s0-1 long", ["utt2dur:2: 's0-1': 'long' is not a duration above 0 s" + FIX]),
    ("phones.ctm", "s0-0 1 0.4 0.6 B", "s0-0 1 0.4 B", ["phones.ctm:2: 's0-0': '1 0.4 B' is not `1 start duration phone`, in seconds; align again"]),
    ("phones.ctm", "s0-0 1 0.4 0.6 B", "s0-0 1 0.4 0.7 B", ["phones.ctm:2: 's0-0': B ends at 1.1 s, the utterance at 1 s; align again"]),
    ("phones.ctm", "s0-0 1 0.4 0.6 B", "s0-0 1 0.4 0.63 B 0.99", []),
    ("phones.ctm", "s0-0 1 0 0.4 A\ns0-0 1 0.4 0.6 B\n", "s0-0 1 0.4 0.6 B\ns0-0 1 0 0.4 A\n", ["phones.ctm:2: 's0-0': starts at 0 s, before the line above" + FIX]),
    ("phones.ctm", "s0-0 1 0 ", "x 1 0 ", ["phones.ctm:1: unknown utterance 'x'" + FIX]),
    ("phones.ctm", "s1-2 1 0.4 0.6 B\n", "s1-2 1 0.4 0.6 B\ns0-0 1 0.9 0.1 C\n", ["phones.ctm:13: 's0-0' comes after 's1-2': not in C order" + FIX]),
    ("units/km4", "s0-1 0 1 2 3", "s0-1 0 1 2 4", ["units/km4:2: 's0-1': label 4, where the codebook has 0 to 3; run `audiossl units apply` again"]),
    ("units/km4", "s0-1 0 1 2 3", "s0-1 0 1 2 -1", ["units/km4:2: 's0-1': label -1, where"]),
    ("units/km4", "s0-1 0 1 2 3", "s0-1 0 1 2 x", ["units/km4:2: 's0-1': not all labels are whole numbers"]),
    ("units/km4", "s0-1 0 1 2 3 0 1 2 3 0 1", "s0-1", ["units/km4:2: 's0-1': no label"]),
    ("units/km4", "s0-1 0 1 2 3 0 1 2", "s0-1 3", ["units/km4:2: 's0-1': 4 labels, where 1 s at 10 Hz give about 10"]),
    ("units/km4", "s0-1 0 1 2", "s0-1", []),
    ("units/km4", "s0-1 ", "x ", ["units/km4:3: 's0-2' comes after 'x'", "units/km4:2: unknown utterance 'x'" + FIX, "units/km4:0: no line for utterance 's0-1'; run `audiossl units apply` again" + OUT]),
    ("units/km4.json", '"codebook_size": 4', '"codebook_size": 0', ["units/km4.json:0: a rate of 10 Hz and 0 codes"]),
    ("units/km4.json", '"rate"', '"rats"', ["units/km4.json:0: no rate and codebook_size can be read (KeyError: 'rate')"]),
    ("units/km4.json", "{", "", ["units/km4.json:0: no rate and codebook_size can be read (JSONDecodeError"]),
    ("trials", "s0-1 target", "s0-1 maybe", ["trials:1: not `enrol test target|nontarget` or `1|0 enrol test`" + FIX]),
    ("trials", "s0-1 target", "s0-9 target", ["trials:1: unknown utterance 's0-9'" + FIX]),
    ("trials", "s0-0 s0-1 target", "1 s0-0 s0-1", []),
    ("trials", "s0-0 s0-1 target", "2 s0-0 s0-1", ["trials:1: not `enrol"]),
    ("trials", "s0-0 s0-1 target", "0 s9-0 s9-1", ["trials:1: unknown utterance 's9-0'", "trials:1: unknown utterance 's9-1'"]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "old", "new", "expected"), CASES)
def test_one_fault(data, name, old, new, expected):
    edit(data / name, old, new)
    reported = found(data)
    assert len(reported) == len(expected), reported
    for line, words in zip(reported, expected, strict=True):
        assert words in line


def test_missing_files(data):
    (data / "utt2spk").unlink()
    (data / "units" / "km4.json").unlink()
    assert found(data) == [
        "utt2spk:0: missing; write `utterance speaker` lines; unknown speakers are the utterances themselves",
        "units/km4.json:0: missing: rate and codebook of the units are not known; run `audiossl units apply` again",
    ]


def test_utterances_that_sort_differently_from_their_speakers(tmp_path):
    speakers = {"ann-a": "ann", "ann-lee-x": "ann-lee", "ann-zoe": "ann", "bob-a": "bob"}
    for name in speakers:
        write_audio(tmp_path / f"{name}.wav", tone(0.5), RATE)
    (tmp_path / "wav.scp").write_text("".join(f"{name} {tmp_path / name}.wav\n" for name in speakers))
    (tmp_path / "utt2spk").write_text("".join(f"{name} {speaker}\n" for name, speaker in speakers.items()))
    (tmp_path / "spk2utt").write_text("ann ann-a ann-zoe\nann-lee ann-lee-x\nbob bob-a\n")
    (fault,) = map(str, faults(tmp_path))
    assert "utt2spk:3: 'ann-zoe' of 'ann' sorts behind those of 'ann-lee': Kaldi's tools" in fault


def test_spk2utt_is_wanted(data):
    (data / "spk2utt").unlink()
    assert found(data) == ["spk2utt:0: missing" + FIX]


def test_recordings_and_speakers_of_other_tables(data):
    (data / "spk2gender").write_text("s0 f\ns7 m\n")
    (data / "reco2dur").write_text("s0 3\ns7 3\n")
    assert found(data) == ["reco2dur:2: unknown recording 's7'" + FIX, "spk2gender:2: unknown speaker 's7'" + FIX]


@pytest.mark.parametrize("name", ["wav.scp", "segments", "utt2spk", "text", "phones.ctm", "trials", "units/km4"])
def test_bytes_that_are_not_utf8(data, name):
    with (data / name).open("ab") as file:
        file.write(b"\xff\xfe x\n")
    number = (data / name).read_bytes().count(b"\n")
    assert [line for line in found(data) if "not UTF-8" in line] == [
        f"{name}:{number}: not UTF-8 (invalid start byte){FIX if name in {'phones.ctm', 'trials'} else ICONV}"
    ]


def test_a_recording_without_segment(data):
    edit(data / "wav.scp", "s1 ", "s00 /none.wav\ns1 ")
    assert found(data) == [
        f"wav.scp:2: 's00': /none.wav: no such file; correct the path in wav.scp or restore the recording, or{FIX[1:]} to leave it out",
        f"wav.scp:2: recording 's00' has no segment{FIX}",
    ]


def test_programs_and_archives(data, tmp_path):
    command = f"cat {tmp_path}/audio/s0.wav |"
    (data / "wav.scp").write_text(f"s0 {command}\ns1 a.ark:7\n")
    refused, archive = found(data)
    assert refused == f"wav.scp:1: 's0': a program to run ({command}); give --allow-commands to run it"
    assert archive.startswith("wav.scp:2: 's1': 'a.ark:7' points into an ark archive; extract")
    assert found(data, allow_commands=True) == [archive]
    edit(data / "wav.scp", "s0.wav |", "s9.wav |")
    assert found(data, allow_commands=True) == [archive]
    checked = found(data, allow_commands=True, check_audio=True)
    assert len(checked) == 4  # the archive, and three utterances of the program
    assert all("failed with status 1" in line for line in checked[1:])


def test_an_empty_entry_and_no_entry(data):
    (data / "wav.scp").write_text("s0\n")
    assert (
        found(data)[0]
        == "wav.scp:1: 's0': no audio file is named; correct the line, or run `audiossl data fix DIR` to leave it out"
    )
    (data / "wav.scp").write_text("")
    assert found(data)[0] == "wav.scp:0: no recording is listed; give a data directory that holds some"


def test_unreadable_audio(tmp_path):
    data = make(tmp_path, segments=False)
    (tmp_path / "audio" / "s0-0.wav").unlink()
    (tmp_path / "audio" / "s0-1.wav").write_text("x")
    path = tmp_path / "audio" / "s0-2.wav"
    path.write_bytes(path.read_bytes()[:1000])
    reported = found(data)
    assert [line.split(":")[:2] for line in reported] == [["wav.scp", "1"], ["wav.scp", "2"], ["wav.scp", "3"]]
    for line, words in zip(reported, ("no such file", "no readable audio", "cut short"), strict=True):
        assert words in line
        assert "audiossl data fix" in line


def test_only_decoding_finds_silence_nan_and_damage(tmp_path):
    data = make(tmp_path, segments=False)
    audio = tmp_path / "audio"
    soundfile.write(audio / "s0-0.wav", np.zeros(RATE), RATE)
    soundfile.write(audio / "s0-1.wav", np.full(RATE, np.nan), RATE, subtype="FLOAT")
    soundfile.write(audio / "s0-2.wav", tone(1.0), RATE, format="FLAC")
    (audio / "s0-2.wav").write_bytes((audio / "s0-2.wav").read_bytes()[:3000])
    assert found(data) == []
    reported = found(data, check_audio=True)
    for number, (line, words) in enumerate(zip(reported, ("silent", "NaN", "cut short"), strict=True), start=1):
        assert line.startswith(f"wav.scp:{number}: 's0-{number - 1}': ")
        assert words in line


def test_a_silent_segment(data, tmp_path):
    soundfile.write(tmp_path / "audio" / "s0.wav", np.concatenate([tone(1.0), np.zeros(RATE), tone(1.0)]), RATE)
    (line,) = found(data, check_audio=True)
    assert line.startswith("wav.scp:1: 's0-1': ")
    assert "silent" in line


def test_all_faults_are_listed_not_only_the_first(data):
    edit(data / "text", "s0-1 WORD 1\n", "\n")
    edit(data / "utt2dur", "s1-0 1", "s1-0 x")
    (data / "units" / "km4.json").write_text(json.dumps({"rate": 20.0, "codebook_size": 3}))
    reported = found(data)
    assert sum("codebook has 0 to 2" in line for line in reported) == 6
    assert {line.split(":")[0] for line in reported} == {"text", "utt2dur", "units/km4"}


@pytest.mark.parametrize(
    "name", ["text", "segments", "phones.ctm", "trials", "utt2spk", "units/km4", "units/km5", "wav.scp"]
)
@pytest.mark.parametrize("kind", ["a link to nothing", "a folder, no table"])
def test_what_is_called_like_a_table_is_one(data, name, kind):
    path = data / name
    path.unlink(missing_ok=True)
    if kind == "a folder, no table":
        path.mkdir()
    else:
        path.symlink_to(data / "nothing")
    assert [line for line in found(data) if line.startswith(f"{name}:0: {kind}; ")]


def test_labels_that_only_have_a_card(data):
    (data / "units" / "km4").unlink()
    what = "units/km4.json:0: no labels km4 beside it; run `audiossl units apply` again, or remove it"
    assert found(data) == [what]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["s0-0 s0-1 target", "s0-0 s1-0 nontarget", "s0-0 s0-1 nontarget"], [(3, 1)]),
        (["s0-0 s0-1 target", "s0-1 s0-0 nontarget", "s0-1 s0-0 target", "0 s0-0 s0-1"], [(2, 1), (4, 1)]),
        (["0 s0-0 s0-1", "1 s1-0 s1-1", "s1-1 s1-0 nontarget", "1 s0-0 s0-1"], [(4, 1), (3, 2)]),
        (["s0-0 s0-1 target", "s0-0 s0-1 target", "1 s0-1 s0-0"], []),
        ([], []),
    ],
)
def test_trials_that_contradict_one_another(data, lines, expected):
    (data / "trials").write_text("".join(f"{line}\n" for line in lines))
    reported = found(data)
    assert len(reported) == len(expected)
    for line, (number, other) in zip(reported, sorted(expected), strict=True) if expected else ():
        assert line.startswith(f"trials:{number}: ")
        assert f"in line {other}, " in line
        assert line.endswith("; remove the wrong one of the two lines")


def test_durations_of_recordings_are_numbers(data):
    (data / "reco2dur").write_text("s0 3\ns1 notanumber\n")
    assert found(data) == ["reco2dur:2: 's1': 'notanumber' is not a duration above 0 s" + FIX]


@pytest.mark.parametrize("name", ["text", "utt2lang", "utt2spk", "units/km4", "segments"])
def test_bytes_that_no_value_holds(data, name):
    path = data / name
    path.write_bytes(path.read_bytes().replace(b"\ns0-1 ", b"\ns0-1 \0", 1))
    assert f"{name}:2: a NUL byte" + CORRECT in found(data)
    path.write_bytes(path.read_bytes().replace(b"\0", b"a\rb", 1))
    assert f"{name}:2: a carriage return within the line" + CORRECT in found(data)


@pytest.mark.parametrize(
    "name", ["text", "utt2lang", "segments", "wav.scp", "utt2spk", "units/km4", "trials", "phones.ctm"]
)
@pytest.mark.parametrize(
    ("how", "what"),
    [
        ("utf-16", "UTF-16, not UTF-8"),
        ("utf-16-le", "looks like UTF-16, not UTF-8"),
        ("utf-16-be", "looks like UTF-16, not UTF-8"),
        ("cr", "its lines end in CR alone, not LF"),
    ],
)
def test_the_cure_of_a_wrong_encoding_cures(data, name, how, what):
    path = data / name
    text = path.read_text()
    path.write_bytes(text.replace("\n", "\r").encode() if how == "cr" else text.encode(how))
    (fault,) = faults(data)
    assert (fault.path, fault.line, fault.what) == (path, 0, what)
    kept = path.read_bytes()
    with pytest.raises(ValueError, match=re.escape(f"{path}: {what}; convert it: ")):
        fix(data)
    assert path.read_bytes() == kept
    assert not list(data.rglob("*.partial"))
    subprocess.run(fault.cure.removeprefix("convert it: "), shell=True, check=True)
    assert path.read_text() == text
    assert found(data) == []


@pytest.mark.parametrize("name", ["utt2lang", "text", "units/km4", "segments"])
def test_an_empty_table(data, name):
    (data / name).write_text("")
    (fault,) = faults(data)
    assert (fault.path, fault.line, fault.what) == (data / name, 0, "an empty table")
    assert fault.cure.startswith("remove it, or ")
    with pytest.raises(ValueError, match="an empty table; remove it, or "):
        fix(data)
    if name in {"utt2lang", "text"}:
        (data / name).unlink()
        assert found(data) == []


def test_the_wrong_channel_of_a_segment_is_named_there(data, tmp_path):
    edit(data / "segments", "s0-1 s0 1 2\n", "s0-1 s0 1 2 1\n")
    assert found(data) == ["segments:2: 's0-1': no channel 1 among the 1 of 's0', counted from 0" + CORRECT]
    command = f"cat {tmp_path}/audio/s0.wav |"
    (data / "wav.scp").write_text(f"s0 {command}\ns1 {tmp_path}/audio/s1.wav\n")
    (line,) = found(data, allow_commands=True, check_audio=True)
    assert line.startswith(f"segments:2: 's0-1': {command}: no channel 1 among 1, counted from 0; correct the channel")
    (data / "wav.scp").write_text(f"s0 {tmp_path}/audio/s0.wav\ns1 {tmp_path}/audio/s1.wav\n")
    fix(data)
    assert found(data) == []


@pytest.mark.parametrize("suffix", [".wav", ".aiff", ".au", ".w64", ".sph", ".rf64"])
def test_a_header_that_promises_more_than_the_file_holds(tmp_path, suffix):
    data, path = make(tmp_path, segments=False), tmp_path / f"a{suffix}"
    soundfile.write(path, tone(1.0), RATE, format={".sph": "NIST"}.get(suffix, suffix[1:].upper()))
    edit(data / "wav.scp", f"{tmp_path}/audio/s0-0.wav", str(path))
    assert found(data) == []
    path.write_bytes(path.read_bytes()[:5000])
    (line,) = found(data)
    assert line.startswith(f"wav.scp:1: 's0-0': {path}: cut short: ")
