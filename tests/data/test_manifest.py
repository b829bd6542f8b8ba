"""Manifests: audio, durations and columns by utterance, at bytes per utterance."""

from __future__ import annotations

import multiprocessing
import pickle
import sys
import tracemalloc
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from kaldi_dirs import RATE, make, tone

from audiossl.data import index, manifest
from audiossl.data.audio import AudioError, read_audio, write_audio
from audiossl.data.manifest import Manifest

IDS = ["s0-0", "s0-1", "s0-2", "s1-0", "s1-1", "s1-2"]


@pytest.fixture
def data(tmp_path):
    return make(tmp_path)


@pytest.mark.parametrize("segments", [True, False])
def test_ids_durations_and_columns(tmp_path, segments):
    data = make(tmp_path, segments=segments)
    opened = Manifest.open(str(data))
    assert list(opened.ids) == IDS
    assert opened.ids[-1] == "s1-2"
    assert opened.ids[1:3] == IDS[1:3]
    assert "s1-1" in opened.ids
    assert "s1" not in opened.ids
    assert len(opened) == 6
    assert opened.durations.tolist() == [1.0] * 6
    assert opened.durations.dtype == np.float64
    assert list(opened.column("text")) == [f"WORD {i}" for i in (0, 1, 2, 0, 1, 2)]
    assert opened.column("utt2spk")[-1] == "s1"
    assert opened.column("units/km4")[0] == "0 1 2 3 0 1 2 3 0 1"
    assert opened.column_names() == ["text", "units/km4", "utt2dur", "utt2lang", "utt2spk"]


def test_audio_of_a_segment_is_that_part_of_the_recording(data, tmp_path, monkeypatch):
    opened = Manifest.open(data)
    whole = read_audio(tmp_path / "audio" / "s1.wav")
    asked = []
    monkeypatch.setattr(manifest, "read_audio", lambda path, **how: asked.append(how) or read_audio(path, **how))
    assert np.array_equal(opened.audio(4, sample_rate=RATE), whole[RATE : 2 * RATE])
    assert asked == [{"start": 1.0, "duration": 1.0, "sample_rate": RATE, "channel": None, "allow_silent": False}]
    part = opened.audio(4, sample_rate=RATE, start=0.25, seconds=0.5)
    assert np.array_equal(part, whole[RATE + RATE // 4 : RATE + 3 * RATE // 4])
    assert len(opened.audio(4, sample_rate=RATE, start=0.75, seconds=0.5)) == RATE // 4  # not into the next utterance
    assert len(opened.audio(4, sample_rate=16000)) == 16000


def test_a_channel_of_a_segment(data, tmp_path):
    import soundfile

    left, right = tone(3.0), tone(3.0, hertz=100)
    soundfile.write(tmp_path / "audio" / "s0.wav", np.stack([left, right], 1), RATE)
    (data / "segments").write_text("s0-0 s0 0 1 1\n")
    assert np.allclose(Manifest.open(data).audio(0, sample_rate=RATE), right[:RATE], atol=1e-4)


def test_durations_come_from_utt2dur_then_segments_then_headers(tmp_path):
    data = make(tmp_path, segments=False)
    (data / "utt2dur").write_text("".join(f"{name} {i + 2}\n" for i, name in enumerate(IDS)))
    assert Manifest.open(data).durations.tolist() == [2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
    (data / "utt2dur").unlink()
    assert Manifest.open(data).durations.tolist() == [1.0] * 6
    (data / "segments").write_text("a s0-0 0.25 0.75\nb s0-1 0 0.125\n")
    assert Manifest.open(data).durations.tolist() == [0.5, 0.125]


def test_headers_are_read_once(tmp_path, monkeypatch):
    data = make(tmp_path, segments=False)
    (data / "utt2dur").unlink()
    read = []
    original = manifest.audio_info
    monkeypatch.setattr(manifest, "audio_info", lambda path: read.append(path) or original(path))
    for _ in range(2):
        assert Manifest.open(data).durations.tolist() == [1.0] * 6
    assert len(read) == 6


@pytest.mark.parametrize("segments", [False, True])
def test_recordings_that_were_rewritten_longer_are_measured_again(tmp_path, segments):
    data = make(tmp_path, segments=False)
    (data / "utt2dur").unlink()
    if segments:
        (data / "segments").write_text("".join(f"{name} {name} 0 -1\n" for name in IDS))
    assert Manifest.open(data).durations.tolist() == [1.0] * 6
    for name in IDS:
        write_audio(tmp_path / "audio" / f"{name}.wav", tone(4.0), RATE)
    opened = Manifest.open(data)
    assert opened.subset(np.array([2])).durations.tolist() == [4.0]
    assert opened.durations.tolist() == [4.0] * 6
    (tmp_path / "audio" / f"{IDS[0]}.wav").unlink()
    assert Manifest.open(data).durations.tolist() == [4.0] * 6


def test_subsets_compose_and_keep_the_order_asked_for(data):
    opened = Manifest.open(data)
    part = opened.subset(np.array([5, 0, 3])).subset(np.array([2, 0]))
    assert list(part.ids) == ["s1-0", "s1-2"]
    assert list(part.column("text")) == ["WORD 0", "WORD 2"]
    assert part.durations.tolist() == [1.0, 1.0]
    assert np.array_equal(part.audio(1, sample_rate=RATE), opened.audio(5, sample_rate=RATE))
    assert "s1-0" in part.ids
    assert "s0-0" not in part.ids
    assert len(opened.subset(np.array([], int))) == 0
    with pytest.raises(ValueError, match="of 6"):
        opened.subset(np.array([6]))
    with pytest.raises(IndexError):
        part.ids[2]


def test_a_pickle_holds_the_path_alone(data):
    opened = Manifest.open(data).subset(np.array([4, 2]))
    opened.durations  # noqa: B018
    pickled = pickle.dumps(opened)
    assert len(pickled) < 1000
    again = pickle.loads(pickled)
    assert list(again.ids) == ["s1-1", "s0-2"]
    assert np.array_equal(again.audio(0, sample_rate=RATE), opened.audio(0, sample_rate=RATE))
    assert again.column("text")[0] == "WORD 1"


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_open_it_anew(data, method):
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert pool.apply(_first_text, (Manifest.open(data),)) == "WORD 0"


def _first_text(opened):
    assert len(opened.audio(0, sample_rate=RATE)) == RATE
    return opened.column("text")[0]


def test_relative_paths(data, tmp_path, monkeypatch):
    (data / "wav.scp").write_text("s0 audio/s0.wav\ns1 ../audio/s1.wav\n")
    monkeypatch.chdir(tmp_path)
    opened = Manifest.open(data)
    assert len(opened.audio(0, sample_rate=RATE)) == RATE  # from the current directory
    assert len(opened.audio(3, sample_rate=RATE)) == RATE  # from the data directory


def test_unsorted_and_partial_columns(data):
    lines = (data / "text").read_text().splitlines(keepends=True)
    (data / "text").write_text("".join(lines[:0:-1]))
    column = Manifest.open(data).column("text")
    assert column[3] == "WORD 0"
    assert [column.has(i) for i in range(3)] == [False, True, True]
    with pytest.raises(ValueError, match=r"text: no line for utterance 's0-0'; .*audiossl data fix"):
        column[0]


def test_commands_are_refused_unless_allowed(data, tmp_path):
    command = f"cat {tmp_path / 'audio' / 's0.wav'} |"
    (data / "wav.scp").write_text(f"s0 {command}\ns1 exit 3 |\n")
    with pytest.raises(AudioError, match=r"wav\.scp:1: 's0': a program to run .*--allow-commands"):
        Manifest.open(data).audio(0, sample_rate=RATE)
    opened = Manifest.open(data, allow_commands=True)
    whole = read_audio(tmp_path / "audio" / "s0.wav")
    assert np.array_equal(opened.audio(1, sample_rate=RATE), whole[RATE : 2 * RATE])
    assert pickle.loads(pickle.dumps(opened)).allow_commands
    with pytest.raises(AudioError, match="failed with status 3"):
        opened.audio(3, sample_rate=RATE)


def test_a_command_runs_once_for_the_segments_of_a_recording(data, tmp_path, monkeypatch):
    audio, log = tmp_path / "audio", tmp_path / "log"
    (data / "wav.scp").write_text("".join(f"{s} echo {s} >> {log}; cat {audio / s}.wav |\n" for s in ("s0", "s1")))
    opened = Manifest.open(data, allow_commands=True)
    with ThreadPoolExecutor(6) as pool:
        heard = list(pool.map(lambda index: opened.audio(index, sample_rate=RATE), range(6)))
    assert sorted(log.read_text().split()) == ["s0", "s1"]
    assert np.array_equal(heard[4], read_audio(audio / "s1.wav")[RATE : 2 * RATE])
    again = pickle.loads(pickle.dumps(opened))
    monkeypatch.setattr(manifest, "_KEPT_OUTPUT", 1)  # so that only the last one stays
    for number in (0, 1, 3, 4, 0):
        again.audio(number, sample_rate=RATE)
    assert log.read_text().split()[2:] == ["s0", "s1", "s0"]


def test_a_command_that_failed_runs_again(data, tmp_path):
    path = tmp_path / "late.wav"
    (data / "wav.scp").write_text(f"s0 cat {path} |\ns1 cat {path} |\n")
    opened = Manifest.open(data, allow_commands=True)
    with pytest.raises(AudioError, match="failed with status 1"):
        opened.audio(0, sample_rate=RATE)
    path.write_bytes((tmp_path / "audio" / "s0.wav").read_bytes())
    assert len(opened.audio(0, sample_rate=RATE)) == RATE


def test_durations_of_commands(tmp_path):
    data = make(tmp_path, segments=False)
    (data / "utt2dur").unlink()
    (data / "wav.scp").write_text(f"s0-0 cat {tmp_path / 'audio' / 's0-0.wav'} |\n")
    assert Manifest.open(data, allow_commands=True).durations.tolist() == [1.0]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("wav.scp", "s0 a.ark:12\n", r"wav\.scp:1: 's0': 'a\.ark:12' points into an ark archive; .*wav-copy"),
        ("wav.scp", "s0\n", r"wav\.scp:1: 's0': no audio file is named"),
        ("wav.scp", "s0 none.wav\n", r"none\.wav: no such file"),
        ("wav.scp", "s9 none.wav\n", r"wav\.scp: no recording 's0' for utterance 's0-0'"),
        ("segments", "s0-0 s0 1\n", r"segments:1: 's0-0': not `recording start end`"),
        ("segments", "s0-0 s0 1 1\n", r"segments:1: 's0-0': not"),
        ("segments", "s0-0 s0 1 99\n", r"s0\.wav: .*ends at 3 s"),
    ],
)
def test_audio_that_cannot_be_had(data, name, content, words):
    (data / name).write_text(content)
    with pytest.raises(AudioError, match=words):
        Manifest.open(data).audio(0, sample_rate=RATE)


@pytest.mark.parametrize("value", ["0", "-1", "x", "nan", "inf", ""])
def test_durations_that_are_none(data, value):
    (data / "utt2dur").write_text(f"s0-0 {value}\n")
    with pytest.raises(ValueError, match=r"utt2dur: utterance 's0-0' lasts .*audiossl data fix"):
        _ = Manifest.open(data).durations


def test_a_broken_recording_among_the_headers(tmp_path):
    data = make(tmp_path, segments=False)
    (data / "utt2dur").unlink()
    (tmp_path / "audio" / "s0-1.wav").write_text("x")
    with pytest.raises(AudioError, match=r"s0-1\.wav: no readable audio.*audiossl data fix"):
        _ = Manifest.open(data).durations


@pytest.mark.parametrize("name", ["utt2none", "units/none", "wav.scp", "../text", "spk2utt"])
def test_a_missing_column(data, name):
    with pytest.raises(ValueError, match="the columns of this directory are: text, units/km4, utt2dur"):
        Manifest.open(data).column(name)


def test_no_data_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("recordings").mkdir()
    Path("train.tsv").write_text("recordings\n")
    for name in ("data/b/shards.json", "data/a/wav.scp"):
        Path(name).parent.mkdir(parents=True)
        Path(name).write_text("")
    cures = {
        "nowhere": "give another path",
        "recordings": "make one of the recordings in it by `audiossl prep folder --corpus recordings --out NEW`, or, with its labels, of a corpus that `audiossl prep --list` names",
        "train.tsv": "make one of fairseq's manifests by `audiossl prep fairseq_manifests --corpus . --out NEW`",
        "data": "name one of those in it: data/a, data/b",
    }
    for name, cure in cures.items():
        with pytest.raises(
            ValueError, match=rf"^{name}: no data directory: neither wav\.scp nor shards\.json is in it; {cure}$"
        ):
            Manifest.open(name)


@pytest.mark.parametrize(
    ("second", "cure"), [("b", "join several by `audiossl data combine NEW a b`"), ("c", "give another path")]
)
def test_directories_with_a_comma_between_are_to_be_joined(tmp_path, monkeypatch, second, cure):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    with pytest.raises(ValueError, match=rf"^a,{second}: no data directory: .*; {cure}$"):
        Manifest.open(f"a,{second}")


def test_a_folder_of_shards_is_handed_on(tmp_path, monkeypatch):
    (tmp_path / "shards.json").write_text("{}")
    opened = object()
    fake = types.ModuleType("audiossl.data.shards")
    fake.ShardManifest = types.SimpleNamespace(open=lambda path: opened if path == tmp_path else None)
    monkeypatch.setitem(sys.modules, "audiossl.data.shards", fake)
    assert Manifest.open(tmp_path) is opened


@pytest.mark.slow
def test_an_utterance_costs_bytes(tmp_path):
    count = 200_000
    ids = [f"speaker{i % 1000:04d}-recording-{i:07d}" for i in range(count)]
    ids.sort()
    (tmp_path / "wav.scp").write_text("".join(f"{name} /corpus/audio/{name}.flac\n" for name in ids))
    (tmp_path / "utt2spk").write_text("".join(f"{name} {name[:11]}\n" for name in ids))
    (tmp_path / "utt2dur").write_text("".join(f"{name} 12.5\n" for name in ids))
    (tmp_path / "text").write_text("".join(f"{name} {'SOME WORDS ' * 15}\n" for name in ids))
    del ids
    for bound in (64, 1):  # bytes per utterance: while the index is built, and with it in place
        tracemalloc.start()
        opened = Manifest.open(tmp_path)
        total = float(opened.durations.sum())
        text = opened.column("text")
        rows = np.random.default_rng(0).integers(0, count, 20_000)
        assert all(text[int(i)].startswith("SOME") for i in rows)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert total == 12.5 * count
        assert peak < bound * count + 100_000


def test_a_table_keeps_its_rows_when_its_file_is_replaced(data):
    column = Manifest.open(data).column("text")
    index.signature(data / "text")
    (data / "new").write_text("s0-0 CHANGED\n")
    (data / "new").replace(data / "text")
    assert column[0] == "WORD 0"
    assert Manifest.open(data).column("text")[0] == "CHANGED"


def test_silence_names_the_file(tmp_path):
    import soundfile

    data = make(tmp_path, segments=False)
    soundfile.write(tmp_path / "audio" / "s0-0.wav", np.zeros(RATE), RATE)
    with pytest.raises(AudioError, match=r"s0-0\.wav: silent"):
        Manifest.open(data).audio(0, sample_rate=RATE)
    write_audio(tmp_path / "audio" / "s0-0.wav", tone(1.0), RATE)
    assert len(Manifest.open(data).audio(0, sample_rate=RATE)) == RATE
