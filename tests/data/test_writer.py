"""Writing data directories: what is written, and every input that is refused."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest
from kaldi_dirs import tone, utterances

from audiossl.data.audio import write_audio
from audiossl.data.writer import CorpusUtterance, new_directory, write_data_dir


def files(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_whole_recordings(tmp_path):
    write_data_dir(reversed(list(utterances(tmp_path / "audio", segments=False, per_speaker=2))), tmp_path / "data")
    written = {name: text.decode() for name, text in files(tmp_path / "data").items()}
    audio = tmp_path / "audio"
    assert written == {
        "wav.scp": "".join(f"{n} {audio / n}.wav\n" for n in ("s0-0", "s0-1", "s1-0", "s1-1")),
        "utt2spk": "s0-0 s0\ns0-1 s0\ns1-0 s1\ns1-1 s1\n",
        "spk2utt": "s0 s0-0 s0-1\ns1 s1-0 s1-1\n",
        "utt2dur": "s0-0 1\ns0-1 1\ns1-0 1\ns1-1 1\n",
        "utt2lang": "s0-0 xx\ns0-1 xx\ns1-0 xx\ns1-1 xx\n",
        "text": "s0-0 WORD 0\ns0-1 WORD 1\ns1-0 WORD 0\ns1-1 WORD 1\n",
        "phones.ctm": "".join(f"{n} 1 0 0.4 A\n{n} 1 0.4 0.6 B\n" for n in ("s0-0", "s0-1", "s1-0", "s1-1")),
    }


def test_segments_and_the_same_bytes_whatever_the_order(tmp_path):
    made = list(utterances(tmp_path / "audio"))
    write_data_dir(made, tmp_path / "one")
    write_data_dir(iter(made[::-1]), tmp_path / "two")
    assert files(tmp_path / "one") == files(tmp_path / "two")
    lines = (tmp_path / "one" / "segments").read_text().splitlines()
    assert lines[:2] == ["s0-0 s0 0 1", "s0-1 s0 1 2"]
    assert (tmp_path / "one" / "wav.scp").read_text().count("\n") == 2


def test_an_open_end_is_the_end_of_the_recording(tmp_path):
    path = tmp_path / "r.wav"
    write_audio(path, tone(2.5), 8000)
    parts = [CorpusUtterance("a-1", "r", path, "a", end=1.25), CorpusUtterance("a-2", "r", path, "a", start=1.25)]
    write_data_dir(parts, tmp_path / "data")
    assert (tmp_path / "data" / "segments").read_text() == "a-1 r 0 1.25\na-2 r 1.25 2.5\n"
    assert (tmp_path / "data" / "utt2dur").read_text() == "a-1 1.25\na-2 1.25\n"


def test_c_order(tmp_path):
    write_audio(tmp_path / "r.wav", tone(1.0), 8000)
    names = ["a", "B", "é", "a-b", "Z", "ab", "\U0001f600", "ﬀ"]
    write_data_dir((CorpusUtterance(n, n, tmp_path / "r.wav", n) for n in names), tmp_path / "data")
    ids = [line.split()[0] for line in (tmp_path / "data" / "wav.scp").read_bytes().splitlines()]
    assert ids == sorted(name.encode() for name in names)


def test_ids_must_sort_as_their_speakers_do(tmp_path):
    write_audio(tmp_path / "r.wav", tone(0.1), 8000)
    pairs = (("ann-a", "ann"), ("ann-lee-x", "ann-lee"), ("ann-zoe", "ann"))
    rows = [CorpusUtterance(name, name, tmp_path / "r.wav", speaker) for name, speaker in pairs]
    with pytest.raises(ValueError, match="utterance 'ann-zoe' of 'ann' sorts behind those of 'ann-lee', so that"):
        write_data_dir(rows, tmp_path / "data")
    write_data_dir(rows[:2], tmp_path / "data")


CASES = [
    ({"id": "x-1"}, "does not start with its speaker"),
    ({"id": ""}, "is empty"),
    ({"id": "s0 1"}, "white space"),
    ({"speaker": ""}, "is empty"),
    ({"recording": "a b"}, "white space"),
    ({"start": 2.0, "end": 1.0}, "no segment"),
    ({"start": -1.0}, "no segment"),
    ({"start": float("nan")}, "no segment"),
    ({"start": 99.0, "end": None}, "has ended"),
    ({"columns": {"text": " "}}, "text is empty"),
    ({"columns": {"text": "a\nb"}}, "line break"),
    ({"columns": {"text": "\ud800"}}, "UTF-8"),
    ({"columns": {"utt2spk": "x"}}, "not a column"),
    ({"columns": {"../text": "x"}}, "not a column"),
    ({"phones": [(0.0, 0.0, "A")]}, "no phone"),
    ({"phones": [(0.0, 0.1, "A B")]}, "no phone"),
]


@pytest.mark.parametrize(("change", "words"), CASES)
def test_bad_utterances_are_named_and_nothing_is_left(tmp_path, change, words):
    first, *rest = utterances(tmp_path / "audio")
    with pytest.raises(ValueError, match=words) as caught:
        write_data_dir([*rest, dataclasses.replace(first, **change)], tmp_path / "out" / "data")
    assert repr(change.get("id", "s0-0")) in str(caught.value)
    assert not list((tmp_path / "out").iterdir())


def test_twice_none_two_files_and_missing_audio(tmp_path):
    first, second, *_ = utterances(tmp_path / "audio")
    with pytest.raises(ValueError, match="'s0-0' comes twice"):
        write_data_dir([first, first], tmp_path / "data")
    with pytest.raises(ValueError, match="no utterance"):
        write_data_dir([], tmp_path / "data")
    with pytest.raises(ValueError, match="use another recording id"):
        write_data_dir([first, dataclasses.replace(second, path=tmp_path / "other.wav")], tmp_path / "data")
    with pytest.raises(ValueError, match=r"'s0-0': .*none\.wav: no such file"):
        write_data_dir([dataclasses.replace(first, path=tmp_path / "none.wav", end=None)], tmp_path / "data")
    assert not (tmp_path / "data").exists()
    assert not (tmp_path / "data.partial").exists()


def test_an_existing_directory_is_not_touched_and_a_killed_run_is_replaced(tmp_path):
    (tmp_path / "data").mkdir()
    with pytest.raises(ValueError, match="remove it or choose another"):
        write_data_dir(utterances(tmp_path / "audio"), tmp_path / "data")
    assert not list((tmp_path / "data").iterdir())
    (tmp_path / "new.partial").mkdir()
    (tmp_path / "new.partial" / "stale").touch()
    write_data_dir(utterances(tmp_path / "audio"), tmp_path / "new")
    assert not (tmp_path / "new" / "stale").exists()


WAITS = """
import sys
from pathlib import Path
from audiossl.data.writer import new_directory

with new_directory(Path(sys.argv[1])) as folder:
    (folder / "mine").touch()
    print("begun", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("killed", [False, True])
def test_a_directory_has_one_writer_at_a_time(tmp_path, killed):
    out = tmp_path / "new" / "data"
    words = [sys.executable, "-c", WAITS, out]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        other.stdout.readline()
        with pytest.raises(ValueError, match=rf"data: another run \(pid {other.pid} on "), new_directory(out):
            pass
        assert (tmp_path / "new" / "data.partial" / "mine").exists()
        if killed:
            other.kill()
        other.communicate()
    if killed:
        with new_directory(out) as folder:
            assert list(folder.iterdir()) == []
            (folder / "mine").touch()
    assert [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.rglob("*"))] == [
        "new",
        "new/data",
        "new/data/mine",
    ]
