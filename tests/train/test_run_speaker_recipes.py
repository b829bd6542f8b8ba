"""Every recipe for speakers trains, all its keys read: one step on a few recordings, on a narrow encoder of the same kind."""

import json
import shutil

import numpy as np
import pytest
import torch
from corpora import noises, write_corpus

from audiossl import registry
from audiossl.config import find_recipe, load_toml, merge, recipe_names, split_overrides
from audiossl.encoders._ssl_speaker import tiny_table
from audiossl.interop.checkpoint import latest_checkpoint, load_weights
from audiossl.objectives._speaker import SpeakerObjective
from audiossl.train.run_pretrain import pretrain

RATE = 16000
NARROW = {
    "ecapa_tdnn": {"channels": 32, "pooled_dim": 48},
    "fast_resnet34": {"blocks": [1, 1, 1, 1]},
    "thin_resnet34": {"base_channels": 16, "blocks": [1, 1, 1, 1]},
    "mhfa_speaker": {"encoder": tiny_table("wav2vec2")},
}
SMALL = {
    "ssps": {"num_clusters": 2, "queue_size": 4},
    "ssps_dino": {"num_clusters": 2, "queue_size": 4, "prototypes": 64, "head_dim": 32},
    "dino": {"prototypes": 64, "head_dim": 32},
    "moco": {"queue_size": 64},
}


def of_speakers(recipe):
    objective = load_toml(find_recipe(recipe)).get("objective")
    if objective is None:
        return False
    cls = registry.get("objectives", objective["name"])
    return isinstance(cls, type) and issubclass(cls, SpeakerObjective)


RECIPES = [name for name in recipe_names() if of_speakers(name)]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Four recordings of two speakers and three clusters, noises and a room."""
    folder = tmp_path_factory.mktemp("speakers")
    columns = {"utt2cluster": ("c0", "c1", "c2", "c0")}
    write_corpus(folder, noises(range(RATE, RATE + 32000, 8000)), speakers=("s0", "s1"), columns=columns)
    for place, samples in (("musan", RATE), ("rirs", 800)):
        write_corpus(folder / f"{place}_audio", noises([samples]), out=folder / place)
    return folder


def test_all_recipes_are_here():
    published = {"simclr_am_785", "simclr_am_750", "infonce_vicreg_847", "moco_am", "dino_speaker", "ssps_simclr"}
    others = {
        "ssps_dino",
        "pseudo_label",
        "pseudo_label_nano",
        "aam_speaker",
        "aam_nano",
        "mhfa_speaker",
        "simclr_nano",
    }
    assert published | others <= set(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_trains_for_a_step(tmp_path, corpus, name):
    tables = load_toml(find_recipe(name))
    reading = {"batch_seconds": 4.01 * tables["data"]["crop_duration"], "num_workers": 0}
    if "noise_dirs" in tables["data"]["augment"]:
        reading["augment"] = {"noise_dirs": [str(corpus / "musan")] * 3, "reverb_dir": str(corpus / "rirs")}
    overrides = {
        "encoder": NARROW[tables["encoder"]["name"]],
        "objective": SMALL.get(tables["objective"]["name"], {}),
        "data": reading,
        "train": {"max_steps": 1, "tensorboard": False, "save_every": 1, "eval_every": 0, "log_every": 1},
    }
    changed = merge(tables, overrides)
    assert changed["encoder"]["name"] == tables["encoder"]["name"]
    pretrain(name, out=tmp_path / "exp", data=corpus / "data", overrides=overrides, device="cpu")
    [line] = (tmp_path / "exp" / "metrics.jsonl").read_text().splitlines()
    assert np.isfinite(json.loads(line)["loss"])


def test_the_joint_stage_of_mhfa_goes_on_with_the_vectors(tmp_path, corpus, capsys):
    """By the options of the second command in the recipe's head, but for its rate, which is 0 here; other speakers start afresh."""
    text = find_recipe("mhfa_speaker").read_text(encoding="utf-8")
    command = text.split("audiossl pretrain mhfa_speaker")[2].split("\n#\n")[0].replace("\\\n#", " ")
    given, rest = split_overrides(command.split())
    assert rest == ["--init", "exp/mhfa", "--data", "data/voxceleb2/dev", "--out", "exp/mhfa_joint"]
    reading = {"batch_seconds": 12.1, "num_workers": 0}
    reading["augment"] = {"noise_dirs": [str(corpus / "musan")] * 3, "reverb_dir": str(corpus / "rirs")}
    small = {"data": reading, "encoder": NARROW["mhfa_speaker"] | {"init": ""}}
    small |= {"train": {"max_steps": 1, "tensorboard": False, "save_every": 1, "eval_every": 0, "log_every": 1}}
    others = tmp_path / "others"
    shutil.copytree(corpus / "data", others)
    (others / "utt2spk").write_text((others / "utt2spk").read_text().replace(" s1", " t1"))
    pretrain("mhfa_speaker", out=tmp_path / "head", data=corpus / "data", overrides=small, device="cpu")
    still = merge(merge(given, small), {"optim": {"peak_lr": 1e-30}})
    for name, data in (("joint", corpus / "data"), ("other", others)):
        start = {"init": str(tmp_path / "head"), "device": "cpu"}
        pretrain("mhfa_speaker", out=tmp_path / name, data=data, overrides=still, **start)
    head, joint, other = (load_weights(latest_checkpoint(tmp_path / name)) for name in ("head", "joint", "other"))
    assert torch.equal(joint["vectors"], head["vectors"])
    assert not torch.equal(other["vectors"], head["vectors"])
    said = capsys.readouterr().err
    assert f"{tmp_path / 'head'}: the vectors of its 2 classes are used too" in said
    assert "these start afresh" in said


def test_what_has_no_pseudo_label_is_left_out_and_counted(tmp_path, corpus, capsys):
    data = tmp_path / "data"
    shutil.copytree(corpus / "data", data)
    lines = (data / "utt2cluster").read_text().splitlines(keepends=True)
    (data / "utt2cluster").write_text("".join(lines[:1] + lines[2:]))
    overrides = {
        "encoder": NARROW["fast_resnet34"],
        "data": {"batch_seconds": 2.5, "num_workers": 0},
        "train": {"max_steps": 1, "tensorboard": False, "save_every": 1, "log_every": 1},
    }
    pretrain("pseudo_label_nano", out=tmp_path / "exp", data=data, overrides=overrides, device="cpu")
    assert f"{data}: 1 of 4 utterances show no label and are left out" in capsys.readouterr().err
