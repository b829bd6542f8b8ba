"""Experiments with different adapters and tasks over one encoder."""

import itertools
import re
import zlib

import pytest
import torch
from corpora import write_encoder

from audiossl import registry
from audiossl.config import load_toml, to_table, write_toml
from audiossl.encoders.wav2vec2 import Wav2Vec2
from audiossl.interop.adapter_bank import AdapterBank
from audiossl.interop.checkpoint import load_weights, save_checkpoint
from audiossl.interop.encoder import load_encoder, weights_hash
from audiossl.nn.vocabulary import Vocabulary
from audiossl.train.run_finetune import load_finetuned

ADAPTERS = ["houlsby", "lora", "mms", "top_layers"]


def base(folder, seed=0):
    write_encoder(folder, seed=seed)
    return folder


def fine_tuned(folder, init, adapter, *, hashed=True, task="ctc", tokens=("A", "|")):
    """Write an experiment with random weights in all that trains. tokens: characters, or the classes of a task with one label per utterance."""
    encoder = load_encoder(init)
    run = {"init": str(init), "init_seed": 0} | ({"init_hash": weights_hash(encoder)} if hashed else {})
    cls = registry.get("adapters", adapter)
    inserted = cls(cls.Config.tiny())
    inserted.insert(encoder)
    state = {f"encoder.{name}": value for name, value in inserted.trainable_state(encoder).items()}
    task_class = registry.get("tasks", task)
    vocabulary = Vocabulary("characters" if task == "ctc" else "words", ("<blank>", "<unk>", *tokens))
    head = task_class(encoder.dim, encoder.num_layers, task_class.Config(), vocabulary)
    state |= {f"task.{name}": torch.zeros_like(value) for name, value in head.state_dict().items()}
    generator = torch.Generator().manual_seed(zlib.crc32(folder.name.encode()))
    weights = {name: value + 0.3 * torch.randn(value.shape, generator=generator) for name, value in state.items()}
    save_checkpoint(folder, 1, weights, {}, keep=1)
    head.save_labels(folder)
    table = {"name": adapter, **to_table(cls.Config.tiny())}
    encoder_table = load_toml(init / "config.toml")["encoder"]
    tables = {"encoder": encoder_table, "adapter": table, "task": {"name": task}, "run": run}
    write_toml(folder / "config.toml", tables | {"finetune": {"mask_prob": 0.0}})
    return folder


def waveforms():
    return torch.randn(2, 8000, generator=torch.Generator().manual_seed(0)), torch.tensor([8000, 6000])


@pytest.fixture
def place(tmp_path):
    base(tmp_path / "base")
    for adapter in ADAPTERS:
        fine_tuned(tmp_path / adapter, tmp_path / "base", adapter)
    return tmp_path


@torch.no_grad()
def test_each_member_is_its_experiment_whatever_else_is_held(place):
    bank = AdapterBank(place / "base")
    for adapter in ADAPTERS:
        bank.add(adapter, place / adapter)
    assert list(bank) == ADAPTERS
    seen = []
    for adapter in [*ADAPTERS, *reversed(ADAPTERS)]:
        module, _ = load_finetuned(place / adapter)
        encoder, task = bank[adapter]
        ours, alone = encoder(*waveforms()), module.encoder(*waveforms())
        assert all(torch.equal(a, b) for a, b in zip(ours.layers, alone.layers, strict=True))
        assert torch.equal(task.logits(ours), module.task.logits(alone))
        assert len(task.predict(ours)) == 2
        seen.append(ours.layers[-1])
    assert not any(torch.equal(a, b) for a, b in itertools.pairwise(seen[:4]))


MIXED = {
    "fr": ("mms", {"tokens": ("A", "B", "|")}),
    "sw": ("mms", {"tokens": ("G", "H", "I", "J", "|")}),
    "commands": ("houlsby", {"task": "keyword", "tokens": ("go", "stop", "yes")}),
    "speakers": ("lora", {"task": "speaker", "tokens": ("s1", "s2")}),
}


@torch.no_grad()
def test_languages_and_tasks_are_members_of_one_bank(tmp_path):
    bank = AdapterBank(base(tmp_path / "base"))
    for name, (adapter, options) in MIXED.items():
        bank.add(name, fine_tuned(tmp_path / name, tmp_path / "base", adapter, **options))
    for name in [*MIXED, *reversed(MIXED)]:
        module, _ = load_finetuned(tmp_path / name)
        encoder, task = bank[name]
        ours, alone = encoder(*waveforms()), module.encoder(*waveforms())
        assert all(torch.equal(a, b) for a, b in zip(ours.layers, alone.layers, strict=True))
        assert task.state_dict().keys() == module.task.state_dict().keys()
        assert all(torch.equal(value, module.task.state_dict()[key]) for key, value in task.state_dict().items())
        said = task.predict(ours)
        assert said == module.task.predict(alone)
        tokens = MIXED[name][1]["tokens"]
        if type(task).__name__ == "CTC":
            assert task.vocabulary.tokens[2:] == tokens
            assert task.logits(ours).shape[2] == 2 + len(tokens)
            assert any(said)
        else:
            assert task.classes == tokens
            assert set(said) <= set(tokens)


def test_frozen_tensors_are_held_once_and_stay(place):
    bank = AdapterBank(place / "base")
    for adapter in ADAPTERS:
        bank.add(adapter, place / adapter)
    for adapter in ADAPTERS:
        own = load_weights(place / adapter / "checkpoints" / "step_00000001").keys()
        for name, tensor in bank[adapter].encoder.state_dict().items():
            shared = name in bank._weights and tensor.data_ptr() == bank._weights[name].data_ptr()
            assert shared == (f"encoder.{name}" not in own), name
        assert not any(p.requires_grad for module in bank[adapter] for p in module.parameters())
        assert not any(part.training for module in bank[adapter] for part in module.modules())
    again = Wav2Vec2(Wav2Vec2.Config.tiny())
    again.load_state_dict(bank._weights)
    assert weights_hash(again) == bank.hash == weights_hash(load_encoder(place / "base"))


@pytest.mark.parametrize("hashed", [True, False])
def test_experiments_over_another_encoder_are_refused(place, hashed):
    other = fine_tuned(place / "elsewhere", base(place / "other", seed=1), "mms", hashed=hashed)
    with pytest.raises(ValueError, match=r"elsewhere: was trained on .*other, whose weights are not those of .*base"):
        AdapterBank(place / "base").add("x", other)
    AdapterBank(place / "other").add("x", other)


def test_a_base_that_changed_in_its_place_is_named_as_that(place, monkeypatch):
    base(place / "base", seed=1)
    bank = AdapterBank(place / "base")
    with pytest.raises(
        ValueError, match=r"mms: was trained on .*base, whose weights have changed since; put back those"
    ):
        bank.add("x", place / "mms")
    monkeypatch.chdir(place)  # the same place by another path
    with pytest.raises(ValueError, match="whose weights have changed since"):
        AdapterBank("base").add("x", place / "mms")


def test_random_bases_are_told_apart_by_their_seeds(place):
    other = fine_tuned(place / "elsewhere", place / "base", "mms")
    tables = load_toml(other / "config.toml")
    init = f"random:{place / 'base'}"
    tables["run"] |= {"init": init, "init_seed": 1, "init_hash": weights_hash(load_encoder(init, seed=1))}
    write_toml(other / "config.toml", tables)
    with pytest.raises(
        ValueError, match=r"base of seed 1, whose weights are not those of .*base of seed 0; use a bank"
    ):
        AdapterBank(init).add("x", other)
    AdapterBank(init, seed=1).add("x", other)


@pytest.mark.parametrize("hashed", [True, False])
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_whose_base_is_gone_is_said(place, adapter, hashed):
    tuned = fine_tuned(place / "tuned", place / "base", adapter, hashed=hashed)
    before = load_encoder(tuned).state_dict()
    bank = AdapterBank(place / "base")
    (place / "base").rename(place / "moved")
    loads = [load_encoder, load_finetuned, lambda source: load_encoder(f"random:{source}")]
    loads += [] if hashed else [lambda source: bank.add("x", source)]
    needed = re.escape(f"{tuned}: needs the encoder that it was trained on, {place / 'base'}, which is not there; ")
    cure = re.escape(f"put it back, or correct run.init in {tuned / 'config.toml'}")
    for load in loads:
        for source in (tuned, tuned / "checkpoints" / "step_00000001"):
            with pytest.raises(ValueError, match=f"^{needed}{cure}$"):
                load(source)
    text = (tuned / "config.toml").read_text()
    (tuned / "config.toml").write_text(text.replace(str(place / "base"), str(place / "moved")))
    after = load_encoder(tuned).state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    load_finetuned(tuned)


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_frozen_weights_are_verified_by_their_hash_when_an_experiment_is_loaded(place, adapter):
    before = load_encoder(place / adapter).state_dict()
    base(place / "base", seed=1)  # trained on, say
    for load in (load_encoder, load_finetuned):
        with pytest.raises(
            ValueError,
            match=rf"{adapter}/config.toml: run.init: the weights of .*base are not those that this was trained on",
        ):
            load(place / adapter)
    base(place / "base", seed=0)
    after = load_encoder(place / adapter).state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_a_whole_encoder_does_not_mind_where_it_came_from(place):
    full = fine_tuned(place / "full", place / "base", "full")
    before = load_encoder(full).state_dict()
    base(place / "base", seed=1)
    after = load_encoder(full).state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    load_finetuned(full)


def test_complaints_are_one_line(place):
    bank = AdapterBank(place / "base")
    with pytest.raises(ValueError, match="base: has no adapter and task"):
        bank.add("x", place / "base")
    bank.add("french", place / "mms")
    with pytest.raises(ValueError, match="holds 'french' already"):
        bank.add("french", place / "lora")
    with pytest.raises(KeyError, match="did you mean 'french'"):
        bank["frnch"]
    weights = load_weights(place / "lora" / "checkpoints" / "step_00000001")
    weights.pop("task.head.1.bias")
    save_checkpoint(place / "lora", 1, weights, {}, keep=1)
    with pytest.raises(ValueError, match="does not fit its config.toml: 1 tensors differ, such as 'task.head.1.bias'"):
        bank.add("spoilt", place / "lora")
    assert list(bank) == ["french"]
