from __future__ import annotations

import shutil

import pytest

from audiossl import registry
from audiossl.data.manifest import Manifest
from audiossl.verification.trials import read_trials

voxceleb = registry.get("data_prep", "voxceleb1")


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    root = tmp_path_factory.mktemp("vox1") / "corpus"
    root.mkdir()
    voxceleb.fake(root)
    return root


@pytest.fixture
def corpus(original, tmp_path):
    return shutil.copytree(original, tmp_path / "corpus")


def test_parts_follow_the_speakers(original, tmp_path):
    voxceleb.prepare(original, tmp_path)
    made = {name: Manifest.open(tmp_path / name) for name in ("all", "dev", "test")}
    speakers = {name: set(manifest.column("utt2spk")) for name, manifest in made.items()}
    assert speakers["dev"] == {"id10001", "id10002"}
    assert speakers["test"] == {"id10270", "id10271"}
    assert speakers["all"] == speakers["dev"] | speakers["test"]
    index = list(made["all"].ids).index("id10001--DpVZzkwHTA-00001")
    assert made["all"].column("utt2video")[index] == "-DpVZzkwHTA"
    genders = dict(zip(made["all"].column("utt2spk"), made["all"].column("utt2gender"), strict=True))
    assert genders == {"id10001": "m", "id10002": "f", "id10270": "m", "id10271": "f"}


def test_lists_are_those_published_and_lie_where_their_recordings_are(original, tmp_path):
    voxceleb.prepare(original, tmp_path)
    files = {"o": "veri_test", "e": "list_test_all", "h": "list_test_hard"}
    for letter, file in files.items():
        for suffix, digit in (("", ""), ("_cleaned", "2")):
            lines = (original / "meta" / f"{file}{digit}.txt").read_text().splitlines()
            trials = read_trials(tmp_path / "all" / f"trials_{letter}{suffix}")
            assert len(trials) == len(lines)
            for line, i, j, label in zip(lines, trials.enrol, trials.test, trials.labels, strict=True):
                said = " ".join([str(int(label)), trials.names[i], trials.names[j]])
                assert said == line.replace(".wav", "").replace("/", "-")
    assert {path.name for path in (tmp_path / "test").glob("trials*")} == {"trials_o", "trials_o_cleaned"}
    assert set(read_trials(tmp_path / "test" / "trials_o").names) <= set(Manifest.open(tmp_path / "test").ids)
    assert not list((tmp_path / "dev").glob("trials*"))


def test_identification_split(original, tmp_path):
    voxceleb.prepare(original, tmp_path)
    lines = (original / "meta" / "iden_split.txt").read_text().splitlines()
    for digit, name in (("1", "iden_train"), ("2", "iden_dev"), ("3", "iden_test")):
        expected = {line[2:-4].replace("/", "-") for line in lines if line[0] == digit}
        assert set(Manifest.open(tmp_path / name).ids) == expected


def test_directories_of_superb(original, tmp_path):
    voxceleb.prepare(original, tmp_path)
    made = {part: Manifest.open(tmp_path / "superb_asv" / part) for part in ("train", "dev", "test")}
    assert list(made["train"].ids) == list(Manifest.open(tmp_path / "dev").ids)
    assert (made["test"].path / "trials").read_bytes() == (tmp_path / "test" / "trials_o").read_bytes()
    assert set(made["dev"].ids) <= set(made["train"].ids)
    trials = read_trials(made["dev"].path / "trials")
    speaker = dict(zip(made["dev"].ids, made["dev"].column("utt2spk"), strict=True))
    same = [
        speaker[trials.names[i]] == speaker[trials.names[j]] for i, j in zip(trials.enrol, trials.test, strict=True)
    ]
    assert same == trials.labels.tolist()
    assert sum(same) == 12  # all pairs of a speaker; as many of two
    assert len(trials) == 24


def test_list_o_by_the_name_that_superb_has_for_it(original, corpus, tmp_path, caplog):
    listed = corpus / "meta" / "veri_test.txt"
    voxceleb.prepare(original, tmp_path / "plain")
    listed.rename(corpus / "meta" / "voxceleb1_test_v2.txt")
    voxceleb.prepare(corpus, tmp_path / "renamed")
    assert [line.partition(": ")[2][:28] for line in caplog.messages] == ["not as many speakers as publ"] * 2
    for place in ("superb_asv/test/trials", "superb_asv/dev/trials", "test/trials_o", "all/trials_o"):
        assert (tmp_path / "plain" / place).read_bytes() == (tmp_path / "renamed" / place).read_bytes()
    listed.with_name("voxceleb1_test_v2.txt").unlink()
    caplog.clear()
    voxceleb.prepare(corpus, tmp_path / "without")
    assert not (tmp_path / "without" / "superb_asv").exists()
    numbers, _, line = caplog.messages
    assert numbers.endswith(
        "published: dev 2 of 1,211, test 2 of 40; give all of it and nothing else, unless this is meant"
    )
    assert line.startswith("superb_asv is not written: it needs both parts of the corpus and, in ")
    assert line.endswith(", veri_test.txt or voxceleb1_test_v2.txt")


def test_speakers_of_development_can_be_held_out(corpus, tmp_path):
    for number in (3, 4, 5):
        shutil.copytree(corpus / "vox1_dev_wav/wav/id10001", corpus / f"vox1_dev_wav/wav/id1000{number}")
    (corpus / "meta" / "vox1_meta.csv").unlink()
    voxceleb.prepare(corpus, tmp_path / "out", voxceleb.Config(dev_speakers=2, held_out=True))
    parts = {
        part: set(Manifest.open(tmp_path / "out/superb_asv" / part).column("utt2spk")) for part in ("train", "dev")
    }
    assert len(parts["dev"]) == 2
    assert len(parts["train"]) == 3
    assert not parts["train"] & parts["dev"]
    with pytest.raises(ValueError, match=r"prep\.dev_speakers: 9 held out of 5 leave none; hold out fewer"):
        voxceleb.prepare(corpus, tmp_path / "none", voxceleb.Config(dev_speakers=9, held_out=True))
    with pytest.raises(ValueError, match=r"prep\.dev_speakers: 1 cannot be told apart"):
        voxceleb.Config(dev_speakers=1)


@pytest.mark.parametrize("listed", ["iden_split.txt", "veri_test_class.txt"])
def test_the_data_of_superb_speaker_identification(corpus, tmp_path, listed):
    (corpus / "meta" / "iden_split.txt").rename(corpus / "meta" / listed)
    voxceleb.prepare(corpus, tmp_path / "out")
    for part in ("train", "dev", "test"):
        made = Manifest.open(tmp_path / "out" / "superb_sid" / part)
        assert list(made.ids) == list(Manifest.open(tmp_path / "out" / f"iden_{part}").ids)
        assert len(set(made.column("utt2spk"))) == 4


def test_one_folder_and_lists_beside_it(corpus, tmp_path):
    for part in ("dev", "test"):
        shutil.copytree(corpus / f"vox1_{part}_wav" / "wav", corpus / "wav", dirs_exist_ok=True)
        shutil.rmtree(corpus / f"vox1_{part}_wav")
    for path in (corpus / "meta").iterdir():
        shutil.move(path, corpus / path.name)
    (corpus / "vox1_meta.csv").unlink()
    voxceleb.prepare(corpus, tmp_path / "out")
    made = Manifest.open(tmp_path / "out" / "all")
    assert len(made) == 16
    assert "utt2gender" not in made.column_names()
    assert (tmp_path / "out" / "test" / "trials_o_cleaned").is_file()


def test_speakers_of_voxceleb2_in_the_same_folder_are_left_out(original, corpus, tmp_path, caplog):
    folder = corpus / "vox1_dev_wav" / "wav"
    for speaker in ("id00012", "id09272"):
        shutil.copytree(folder / "id10001", folder / speaker)
    voxceleb.prepare(original, tmp_path / "plain")
    caplog.clear()
    voxceleb.prepare(corpus, tmp_path / "out")
    for name in ("all", "dev", "superb_asv/train"):
        assert list(Manifest.open(tmp_path / "out" / name).ids) == list(Manifest.open(tmp_path / "plain" / name).ids)
    left_out, _ = caplog.messages
    assert left_out == f"{folder}: left out 8 recordings of speakers id0..., VoxCeleb2's"


def test_lists_that_are_not_there_are_named(corpus, tmp_path, caplog):
    (corpus / "meta" / "list_test_hard2.txt").unlink()
    voxceleb.prepare(corpus, tmp_path / "out")
    assert f"trials_h_cleaned is not written: it needs, in {corpus}, list_test_hard2.txt" in caplog.messages
    assert "trials_h is" not in caplog.text


def test_a_recording_is_of_one_part_of_identification(corpus, tmp_path):
    path = corpus / "meta" / "iden_split.txt"
    lines = path.read_text().splitlines()
    other = f"{'21'[lines[0][0] == '2']} {lines[0][2:]}"
    path.write_text("\n".join([*lines, other]) + "\n")
    with pytest.raises(
        ValueError, match=rf"iden_split\.txt:{len(lines) + 1}: .* is of part {other[0]} here and of {lines[0][0]} above"
    ):
        voxceleb.prepare(corpus, tmp_path / "out")


def test_the_test_part_alone(corpus, tmp_path):
    shutil.rmtree(corpus / "vox1_dev_wav")
    with pytest.raises(ValueError, match=r"iden_split\.txt:1: id10001/.* is not among the recordings"):
        voxceleb.prepare(corpus, tmp_path / "cut")
    (corpus / "meta" / "iden_split.txt").unlink()
    with pytest.raises(ValueError, match=r"list_test_all\.txt:1: id10001/.* is not among the recordings"):
        voxceleb.prepare(corpus, tmp_path / "cut2")
    for path in (corpus / "meta").glob("list_test_*"):
        path.unlink()
    voxceleb.prepare(corpus, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"all", "test"}


def test_faults_are_named(corpus, tmp_path):
    meta = corpus / "meta" / "vox1_meta.csv"
    text = meta.read_text()
    meta.write_text(text.replace("\tm\t", "\tx\t"))
    with pytest.raises(ValueError, match=r"vox1_meta\.csv:2: not `id name m\|f"):
        voxceleb.prepare(corpus, tmp_path / "a")
    meta.write_text("\n".join(text.splitlines()[:-1]))
    with pytest.raises(ValueError, match=r"speaker id10271 is not in vox1_meta\.csv"):
        voxceleb.prepare(corpus, tmp_path / "b")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="wav: not found, nor dev/wav"):
        voxceleb.prepare(tmp_path / "empty", tmp_path / "c")
