"""After `fix`, a directory has no fault that `fix` can mend, and nothing sound was lost."""

from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile
from kaldi_dirs import RATE, make, tone

from audiossl.data.audio import write_audio
from audiossl.data.fix import fix
from audiossl.data.manifest import Manifest
from audiossl.data.validate import faults

IDS = ["s0-0", "s0-1", "s0-2", "s1-0", "s1-1", "s1-2"]


@pytest.fixture
def data(tmp_path):
    return make(tmp_path)


def files(folder):
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and ".index" not in p.parts
    }


def edit(path, old, new):
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new))


@pytest.mark.parametrize("segments", [True, False])
def test_a_sound_directory_is_not_touched(tmp_path, segments):
    data = make(tmp_path, segments=segments)
    before = files(data)
    assert fix(data) == []
    assert files(data) == before


def test_order_and_line_ends(data):
    before = files(data)
    for name in ("wav.scp", "segments", "utt2spk", "spk2utt", "utt2dur", "text", "utt2lang", "units/km4"):
        lines = (data / name).read_bytes().splitlines()
        (data / name).write_bytes(b"\r\n".join(lines[::-1]).replace(b" ", b"\t", 1) + b"\r\n")
    phones = (data / "phones.ctm").read_bytes().splitlines(keepends=True)
    (data / "phones.ctm").write_bytes(b"".join(phones[::-1]))
    damaged = files(data)
    done = fix(data)
    after = files(data)
    assert {line.partition(":")[0] for line in done} == set(before) - {"trials", "units/km4.json"}
    assert {name: content for name, content in after.items() if not name.startswith(".backup")} == before
    backup = {name.removeprefix(".backup/"): content for name, content in after.items() if name.startswith(".backup/")}
    assert backup == {name: damaged[name] for name in backup}
    assert len(backup) == len(done)
    assert list(faults(data)) == []


CASES = [
    ("text", b"s0-1 WORD 1\n", b"s0-1 WORD 1\ns0-1 OTHER\n", IDS),
    ("text", b"s0-1 WORD 1\n", b"s0-1\ns0-1 WORD 1\n", IDS),
    ("text", b"s0-1 WORD 1\n", b"", ["s0-0", *IDS[2:]]),
    ("text", b"s0-1 WORD 1\n", b"s0-1\n", ["s0-0", *IDS[2:]]),
    ("text", b"s0-1 WORD 1\n", b"s0-1 \xff\n", ["s0-0", *IDS[2:]]),
    ("text", b"s0-1 WORD 1\n", b"\n\ns0-1 WORD 1\nx X\n", IDS),
    *[
        (name, first, b"\xef\xbb\xbf" + first, IDS)
        for name, first in [
            ("text", b"s0-0 "),
            ("wav.scp", b"s0 "),
            ("segments", b"s0-0 s0 "),
            ("utt2spk", b"s0-0 "),
            ("spk2utt", b"s0 "),
            ("utt2dur", b"s0-0 "),
            ("units/km4", b"s0-0 "),
            ("phones.ctm", b"s0-0 1 0 "),
            ("trials", b"s0-0 s0-1 "),
        ]
    ],
    ("utt2lang", b"s1-0 xx\n", b"", [*IDS[:3], *IDS[4:]]),
    ("utt2spk", b"s1-0 s1\n", b"s1-0 s1 s2\n", [*IDS[:3], *IDS[4:]]),
    ("utt2spk", b"s0-0 s0\ns0-1 s0\ns0-2 s0\n", b"", IDS[3:]),
    ("units/km4", b"s1-2 0 1 2 3 0 1 2 3 0 1\n", b"", IDS[:5]),
    ("spk2utt", b"s0-0 ", b"", IDS),
    ("spk2utt", b"s1 s1-0 s1-1 s1-2\n", b"", IDS),
    ("utt2dur", b"s0-1 1", b"s0-1 0", IDS),
    ("utt2dur", b"s0-1 1", b"s0-1 7", IDS),
    ("utt2dur", b"s0-1 1", b"s0-1 1.04", IDS),
    ("utt2dur", b"s0-1 1\n", b"", IDS),
    ("segments", b"s0 2 3\n", b"s0 2 3.5\n", IDS),
    ("segments", b"s0 2 3\n", b"s0 2 3.6\n", [*IDS[:2], *IDS[3:]]),
    ("segments", b"s0 2 3\n", b"s0 3 3.4\n", [*IDS[:2], *IDS[3:]]),
    ("segments", b"s0 2 3\n", b"s0 3 -1\n", [*IDS[:2], *IDS[3:]]),
    ("segments", b"s0 2 3\n", b"s0 2 -2\n", [*IDS[:2], *IDS[3:]]),
    ("segments", b"s0 2 3\n", b"s0 2\n", [*IDS[:2], *IDS[3:]]),
    ("segments", b"s0 2 3\n", b"s9 2 3\n", [*IDS[:2], *IDS[3:]]),
    ("wav.scp", b"s0 ", b"s9 ", IDS[3:]),
    ("wav.scp", b"s0.wav", b"none.wav", IDS[3:]),
    ("wav.scp", b"s1 ", b"s00 /none.wav\ns1 ", IDS),
    ("wav.scp", b"s0 ", b"s0\ns0 ", IDS),
    ("wav.scp", b"s1 ", b"s00\ns1 ", IDS),
    ("trials", b"s0-1 target", b"s9-1 target", IDS),
    ("trials", b"s0-1 target", b"s0-1 perhaps", IDS),
    ("phones.ctm", b"s0-0 1 0.4 0.6 B\n", b"x 1 0.4 0.6 B\n", IDS),
    ("phones.ctm", b"s0-0 1 0.4 0.6 B\n", b"\n\xff\n", IDS),
]


@pytest.mark.parametrize(("name", "old", "new", "left"), CASES)
def test_each_fault_is_mended_once(data, name, old, new, left):
    original = (data / name).read_bytes()
    edit(data / name, old, new)
    damaged = (data / name).read_bytes()
    assert list(faults(data))
    assert fix(data)
    assert [str(fault) for fault in faults(data)] == []
    assert list(Manifest.open(data).ids) == left
    backup = data / ".backup" / name
    assert (backup if backup.exists() else data / name).read_bytes() == damaged  # no copy of what was not changed
    if left == IDS and name not in {"trials", "phones.ctm"}:
        assert (data / name).read_bytes() == original
    after = files(data)
    assert fix(data) == []
    assert files(data) == after


def test_what_was_done_is_said(data):
    edit(data / "text", b"s0-1 WORD 1\n", b"s0-1\n\nx Y\n")
    edit(data / "segments", b"s1 2 3\n", b"s1 2 3.2\n")
    edit(data / "segments", b"s1 1 2\n", b"s1 1 5000\n")
    done = fix(data)
    assert "segments: left out, for 's1-1' ends at 5000 s, its recording 's1' ends at 3 s" in done
    assert "segments: 1 now end with their recording" in done
    assert "left out 1 of 5 utterances that not all files know or that failed" in done
    assert "text: dropped 2 unknown or left out, 2 unreadable" in done
    assert "units/km4: dropped 2 unknown or left out" in done
    assert "trials: dropped 1 that name unknown utterances or cannot be read" in done


def test_doubles_that_differ_are_named(data):
    edit(data / "text", b"s0-1 WORD 1\n", b"s0-1 WORD 1\ns0-1 OTHER\ns0-1 WORD 1\n")
    told = "text: 's0-1' came twice with different values, of which the first is kept"
    assert fix(data) == [told, "text: dropped 2 double"]


def test_backups_are_not_overwritten(data):
    original = (data / "text").read_bytes()
    for number in range(3):
        (data / "text").write_bytes(original + b"x %d\n" % number)
        fix(data)
    assert [(data / ".backup" / f"text{end}").read_bytes()[-4:] for end in ("", ".1", ".2")] == [
        b"x 0\n",
        b"x 1\n",
        b"x 2\n",
    ]


def test_a_channel_survives_clipping(data, tmp_path):
    soundfile.write(tmp_path / "audio" / "s0.wav", np.stack([tone(3.0), tone(3.0)], 1), RATE)
    edit(data / "segments", b"s0 2 3\n", b"s0 2 3.3 1\n")
    fix(data)
    assert "s0-2 s0 2 3 1\n" in (data / "segments").read_text()


@pytest.mark.parametrize("listed", [True, False])
def test_an_end_of_minus_one_is_that_of_the_recording(data, listed):
    edit(data / "segments", b"s0 1 2\n", b"s0 1 -1\n")
    edit(data / "utt2dur", b"s0-1 1\n", b"s0-1 2\n")
    edit(data / "units/km4", b"s0-1 ", b"s0-1 0 1 2 3 0 1 2 3 0 1 ")
    if not listed:
        (data / "utt2dur").unlink()
    assert [str(fault) for fault in faults(data, check_audio=True)] == []
    manifest = Manifest.open(data)
    assert manifest.durations[1] == 2.0
    assert len(manifest.audio(1, sample_rate=RATE)) == 2 * RATE
    assert len(manifest.audio(1, sample_rate=RATE, start=0.5, seconds=0.25)) == RATE // 4
    assert fix(data) == ([] if listed else ["utt2dur: made from the audio"])
    assert [str(fault) for fault in faults(data)] == []


def test_speakers_of_utterances_that_go_go_too(data):
    (data / "spk2gender").write_text("s1 f\ns0 m\n")
    edit(data / "wav.scp", b"s0.wav", b"none.wav")
    fix(data)
    assert (data / "spk2gender").read_text() == "s1 f\n"
    assert (data / "spk2utt").read_text() == "s1 s1-0 s1-1 s1-2\n"
    assert list(faults(data)) == []


def test_tables_of_speakers_stay_where_nobody_says_who_speaks(data):
    (data / "utt2spk").unlink()
    (data / "spk2utt").unlink()
    (data / "spk2gender").write_text("s0 m\ns1 f\n")
    edit(data / "wav.scp", b"s0.wav", b"none.wav")
    fix(data)
    assert (data / "spk2gender").read_text() == "s0 m\ns1 f\n"
    assert [fault.path.name for fault in faults(data)] == ["utt2spk"]
    assert fix(data) == []


@pytest.mark.parametrize("bad", ["s9 2 3", "s0 2 3 7", "s0 3 9"])
def test_of_two_segments_the_sound_one_is_kept(data, bad):
    original = (data / "segments").read_bytes()
    edit(data / "segments", b"s0-2 s0 2 3\n", f"s0-2 {bad}\ns0-2 s0 2 3\n".encode())
    assert fix(data) == ["segments: dropped 1 double"]
    assert (data / "segments").read_bytes() == original
    assert list(faults(data)) == []
    assert fix(data) == []


def test_cards_of_units_are_counted_again(data):
    card = data / "units" / "km4.json"
    facts = {"rate": 10.0, "codebook_size": 4, "codebook_hash": "é"}
    card.write_text(json.dumps(facts | {"utterances": 6, "labels": 60, "left_out": 1}))
    before = card.read_bytes()
    edit(data / "text", b"s0-1 WORD 1\n", b"")
    assert "units/km4.json: counted again" in fix(data)
    assert json.loads(card.read_text()) == facts | {"utterances": 5, "labels": 50, "left_out": 0}
    assert (data / ".backup" / "units" / "km4.json").read_bytes() == before
    assert fix(data) == []


def test_durations_are_written_where_there_are_none_and_rounded_ones_kept(data):
    (data / "utt2dur").unlink()
    assert fix(data) == ["utt2dur: made from the audio"]
    assert (data / "utt2dur").read_text() == "".join(f"{name} 1\n" for name in IDS)
    edit(data / "utt2dur", b"s0-0 1\n", b"s0-0 1.01\n")
    assert fix(data) == []


def test_only_decoding_leaves_silence_out(tmp_path):
    data = make(tmp_path, segments=False)
    soundfile.write(tmp_path / "audio" / "s0-1.wav", np.zeros(RATE), RATE)
    assert fix(data) == []
    done = fix(data, check_audio=True)
    assert "left out 's0-1': " in done[0]
    assert "silent" in done[0]
    assert list(Manifest.open(data).ids) == ["s0-0", *IDS[2:]]
    assert list(faults(data, check_audio=True)) == []


def test_programs_are_kept_and_run_only_if_allowed(data, tmp_path):
    (data / "wav.scp").write_text(f"s0 {tmp_path}/audio/s0.wav\ns1 echo >{tmp_path}/ran |\n")
    assert fix(data) == []
    assert fix(data, check_audio=True) == []
    assert not (tmp_path / "ran").exists()
    fix(data, check_audio=True, allow_commands=True)
    assert (tmp_path / "ran").exists()
    assert list(Manifest.open(data).ids) == IDS[:3]


def test_what_cannot_be_mended_stays(data):
    (data / "units" / "km4.json").write_text(json.dumps({"rate": 10.0, "codebook_size": 2}))
    edit(data / "phones.ctm", b"s0-0 1 0.4 0.6 B\n", b"s0-0 1 0.4 9 B\n")
    (data / "utt2spk").unlink()
    before = files(data)
    assert fix(data) == []
    assert files(data) == before
    assert not any("data fix" in fault.cure for fault in faults(data))


def test_nothing_left_and_no_directory(data, tmp_path):
    (data / "text").write_text("x Y\n")
    before = files(data)
    with pytest.raises(ValueError, match="text: shares no sound utterance"):
        fix(data)
    assert files(data) == before
    with pytest.raises(ValueError, match=r"wav\.scp: no such file"):
        fix(tmp_path)


def test_recordings_of_which_none_opens_or_none_can_be_used(data, tmp_path):
    original = (data / "wav.scp").read_bytes()
    (data / "wav.scp").write_text("s0 wav/s0.wav\ns1 wav/s1.wav\n")
    before = files(data)
    said = r"wav\.scp: none of its 2 recordings opens, such as 's0': wav/s0\.wav: no such file; are its paths relative to another"
    with pytest.raises(ValueError, match=said):
        fix(data, check_audio=True)
    assert files(data) == before
    (data / "wav.scp").write_bytes(original)
    for name in ("s0", "s1"):
        write_audio(tmp_path / "audio" / f"{name}.wav", np.zeros(3 * RATE, np.float32), RATE)
    with pytest.raises(ValueError, match=r"data: none of its 6 utterances can be used, such as 's0-0': .*silent"):
        fix(data, check_audio=True)


def test_a_killed_run_is_finished_by_the_next(data, monkeypatch):
    from audiossl.data import kaldi

    edit(data / "text", b"s0-1 WORD 1\n", b"")
    written = []
    original = kaldi.write_sorted_table

    def stop_at_third(path, rows):
        written.append(path)
        if len(written) == 3:
            raise KeyboardInterrupt
        original(path, rows)

    monkeypatch.setattr(kaldi, "write_sorted_table", stop_at_third)
    with pytest.raises(KeyboardInterrupt):
        fix(data)
    monkeypatch.setattr(kaldi, "write_sorted_table", original)
    fix(data)
    assert list(faults(data)) == []
    assert list(Manifest.open(data).ids) == ["s0-0", *IDS[2:]]


def test_a_failure_leaves_no_partial_file(data, monkeypatch):
    from audiossl.data import fix as fixing

    edit(data / "text", b"s0-1 WORD 1\n", b"")
    edit(data / "trials", b"s0-1 target", b"s9-1 target")
    before = files(data)
    for fails in ("back_up", "replace"):
        with monkeypatch.context() as patch:
            if fails == "back_up":
                patch.setattr(fixing.shutil, "copy2", stop)
            else:
                patch.setattr(fixing.kaldi, "check_row", stop)
            with pytest.raises(OSError, match="No space"):
                fix(data)
        assert files(data) == before
    fix(data)
    assert list(faults(data)) == []


def stop(*arguments):
    raise OSError(28, "No space left on device")
