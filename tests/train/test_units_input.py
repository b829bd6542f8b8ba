"""An encoder that reads units, from pretraining to a transcript and a probe."""

from __future__ import annotations

import json
import shutil
from functools import partial

import numpy as np
import pytest
import torch

from audiossl.cli.main import main
from audiossl.config import find_recipe, load_toml, to_table, write_toml
from audiossl.data.audio import write_audio
from audiossl.data.loader import LoaderConfig
from audiossl.data.manifest import Manifest
from audiossl.data.writer import CorpusUtterance, write_data_dir
from audiossl.diagnostics.sources import open_features
from audiossl.encoders.codes import Codes
from audiossl.encoders.vq_wav2vec import VQWav2Vec
from audiossl.interop.checkpoint import save_checkpoint
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
    rng, rows = np.random.default_rng(seed), []
    folder.mkdir()
    for number in range(count):
        path, name = folder / f"{number}.wav", f"s{number % 2}-{number}"
        write_audio(path, 0.1 * rng.standard_normal(9000 + 700 * number), 16000)
        columns = {"text": ("AB", "BA A")[number % 2], "utt2keyword": ("yes", "no")[number % 2]}
        rows.append(CorpusUtterance(name, name, path, name[:2], columns=columns))
    write_data_dir(rows, folder / "data")
    return folder / "data"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A quantiser, a BERT of its codes, and a recogniser on that: the chain as a user makes it."""
    place = tmp_path_factory.mktemp("units_input")
    config = VQWav2Vec.Config.tiny()
    torch.manual_seed(0)
    quantiser = VQWav2Vec(config)
    with torch.no_grad():
        quantiser.quantiser.logits[-1].weight.mul_(30)  # so that many codes are in use
    weights = {f"encoder.{name}": value for name, value in quantiser.state_dict().items()}
    save_checkpoint(place / "vq", 1, weights, {}, keep=1)
    write_toml(place / "vq" / "config.toml", {"encoder": {"name": "vq_wav2vec", **to_table(config)}})
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
    assert run("units", "apply", "--data", data, *words) == 0


def run(*words):
    with pytest.raises(SystemExit) as stop:
        main([*map(str, words)])
    return stop.value.code


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


def test_data_without_units_say_how_to_make_them(place, capsys):
    made, data = place
    cure = f"audiossl units apply --data {data} --codebook {made / 'bert' / 'units'} --name vq"
    for words in (
        ("transcribe", made / "asr", data),
        ("probe", made / "bert", "--task", "keyword", "--train", data, "--split", "0.5/0.25/0.25", "--out", made / "p"),
        ("finetune", made / "finetune.toml", "--init", made / "bert", "--data", data, "--out", made / "none"),
    ):
        assert run(*words, *(cpu if words[0] != "finetune" else ())) == 1
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert f"{data / 'units' / 'vq'}: not there, but" in said
        assert cure in said
    assert not (made / "none").exists()


def test_units_of_another_codebook_are_refused(place, capsys):
    made, data = place
    label(made, data)
    card = data / "units" / "vq.json"
    card.write_text(json.dumps(json.loads(card.read_text()) | {"codebook_hash": "0" * 64}))
    assert run("transcribe", made / "asr", data, *cpu) == 1
    assert "made by another codebook than those that" in capsys.readouterr().err


def test_a_file_and_a_directory_of_it_give_the_same(place, capsys, monkeypatch):
    made, data = place
    label(made, data)
    monkeypatch.setattr(features, "default_device", lambda: pytest.fail("--device is not asked for"))
    capsys.readouterr()
    (made / "noise.txt").write_text("no audio")
    files = sorted((made / "test").glob("*.wav"))
    assert run("transcribe", made / "asr", data, *files, *cpu, "--json") == 0
    texts = json.loads(capsys.readouterr().out)["texts"]
    ids = sorted((name for name in texts if name.startswith("s")), key=lambda name: int(name.partition("-")[2]))
    assert [texts[str(file)] for file in files] == [texts[name] for name in ids]
    assert run("transcribe", made / "asr", made / "noise.txt", files[0], *cpu, "--json") == 1
    said = json.loads(capsys.readouterr().out)
    assert list(said["texts"]) == [str(files[0])]
    assert len(said["bad"]) == 1


def test_a_file_without_the_codebook_says_what_is_needed(place, capsys, tmp_path):
    made, _ = place
    bare = tmp_path / "bare"
    shutil.copytree(made / "bert", bare)
    shutil.rmtree(bare / "units")
    fine(made, tmp_path / "asr_bare", init=str(bare))
    capsys.readouterr()
    file = made / "test" / "0.wav"
    assert run("transcribe", tmp_path / "asr_bare", file, *cpu) == 1
    said = capsys.readouterr().err
    assert "reads units/vq, and does not hold the codebook that makes them" in said
    assert "`audiossl units apply --name vq`" in said


def test_a_probe_reads_the_units_and_sees_when_they_change(place, tmp_path, capsys):
    made, data = place
    label(made, data)
    words = ("--task", "keyword", "--train", data, "--split", "0.4/0.3/0.3", "--probe.steps", 2, *cpu, "--json")
    pooled = ("--cache", tmp_path / "pooled")
    found = []
    for source in ("bert", "bert", "asr"):
        capsys.readouterr()
        assert run("probe", made / source, *words, "--out", tmp_path / "probe", *pooled) == 0
        found.append(json.loads(capsys.readouterr().out)["forwards"])
    assert found == [6, 0, 6]
    path = data / "units" / "vq"
    path.write_text("".join(f"{line} 0\n" for line in path.read_text().splitlines()))
    assert run("probe", made / "bert", *words, "--out", tmp_path / "probe", *pooled) == 0
    assert json.loads(capsys.readouterr().out)["forwards"] == 6
    random = open_features(f"random:{made / 'bert'}", seed=1, device="cpu", train=Manifest.open(data))
    assert random.reads.column == "units/vq"


def test_what_needs_recordings_refuses_it(made, capsys):
    refused = partial(fine, made, "refused")
    with pytest.raises(ValueError, match=r"data\.augment: changes recordings, but the encoder of .* reads units/vq"):
        refused(overrides={"data": {"augment": {"gain_probability": 1.0}}})
    with pytest.raises(ValueError, match="task enhancement: Codes has no local_features"):
        refused(overrides={"task": {"name": "enhancement"}})
    fit = ("units", "fit", "--data", made / "train" / "data", "--out", made / "km", "--encoder", made / "bert")
    assert run(*fit, "--layer", 1) == 1
    assert "Codes has no local_features" in capsys.readouterr().err
    words = ("--data", made / "ks", "--out", made / "superb", "--upstream", made / "bert")
    shutil.copytree(made / "train" / "data", made / "ks" / "train")
    assert run("superb", "ks", *words) == 1
    assert "reads units/vq, and these tasks give recordings" in capsys.readouterr().err
