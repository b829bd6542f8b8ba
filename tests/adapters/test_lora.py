import copy

import numpy as np
import pytest
import torch

from audiossl.adapters.lora import LoRA, LoRALinear, merge
from audiossl.encoders.conformer import Conformer
from audiossl.encoders.wav2vec2 import Wav2Vec2


def encoder(cls=Wav2Vec2):
    torch.manual_seed(0)
    return cls(cls.Config.tiny()).eval()


def waveforms():
    return torch.randn(2, 8000, generator=torch.Generator().manual_seed(0)), torch.tensor([8000, 6000])


def trained(module):
    return {name for name, parameter in module.named_parameters() if parameter.requires_grad}


def shaken(model):
    """As after some training: B is no longer 0."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(".up"):
                parameter.normal_(std=0.3, generator=torch.Generator().manual_seed(len(name)))
    return model


def test_published_size():
    with torch.device("meta"):
        model = Wav2Vec2(Wav2Vec2.Config.base())
        LoRA(LoRA.Config()).insert(model)
    # table 2 of the paper says 0.3 million for RoBERTa base, whose layers are the same
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 12 * 2 * 8 * (768 + 768) == 294_912


def test_query_and_value_by_default():
    model = encoder()
    LoRA(LoRA.Config(num_top_layers=1)).insert(model)
    at = "transformer.layers.1.attention.qkv.lora_adapter"
    assert trained(model) == {f"{at}.{share}.{part}" for share in ("query", "value") for part in ("down", "up")}


def test_rows_of_query_key_and_value_are_w_plus_alpha_over_rank_b_a():
    base = torch.nn.Linear(6, 12).double()
    config = LoRA.Config(targets=("query", "value"), rank=2, alpha=3.0)
    layer = LoRALinear(copy.deepcopy(base), ("query", "key", "value"), config).double()
    rng = np.random.default_rng(0)
    weight, x = base.weight.detach().numpy().copy(), rng.standard_normal((5, 6))
    for share, rows in (("query", range(4)), ("value", range(8, 12))):
        a, b = rng.standard_normal((2, 6)), rng.standard_normal((4, 2))
        layer.lora_adapter[share].load_state_dict({"down": torch.from_numpy(a), "up": torch.from_numpy(b)})
        for i, row in enumerate(rows):
            for j in range(6):
                weight[row, j] += 3.0 / 2 * sum(b[i, k] * a[k, j] for k in range(2))
    expected = torch.from_numpy(x @ weight.T + base.bias.detach().numpy())
    torch.testing.assert_close(layer(torch.from_numpy(x)), expected, atol=1e-10, rtol=0)
    torch.testing.assert_close(layer.merged().weight, torch.from_numpy(weight), atol=1e-10, rtol=0)


def test_gradients():
    torch.manual_seed(0)
    layer = LoRALinear(torch.nn.Linear(4, 3), ("out",), LoRA.Config(targets=("out",), rank=2)).double()
    torch.nn.init.normal_(layer.lora_adapter["out"].up)
    x = torch.randn(2, 4, dtype=torch.double, requires_grad=True)

    def run(x, down, up):
        values = {"lora_adapter.out.down": down, "lora_adapter.out.up": up}
        return torch.func.functional_call(layer, values, (x,))

    update = layer.lora_adapter["out"]
    assert torch.autograd.gradcheck(run, (x, update.down, update.up))


@pytest.mark.parametrize("cls", [Wav2Vec2, Conformer])
def test_merged_encoder_does_the_same_and_has_its_old_modules(cls):
    model, plain = encoder(cls), encoder(cls)
    LoRA(LoRA.Config.tiny()).insert(model)
    before = shaken(model)(*waveforms()).layers
    assert (before[-1] - plain(*waveforms()).layers[-1]).abs().max() > 1e-2
    merge(model)
    assert [str(module) for module in model.modules()] == [str(module) for module in plain.modules()]
    assert model.state_dict().keys() == plain.state_dict().keys()
    assert trained(model) == set()
    for old, new in zip(before, model(*waveforms()).layers, strict=True):
        torch.testing.assert_close(new, old, atol=1e-6, rtol=1e-6)


def test_merging_leaves_weights_that_others_share_alone():
    model = encoder()
    weight = model.transformer.layers[1].attention.qkv.weight
    kept = weight.clone()
    LoRA(LoRA.Config.tiny()).insert(model)
    assert model.transformer.layers[1].attention.qkv.weight is weight
    merge(shaken(model))
    assert not torch.equal(model.transformer.layers[1].attention.qkv.weight, kept)
    assert torch.equal(weight, kept)


@pytest.mark.parametrize(("cls", "maps"), [(Wav2Vec2, 4), (Conformer, 6)])
def test_every_target_is_found(cls, maps):
    model = encoder(cls)
    LoRA(LoRA.Config.tiny()).insert(model)
    assert sum(isinstance(module, LoRALinear) for module in model.modules()) == maps
    assert all("layers.1." in name for name in trained(model))


def test_names_and_values_of_the_encoder_stay():
    model, plain = encoder(), encoder()
    LoRA(LoRA.Config.tiny()).insert(model)
    state = model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in plain.state_dict().items())
    assert {name for name in state if ".lora_adapter." not in name} == plain.state_dict().keys()


def test_gradients_reach_the_updates_alone():
    model = encoder().train()
    LoRA(LoRA.Config.tiny()).insert(model)
    shaken(model)(*waveforms()).layers[-1].square().sum().backward()
    assert {n for n, p in model.named_parameters() if p.grad is not None and p.grad.any()} == trained(model)


def test_dropout_is_of_the_updates_input_in_training_only():
    torch.manual_seed(0)
    base = torch.nn.Linear(8, 8)
    layer = LoRALinear(base, ("out",), LoRA.Config(targets=("out",), dropout=0.5))
    x = torch.randn(4, 8)
    assert torch.equal(layer.train()(x), base(x))
    torch.nn.init.normal_(layer.lora_adapter["out"].up)
    assert not torch.equal(layer(x), layer(x))
    layer.eval()
    assert torch.equal(layer(x), layer(x))


def test_complaints_are_one_line():
    model = encoder()
    with pytest.raises(ValueError, match="no LoRA updates to merge"):
        merge(model)
    with pytest.raises(ValueError, match="num_top_layers: 3 of the encoder's 2 layers"):
        LoRA(LoRA.Config(num_top_layers=3)).insert(model)
    LoRA(LoRA.Config()).insert(model)
    with pytest.raises(ValueError, match="has LoRA updates already"):
        LoRA(LoRA.Config()).insert(model)
    for wrong in ({"rank": 0}, {"alpha": 0.0}, {"dropout": 1.0}, {"targets": ()}):
        with pytest.raises(ValueError, match=f"adapter.*{next(iter(wrong))}"):
            LoRA.Config(**wrong)
