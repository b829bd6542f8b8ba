"""LoRA as peft does it: as many trained parameters, the same initial state, the same layers of a whole encoder, the same merged weights."""

from __future__ import annotations

import pytest
import torch
from interop_models import alone, assert_same_layers, layers_of_theirs, theirs

import audiossl
from audiossl.adapters.lora import LoRA, merge
from audiossl.interop.experiments import write_experiment
from audiossl.interop.formats import read_model

peft = pytest.importorskip("peft", reason="compares with peft, which nothing here needs")

pytestmark = pytest.mark.filterwarnings("ignore")
MAPS = {
    "query": "attention.q_proj", "key": "attention.k_proj", "value": "attention.v_proj", "out": "attention.out_proj",
    "ffn_in": "feed_forward.intermediate_dense", "ffn_out": "feed_forward.output_dense",
}  # fmt: skip
PLACES = {"query": "attention.qkv", "key": "attention.qkv", "value": "attention.qkv", "out": "attention.out"}


def both(folder, targets, rank, alpha):
    """The same wav2vec 2.0 in transformers with peft's LoRA and in ours with ours."""
    model = theirs("wav2vec2")
    model.save_pretrained(folder / "hf")
    name, read = read_model(folder / "hf")
    write_experiment(read, folder / "exp", source="hf", file_format=name)
    encoder = audiossl.load(folder / "exp")
    names = [MAPS[target].rpartition(".")[2] for target in targets]
    peft.get_peft_model(model, peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules=names, lora_dropout=0.0))
    LoRA(LoRA.Config(targets=targets, rank=rank, alpha=alpha)).insert(encoder)
    return model.eval(), encoder.eval()


def updates(model, encoder, targets):
    """Pairs of ((A, B) of peft, (A, B) of ours), of every layer and target."""
    for number, layer in enumerate(encoder.transformer.layers):
        for target in targets:
            other = model.encoder.layers[number].get_submodule(MAPS[target])
            own = layer.get_submodule(PLACES.get(target, target)).lora_adapter[target]
            yield (other.lora_A["default"].weight, other.lora_B["default"].weight), (own.down, own.up)


@pytest.mark.parametrize("targets", [("query", "value"), tuple(MAPS)])
def test_the_same_computation(tmp_path, targets):
    model, encoder = both(tmp_path, targets, 3, 5.0)
    plain = [layer.clone() for layer in layers_of_theirs(model, *alone(), normalise=False)]
    assert_same_layers(encoder, plain, *alone())  # neither changes anything at first
    generator = torch.Generator().manual_seed(0)
    pairs = list(updates(model, encoder, targets))
    assert len(pairs) == 2 * len(targets)
    with torch.no_grad():
        for (a, b), (down, up) in pairs:
            assert (a.shape, b.shape) == (down.shape, up.shape)
            down.copy_(a)
            up.copy_(b.normal_(std=0.2, generator=generator))
    wanted = layers_of_theirs(model, *alone(), normalise=False)
    assert max((one - other).abs().max() for one, other in zip(wanted, plain, strict=True)) > 0.1
    assert_same_layers(encoder, wanted, *alone())
    merge(encoder)
    assert_same_layers(encoder, wanted, *alone())


@pytest.mark.parametrize("targets", [("query", "value"), tuple(MAPS)])
def test_as_many_parameters_are_trained(tmp_path, targets):
    counts = [
        sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
        for module in both(tmp_path, targets, 4, 4.0)
    ]
    assert counts[0] == counts[1] > 0


def test_the_same_initial_state(tmp_path):
    model, encoder = both(tmp_path, tuple(MAPS), 64, 64.0)
    for ones, others in updates(model, encoder, tuple(MAPS)):
        assert not ones[1].any()
        assert not others[1].any()
        bound = ones[0].shape[1] ** -0.5  # both uniform within it
        for down in (ones[0], others[0]):
            assert 0.98 * bound < down.abs().max() <= bound
            assert down.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)
