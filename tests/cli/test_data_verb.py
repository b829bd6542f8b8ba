"""`audiossl data`: exit status, what is printed where, and that its examples parse."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from audiossl.cli import data as verb
from audiossl.cli.main import main
from audiossl.data.audio import write_audio
from audiossl.data.manifest import Manifest
from audiossl.data.writer import CorpusUtterance, write_data_dir


def make(root, prefix="s"):
    root.mkdir(parents=True)
    wave = (0.3 * np.sin(np.arange(1, 8001) * 0.1)).astype(np.float32)
    made = []
    for speaker in range(2):
        for take in range(3):
            name = f"{prefix}{speaker}-{take}"
            write_audio(root / f"{name}.wav", wave, 8000)
            made.append(
                CorpusUtterance(name, name, root / f"{name}.wav", f"{prefix}{speaker}", columns={"text": "A B"})
            )
    write_data_dir(made, root / "data")
    return root / "data"


@pytest.fixture
def data(tmp_path):
    return make(tmp_path / "corpus")


def run(*words):
    with pytest.raises(SystemExit) as stop:
        main(["data", *map(str, words)])
    return stop.value.code


def test_validate_a_sound_directory(data, capsys):
    assert run("validate", data) == 0
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == f"{data}: sound\n"


def test_validate_prints_each_fault(data, capsys):
    (data / "text").write_text("s0-0 A\n\ns0-1\n")
    assert run("validate", data) == 1
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert len(lines) == 6
    assert all(
        re.fullmatch(r".*/data/text:\d+: .*(;|, or) run `audiossl data fix .*`( to leave it out)?", line)
        for line in lines
    )
    assert said.err.endswith(f"{data}: faults: 6\n")
    assert said.err.count("\n") == 1
    assert run("validate", data, "--json") == 1
    report = json.loads(capsys.readouterr().out)
    assert not report["ok"]
    assert [f"{f['path']}:{f['line']}: {f['what']}; {f['cure']}" for f in report["faults"]] == lines


def test_validate_allows_commands_only_when_told(data, tmp_path, capsys):
    scp = data / "wav.scp"
    scp.write_text(re.sub(r"s0-0 (.*)", r"s0-0 cat \1 |", scp.read_text()))
    assert run("validate", data) == 1
    assert "--allow-commands" in capsys.readouterr().out
    assert run("validate", data, "--allow-commands") == 0


def test_fix_mends_and_says_what(data, capsys):
    (data / "text").write_text("s0-1 A\ns0-0 A\n\ns1-1 B\n")
    assert run("fix", data) == 0
    assert "text: dropped 1 unreadable" in capsys.readouterr().out
    assert list(Manifest.open(data).ids) == ["s0-0", "s0-1", "s1-1"]
    assert run("fix", data, "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"ok": True, "done": [], "faults": []}


def test_fix_exits_1_where_faults_remain(data, capsys):
    (data / "utt2spk").unlink()
    assert run("fix", data) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "nothing to mend"
    assert "utt2spk:0: missing" in said[1]


@pytest.mark.parametrize(
    ("option", "value", "count"),
    [
        ("--first", 2, 2),
        ("--random", 3, 3),
        ("--per-speaker", 1, 2),
        ("--max-seconds", 4.5, 4),
        ("--list-file", None, 1),
    ],
)
def test_subset(data, tmp_path, option, value, count, capsys):
    if value is None:
        value = tmp_path / "list"
        value.write_text("s1-1\n")
    assert run("subset", data, tmp_path / "part", option, value) == 0
    assert len(Manifest.open(tmp_path / "part")) == count
    assert f"{count} utterances" in capsys.readouterr().err
    assert run("subset", data, tmp_path / "part", option, value) == 1
    assert "exists; remove it" in capsys.readouterr().err


def test_subset_wants_exactly_one_way(data, tmp_path, capsys):
    assert run("subset", data, tmp_path / "part") == 2
    assert run("subset", data, tmp_path / "part", "--first", 1, "--random", 1) == 2
    assert "exactly one of" in capsys.readouterr().err
    assert run("subset", data, tmp_path / "part", "--list-file", tmp_path / "none") == 1
    assert "none: no such file; correct --list-file" in capsys.readouterr().err
    assert not (tmp_path / "part").exists()


def test_combine(data, tmp_path, capsys):
    other = make(tmp_path / "other", prefix="t")
    (other / "text").unlink()
    assert run("combine", tmp_path / "all", data, other) == 0
    assert "text is left out" in capsys.readouterr().err
    assert len(Manifest.open(tmp_path / "all")) == 12
    assert run("combine", tmp_path / "twice", data, data) == 1
    assert "'s0-0' is in" in capsys.readouterr().err


def test_info(data, capsys):
    assert run("info", data) == 0
    text = capsys.readouterr().out
    assert "utterances  6" in text
    assert "speakers    2" in text
    assert run("info", data, "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts == {
        "path": str(data),
        "utterances": 6,
        "hours": 6 / 3600,
        "speakers": 2,
        "seconds": dict.fromkeys(("min", "p10", "median", "p90", "max"), 1.0),
        "columns": ["text", "utt2dur", "utt2spk"],
    }


def test_info_on_no_directory(tmp_path, capsys):
    assert run("info", tmp_path) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_shard(data, tmp_path, capsys):
    assert run("shard", data, tmp_path / "shards", "--max-bytes", 20000) == 0
    number = len(list((tmp_path / "shards").glob("*.tar")))
    said = f"{tmp_path / 'shards'}: {len(Manifest.open(data))} utterances in {number} tar files"
    assert said in capsys.readouterr().err
    for name in ("validate", "fix"):
        assert run(name, tmp_path / "shards") == 1
        assert "shards: a folder of shards; use the data directory that it was made from" in capsys.readouterr().err
    assert list(Manifest.open(tmp_path / "shards").ids) == list(Manifest.open(data).ids)


def test_augment(data, tmp_path, capsys):
    noisy = ("--augment.noise_probability", 1, "--augment.noise_dirs", f'["{data}"]', "--augment.noise_snr", "[[5, 5]]")
    assert run("augment", data, tmp_path / "noisy", *noisy, "--sample-rate", 8000, "--seed", 1) == 0
    assert capsys.readouterr().err == f"{tmp_path / 'noisy'}: 6 utterances\n"
    assert run("validate", tmp_path / "noisy") == 0
    capsys.readouterr()
    assert run("augment", data, tmp_path / "more", "--augment.noise_chance", 1) == 1
    assert "augment: unknown key 'noise_chance'" in capsys.readouterr().err
    assert run("augment", data, tmp_path / "more", "--data.augment.gain_probability", 1) == 2
    assert "its options are --augment.key value" in capsys.readouterr().err
    assert run("augment", data, tmp_path / "noisy", *noisy) == 1
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("name", verb.SUBVERBS)
def test_help_has_an_example_that_names_the_subverb(name, capsys):
    assert run(name, "--help") == 0
    assert f"Example: audiossl data {name} " in " ".join(capsys.readouterr().out.split())


def test_misuse(capsys):
    assert run("validate") == 2
    assert run("mend") == 2
    assert run("info", "a", "--jsn") == 2
    assert capsys.readouterr().err.count("\n") == 3


def test_validate_says_that_samples_were_not_checked(data, capsys):
    assert run("validate", data, "--no-check-audio") == 0
    said = capsys.readouterr()
    assert said.err == f"{data}: sound; of the audio only headers were read\n"
    for words, checked in ((("--no-check-audio",), False), ((), True)):
        run("validate", data, "--json", *words)
        assert json.loads(capsys.readouterr().out) == {"ok": True, "samples_checked": checked, "faults": []}


def test_subset_as_json(data, tmp_path, capsys):
    assert run("subset", data, tmp_path / "part", "--first", 2, "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"path": str(tmp_path / "part"), "utterances": 2, "hours": 2 / 3600}
