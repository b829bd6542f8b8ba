"""Tables of a data directory: reading with line numbers, writing in C order, what names and entries mean."""

from __future__ import annotations

import os
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audiossl.data import kaldi
from audiossl.data.audio import AudioError, audio_info

KEYS = st.text(st.characters(codec="utf-8", exclude_categories=("Z", "C")), min_size=1)


def test_tabs_crlf_and_any_script(tmp_path):
    path = tmp_path / "text"
    path.write_bytes("b\tONE  TWO \r\na\r\n c x\u00a0y\u3000z\n".encode())
    assert list(kaldi.read_table(path)) == [(1, "b", "ONE  TWO"), (2, "a", ""), (3, "c", "x\u00a0y\u3000z")]


@pytest.mark.parametrize(
    ("content", "words"), [(b"a x\n\nb y\n", "text:2: an empty line"), (b"a x\nb \xff\n", "text:2: not UTF-8")]
)
def test_faulty_lines_are_named(tmp_path, content, words):
    (tmp_path / "text").write_bytes(content)
    with pytest.raises(ValueError, match=words):
        list(kaldi.read_table(tmp_path / "text"))


def test_a_missing_table(tmp_path):
    with pytest.raises(ValueError, match="no such file"):
        list(kaldi.read_table(tmp_path / "text"))


def test_reading_streams(tmp_path):
    (tmp_path / "text").write_bytes(b"a x\n\n")
    rows = kaldi.read_table(tmp_path / "text")
    assert next(rows) == (1, "a", "x")


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(KEYS, st.text(st.characters(codec="ascii", min_codepoint=33)), max_size=8))
def test_what_is_written_is_read_back_in_byte_order(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("t") / "text"
    kaldi.write_table(path, rows.items())
    assert {key: value for _, key, value in kaldi.read_table(path)} == rows
    lines = [line.split()[0] for line in path.read_bytes().splitlines()]
    assert lines == sorted(key.encode() for key in rows)
    assert [p.name for p in path.parent.iterdir()] == ["text"]


def test_the_order_is_that_of_sort_in_the_c_locale(tmp_path):
    kaldi.write_table(tmp_path / "text", [(key, "x") for key in ("b", "A", "a-1", "a", "B1", "é", "_", "10", "9")])
    done = subprocess.run(["sort", "-c", tmp_path / "text"], env={**os.environ, "LC_ALL": "C"}, check=False)
    assert done.returncode == 0


def test_rows_of_one_key_keep_their_order(tmp_path):
    kaldi.write_table(tmp_path / "phones.ctm", [("b", "1 0 1 X"), ("a", "1 1 1 B"), ("a", "1 0 1 A")])
    assert (tmp_path / "phones.ctm").read_text() == "a 1 1 1 B\na 1 0 1 A\nb 1 0 1 X\n"


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [("", "x", "empty or has"), ("a b", "x", "white space"), ("a", "x\ny", "line break"), ("a", "\ud800", "UTF-8")],
)
def test_rows_that_no_line_can_hold(tmp_path, key, value, words):
    (tmp_path / "text").write_text("before\n")
    with pytest.raises(ValueError, match=words):
        kaldi.write_table(tmp_path / "text", [(key, value)])
    assert (tmp_path / "text").read_text() == "before\n"


def test_what_keys_a_table(tmp_path):
    names = ["wav.scp", "reco2dur", "segments", "text", "utt2any", "units/km", "spk2utt", "spk2gender"]
    expected = ["recording"] * 2 + ["utterance"] * 4 + ["speaker"] * 2
    assert [kaldi.keyed_by(name) for name in names] == expected
    assert {kaldi.keyed_by(name) for name in ("trials", "phones.ctm", "units/km.json", "README", "x/utt2any")} == {None}
    (tmp_path / "units").mkdir()
    for name in ("wav.scp", "text", "trials", "utt2x", "units/km", "units/km.json", "text.partial", "utt2x.partial"):
        (tmp_path / name).touch()
    assert kaldi.table_names(tmp_path) == ["text", "units/km", "utt2x", "wav.scp"]


def test_entries_of_wav_scp(tmp_path, monkeypatch):
    assert kaldi.is_command("sph2pipe -f wav a.sph |")
    assert not kaldi.is_command("a.wav")
    assert "ark" in kaldi.audio_fault("a.ark:123")[0]
    assert "ark" in kaldi.audio_fault("a b.ark:123[0:10]")[0]
    assert kaldi.audio_fault("") is not None
    assert kaldi.audio_fault("/a/b c.wav") is None
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    (there / "a.wav").touch()
    monkeypatch.chdir(here)
    assert kaldi.audio_path("a.wav", there) == there / "a.wav"
    assert str(kaldi.audio_path("none.wav", there)) == "none.wav"
    (here / "a.wav").touch()
    assert str(kaldi.audio_path("a.wav", there)) == "a.wav"


def test_a_name_that_is_too_long_is_the_fault_of_one_recording(tmp_path):
    path = kaldi.audio_path("a" * 300 + ".wav", tmp_path)
    with pytest.raises(AudioError, match="File name too long"):
        audio_info(path)


@pytest.mark.parametrize("value", ["", "r", "r 0", "r 0 x", "r 0 1 x", "r 0 1 0 0", "r 0 inf"])
def test_malformed_segments(value):
    assert kaldi.parse_segment(value) is None


def test_segments_and_seconds():
    assert kaldi.parse_segment("r 0.5 1e1") == ("r", 0.5, 10.0, None)
    assert kaldi.parse_segment("r 0 -1") == ("r", 0.0, float("inf"), None)
    assert kaldi.parse_segment("r 0 1 1") == ("r", 0.0, 1.0, 1)
    assert [kaldi.seconds(x) for x in (0.0, 1.0, 100.0, 0.25, 1 / 3)] == ["0", "1", "100", "0.25", "0.333333"]
    assert kaldi.parse_seconds("1.5") == 1.5
    assert kaldi.parse_seconds("x") != kaldi.parse_seconds("x")
