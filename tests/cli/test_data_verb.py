"""`audiossl data`: exit status, what is printed where, and that its examples parse."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest
from command import audiossl, complains, succeed

from audiossl.cli import data as verb
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
    return audiossl("data", *words)


def test_validate_a_sound_directory(data):
    assert run("validate", data) == (0, "", f"{data}: sound\n")


def test_validate_prints_each_fault(data):
    (data / "text").write_text("s0-0 A\n\ns0-1\n")
    status, out, err = run("validate", data)
    lines = out.splitlines()
    assert (status, len(lines)) == (1, 6)
    assert all(
        re.fullmatch(r".*/data/text:\d+: .*(;|, or) run `audiossl data fix .*`( to leave it out)?", line)
        for line in lines
    )
    assert err.endswith(f"{data}: faults: 6\n")
    assert err.count("\n") == 1
    status, out, _ = run("validate", data, "--json")
    report = json.loads(out)
    assert (status, report["ok"]) == (1, False)
    assert [f"{f['path']}:{f['line']}: {f['what']}; {f['cure']}" for f in report["faults"]] == lines


def test_validate_allows_commands_only_when_told(data, tmp_path):
    scp = data / "wav.scp"
    scp.write_text(re.sub(r"s0-0 (.*)", r"s0-0 cat \1 |", scp.read_text()))
    status, out, _ = run("validate", data)
    assert (status, "--allow-commands" in out) == (1, True)
    succeed("data", "validate", data, "--allow-commands")


def test_fix_mends_and_says_what(data):
    (data / "text").write_text("s0-1 A\ns0-0 A\n\ns1-1 B\n")
    assert "text: dropped 1 unreadable" in succeed("data", "fix", data)[0]
    assert list(Manifest.open(data).ids) == ["s0-0", "s0-1", "s1-1"]
    assert json.loads(succeed("data", "fix", data, "--json")[0]) == {"ok": True, "done": [], "faults": []}


def test_fix_exits_1_where_faults_remain(data):
    (data / "utt2spk").unlink()
    status, out, _ = run("fix", data)
    said = out.splitlines()
    assert (status, said[0]) == (1, "nothing to mend")
    assert "utt2spk:0: missing" in said[1]


@pytest.mark.parametrize(
    ("option", "value", "count"),
    [
        ("--first", 2, 2),
        ("--part", "2/3", 2),
        ("--random", 3, 3),
        ("--per-speaker", 1, 2),
        ("--max-seconds", 4.5, 4),
        ("--list-file", None, 1),
    ],
)
def test_subset(data, tmp_path, option, value, count):
    if value is None:
        value = tmp_path / "list"
        value.write_text("s1-1\n")
    assert f"{count} utterances" in succeed("data", "subset", data, tmp_path / "part", option, value)[1]
    assert len(Manifest.open(tmp_path / "part")) == count
    assert "exists; remove it" in complains("data", "subset", data, tmp_path / "part", option, value)


def test_subset_wants_exactly_one_way(data, tmp_path):
    complains("data", "subset", data, tmp_path / "part", status=2)
    assert "exactly one of" in complains(
        "data", "subset", data, tmp_path / "part", "--first", 1, "--random", 1, status=2
    )
    assert "none: no such file; correct --list-file" in complains(
        "data", "subset", data, tmp_path / "part", "--list-file", tmp_path / "none"
    )
    assert not (tmp_path / "part").exists()


def test_combine(data, tmp_path):
    other = make(tmp_path / "other", prefix="t")
    (other / "text").unlink()
    assert "text is left out" in succeed("data", "combine", tmp_path / "all", data, other)[1]
    assert len(Manifest.open(tmp_path / "all")) == 12
    assert "'s0-0' is in" in complains("data", "combine", tmp_path / "twice", data, data)


def test_info(data):
    text, _ = succeed("data", "info", data)
    assert "utterances  6" in text
    assert "speakers    2" in text
    facts = json.loads(succeed("data", "info", data, "--json")[0])
    assert facts == {
        "path": str(data),
        "utterances": 6,
        "hours": 6 / 3600,
        "speakers": 2,
        "seconds": dict.fromkeys(("min", "p10", "median", "p90", "max"), 1.0),
        "columns": ["text", "utt2dur", "utt2spk"],
    }


def test_info_on_no_directory(tmp_path):
    complains("data", "info", tmp_path)


def test_shard(data, tmp_path):
    _, err = succeed("data", "shard", data, tmp_path / "shards", "--max-bytes", 20000)
    number = len(list((tmp_path / "shards").glob("*.tar")))
    said = f"{tmp_path / 'shards'}: {len(Manifest.open(data))} utterances in {number} tar files"
    assert said in err
    for name in ("validate", "fix"):
        assert "shards: a folder of shards; use the data directory that it was made from" in complains(
            "data", name, tmp_path / "shards"
        )
    assert list(Manifest.open(tmp_path / "shards").ids) == list(Manifest.open(data).ids)


def test_augment(data, tmp_path):
    noisy = ("--augment.noise_probability", 1, "--augment.noise_dirs", f'["{data}"]', "--augment.noise_snr", "[[5, 5]]")
    _, err = succeed("data", "augment", data, tmp_path / "noisy", *noisy, "--sample-rate", 8000, "--seed", 1)
    assert err == f"{tmp_path / 'noisy'}: 6 utterances\n"
    succeed("data", "validate", tmp_path / "noisy")
    assert "augment: unknown key 'noise_chance'" in complains(
        "data", "augment", data, tmp_path / "more", "--augment.noise_chance", 1
    )
    assert "its options are --augment.key value" in complains(
        "data", "augment", data, tmp_path / "more", "--data.augment.gain_probability", 1, status=2
    )
    complains("data", "augment", data, tmp_path / "noisy", *noisy)


@pytest.mark.parametrize("name", verb.SUBVERBS)
def test_help_has_an_example_that_names_the_subverb(name):
    assert f"Example: audiossl data {name} " in " ".join(succeed("data", name, "--help")[0].split())


def test_misuse():
    for words in (["validate"], ["mend"], ["info", "a", "--jsn"]):
        complains("data", *words, status=2)


def test_validate_says_that_samples_were_not_checked(data):
    _, err = succeed("data", "validate", data, "--no-check-audio")
    assert err == f"{data}: sound; of the audio only headers were read\n"
    for words, checked in ((("--no-check-audio",), False), ((), True)):
        out, _ = succeed("data", "validate", data, "--json", *words)
        assert json.loads(out) == {"ok": True, "samples_checked": checked, "faults": []}


def test_subset_as_json(data, tmp_path):
    assert json.loads(succeed("data", "subset", data, tmp_path / "part", "--first", 2, "--json")[0]) == {
        "path": str(tmp_path / "part"),
        "utterances": 2,
        "hours": 2 / 3600,
    }


def test_subset_and_combine_run_programs_only_when_told(data, tmp_path):
    entries = [line.split() for line in (data / "wav.scp").read_text().splitlines()]
    (data / "wav.scp").write_text("".join(f"{name} cat {path} |\n" for name, path in entries))
    (data / "utt2dur").unlink()
    other = make(tmp_path / "other", "t")  # has the durations that `data` then needs too
    for words in (
        ("subset", data, tmp_path / "part", "--max-seconds", 2.5),
        ("combine", tmp_path / "all", data, other),
    ):
        assert "give --allow-commands" in complains("data", *words)
        succeed("data", *words, "--allow-commands")
        shutil.rmtree(data / ".index")  # remembers the durations
    assert (tmp_path / "part" / "wav.scp").read_text().count(" |\n") == 2
    assert (tmp_path / "all" / "utt2dur").read_text().count("\n") == 12
