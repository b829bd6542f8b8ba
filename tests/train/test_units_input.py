"""An encoder that reads units, from pretraining to a transcript and a probe."""

from __future__ import annotations

import json
import shutil
from functools import partial

import numpy as np
import pytest
import torch
from command import audiossl, complains, succeed
from corpora import noises, write_corpus, write_encoder

from audiossl import load
from audiossl.config import find_recipe, load_toml, to_table, write_toml
from audiossl.data.loader import LoaderConfig
from audiossl.data.manifest import Manifest
from audiossl.diagnostics.sources import open_features
from audiossl.encoders.codes import Codes
from audiossl.train.run_finetune import finetune, load_finetuned, predict_all
from audiossl.train.run_pretrain import pretrain
from audiossl.units import features
from audiossl.units.labels import read_card, read_labels

TRAIN = {"max_steps": 2, "save_every": 2, "precision": "fp32", "tensorboard": False}
DATA = {"batch_seconds": 4.0, "num_workers": 0}
PRETRAIN = {
    "encoder": {"name": "codes", **to_table(Codes.Config.tiny()), "num_codes": 50, "labels": "vq"},
    "objective": {"name": "discrete_bert", "labels": ["vq"], "crop_duration": 1.0},
    "units": {"name": "vq", "feature": "codes", "clusters": 50, "num_workers": 0},
    "data": DATA,
    "train": TRAIN,
}
FINETUNE = {
    "task": {"name": "ctc"},
    "adapter": {"name": "full"},
    "finetune": {"mask_length": 3, "channel_mask_length": 4},
    "data": DATA,
    "optim": {"peak_lr": 1e-3},
    "train": TRAIN,
}


def make_data(folder, seed, count=6):
    columns = {"text": ("AB", "BA A"), "utt2keyword": ("yes", "no")}
    return write_corpus(
        folder, noises(range(9000, 9000 + 700 * count, 700), seed), speakers=("s0", "s1"), columns=columns
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A quantiser, a BERT of its codes, and a recogniser on that: the chain as a user makes it."""
    place = tmp_path_factory.mktemp("units_input")

    def use_many_codes(quantiser):
        with torch.no_grad():
            quantiser.quantiser.logits[-1].weight.mul_(30)

    write_encoder(place / "vq", "vq_wav2vec", change=use_many_codes)
    train, dev, _ = (make_data(place / name, seed) for seed, name in enumerate(("train", "dev", "test")))
    for name, tables in {"pretrain": PRETRAIN, "finetune": FINETUNE}.items():
        write_toml(place / f"{name}.toml", tables)
    source = {"units": {"encoder": str(place / "vq")}}
    pretrain(str(place / "pretrain.toml"), out=place / "bert", data=train, dev=dev, overrides=source, device="cpu")
    fine(place, "asr", dev=dev)
    return place


@pytest.fixture
def place(made, tmp_path):
    """The same with the test data apart, which lack the units."""
    shutil.copytree(made / "test" / "data", tmp_path / "test")
    return made, tmp_path / "test"


def fine(place, out, *, data="train", **options):
    words = {"init": str(place / "bert"), "data": place / data / "data", "device": "cpu", **options}
    return finetune(str(place / "finetune.toml"), out=place / out, **words)


def label(place, data, *, codebook=None):
    words = ("--codebook", codebook or place / "bert" / "units", "--name", "vq", "--num-workers", 0)
    succeed("units", "apply", "--data", data, *words)


cpu = ("--num-workers", 0, "--device", "cpu")


def test_the_encoder_names_what_it_reads(made):
    assert load_toml(made / "bert" / "config.toml")["encoder"]["labels"] == "vq"
    module, tables = load_finetuned(made / "asr")
    assert tables["encoder"]["labels"] == "vq"
    assert module.encoder.reads.column == "units/vq"
    assert module.needs == ("text", "units/vq")


def test_no_recording_is_read(place, monkeypatch):
    made, data = place
    label(made, data)
    monkeypatch.setattr(Manifest, "audio", lambda *_, **__: pytest.fail("decoded"))
    module, _ = load_finetuned(made / "asr")
    texts = dict(predict_all(module, Manifest.open(data), LoaderConfig(num_workers=0), on_bad=pytest.fail))
    rows = read_labels(data, "vq", codebook_size=read_card(data, "vq").codebook_size)
    for _, utterance, units in rows:  # one by one, straight into the encoder
        batch = {"waveform": torch.from_numpy(units)[None], "waveform_lengths": torch.tensor([len(units)])}
        with torch.no_grad():
            assert texts[utterance] == module.predict(batch)[0]
    assert len(texts) == 6


@pytest.mark.parametrize("adapter", ["frozen", "houlsby", "lora", "top_layers"])
def test_every_adapter_fits(made, adapter):
    options = {"name": adapter, **({"bottleneck": 4} if adapter == "houlsby" else {})}
    options |= {"num_top_layers": 1} if adapter == "top_layers" else {}
    last = fine(made, f"asr_{adapter}", overrides={"adapter": options})
    assert np.isfinite(last["loss"])


def test_recipes_of_full_fine_tuning_fit(made):
    recipe = {name: load_toml(find_recipe("ctc_10h"))[name] for name in ("encoder", "adapter")}
    assert recipe["encoder"]["dropout_input"] == 0.0
    last = fine(made, "asr_published", overrides=recipe)
    assert np.isfinite(last["loss"])


def test_data_without_units_say_how_to_make_them(place):
    made, data = place
    cure = f"audiossl units apply --data {data} --codebook {made / 'bert' / 'units'} --name vq"
    for words in (
        ("transcribe", made / "asr", data),
        ("probe", made / "bert", "--task", "keyword", "--train", data, "--split", "0.5/0.25/0.25", "--out", made / "p"),
        ("finetune", made / "finetune.toml", "--init", made / "bert", "--data", data, "--out", made / "none"),
    ):
        said = complains(*words, *(cpu if words[0] != "finetune" else ()))
        assert f"{data / 'units' / 'vq'}: not there, but" in said
        assert cure in said
    assert not (made / "none").exists()


def test_whose_codebook_is_gone_is_said(place, tmp_path):
    made, data = place
    label(made, data)
    shutil.copytree(made / "asr", tmp_path / "asr")
    config = tmp_path / "asr" / "config.toml"
    config.write_text(config.read_text().replace(str(made / "bert"), str(tmp_path / "bert")))
    said = complains("transcribe", tmp_path / "asr", data, *cpu, status=1)
    needed = f"{tmp_path / 'asr'}: needs the encoder that it was trained on, {tmp_path / 'bert'}, which is not there"
    assert said == f"audiossl: {needed}; put it back, or correct run.init in {config}\n"


def test_units_of_another_codebook_are_refused(place):
    made, data = place
    label(made, data)
    card = data / "units" / "vq.json"
    card.write_text(json.dumps(json.loads(card.read_text()) | {"codebook_hash": "0" * 64}))
    assert "made by another codebook than those that" in complains("transcribe", made / "asr", data, *cpu)


def test_a_file_and_a_directory_of_it_give_the_same(place, monkeypatch):
    made, data = place
    label(made, data)
    monkeypatch.setattr(features, "default_device", lambda: pytest.fail("--device is not asked for"))
    (made / "noise.txt").write_text("no audio")
    files = sorted((made / "test").glob("*.wav"))
    texts = json.loads(succeed("transcribe", made / "asr", data, *files, *cpu, "--json")[0])["texts"]
    ids = sorted((name for name in texts if name.startswith("s")), key=lambda name: int(name.partition("-")[2]))
    assert [texts[str(file)] for file in files] == [texts[name] for name in ids]
    status, out, _ = audiossl("transcribe", made / "asr", made / "noise.txt", files[0], *cpu, "--json")
    said = json.loads(out)
    assert status == 1
    assert list(said["texts"]) == [str(files[0])]
    assert len(said["bad"]) == 1


def test_a_file_without_the_codebook_says_what_is_needed(place, tmp_path):
    made, _ = place
    bare = tmp_path / "bare"
    shutil.copytree(made / "bert", bare)
    shutil.rmtree(bare / "units")
    fine(made, tmp_path / "asr_bare", init=str(bare))
    file = made / "test" / "0.wav"
    said = complains("transcribe", tmp_path / "asr_bare", file, *cpu)
    assert "reads units/vq, and does not hold the codebook that makes them" in said
    assert "`audiossl units apply --name vq`" in said


def test_a_probe_reads_the_units_and_sees_when_they_change(place, tmp_path):
    made, data = place
    label(made, data)
    words = ("--task", "keyword", "--train", data, "--split", "0.4/0.3/0.3", "--probe.steps", 2, *cpu, "--json")
    pooled = ("--cache", tmp_path / "pooled")
    found = []
    for source in ("bert", "bert", "asr"):
        out, _ = succeed("probe", made / source, *words, "--out", tmp_path / "probe", *pooled)
        found.append(json.loads(out)["forwards"])
    assert found == [6, 0, 6]
    path = data / "units" / "vq"
    path.write_text("".join(f"{line} 0\n" for line in path.read_text().splitlines()))
    out, _ = succeed("probe", made / "bert", *words, "--out", tmp_path / "probe", *pooled)
    assert json.loads(out)["forwards"] == 6
    random = open_features(f"random:{made / 'bert'}", seed=1, device="cpu", train=Manifest.open(data))
    assert random.reads.column == "units/vq"


def test_features_of_units(place, tmp_path):
    made, data = place
    words = ("features", made / "bert", data, "--out", tmp_path / "f", *cpu, "--num-workers", 0, "--layer", 1)
    assert "units/vq: not there, but " in complains(*words)
    label(made, data)
    succeed(*words)
    encoder, column = load(made / "bert").eval(), Manifest.open(data).column("units/vq")
    for row, utterance in enumerate(Manifest.open(data).ids):
        units = torch.tensor([[int(unit) for unit in column[row].split()]])
        with torch.no_grad():
            expected = encoder(units, torch.tensor([units.shape[1]])).layers[1][0].numpy()
        np.testing.assert_allclose(np.load(tmp_path / "f" / f"{utterance}.npy"), expected, rtol=0, atol=1e-5)


def test_what_needs_recordings_refuses_it(made):
    refused = partial(fine, made, "refused")
    with pytest.raises(ValueError, match=r"data\.augment: changes recordings, but the encoder of .* reads units/vq"):
        refused(overrides={"data": {"augment": {"gain_probability": 1.0}}})
    with pytest.raises(ValueError, match="task enhancement: Codes has no local_features"):
        refused(overrides={"task": {"name": "enhancement"}})
    fit = ("units", "fit", "--data", made / "train" / "data", "--out", made / "km", "--encoder", made / "bert")
    assert "Codes has no local_features" in complains(*fit, "--layer", 1)
    words = ("--data", made / "ks", "--out", made / "superb", "--upstream", made / "bert")
    shutil.copytree(made / "train" / "data", made / "ks" / "train")
    assert "reads units/vq, and these tasks give recordings" in complains("superb", "ks", *words)
