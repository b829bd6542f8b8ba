from dataclasses import replace

import pytest
import torch

from audiossl.adapters.mms import MMS
from audiossl.adapters.top_layers import TopLayers
from audiossl.encoders.conformer import Conformer
from audiossl.encoders.wav2vec2 import Wav2Vec2
from audiossl.nn.frozen import frozen_batch_norms, frozen_parts


def encoder(cls=Wav2Vec2, **options):
    torch.manual_seed(0)
    return cls(replace(cls.Config.tiny(), **options)).eval()


def waveforms():
    return torch.randn(2, 8000, generator=torch.Generator().manual_seed(0)), torch.tensor([8000, 6000])


def trained(module):
    return {name for name, parameter in module.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize(("pre_norm", "norm"), [(False, set()), (True, {"norm"})])
def test_the_top_layers_train_and_the_norm_behind_them(pre_norm, norm):
    model = encoder(pre_norm=pre_norm)
    adapter = TopLayers(TopLayers.Config(num_top_layers=1))
    adapter.insert(model)
    inside = {name.removeprefix("transformer.") for name in trained(model)}
    expected = {f"layers.1.{name}" for name, _ in model.transformer.layers[1].named_parameters()}
    assert inside == expected | {f"{name}.{kind}" for name in norm for kind in ("weight", "bias")}
    assert adapter.trainable_state(model).keys() == trained(model)


def test_gradients_reach_what_trains_and_nothing_else():
    model = encoder(pre_norm=True).train()
    TopLayers(TopLayers.Config(num_top_layers=1)).insert(model)
    top = model(*waveforms()).layers[-1]
    (top * torch.randn_like(top)).sum().backward()
    assert {name for name, parameter in model.named_parameters() if parameter.grad is not None} == trained(model)


@pytest.mark.parametrize("adapter", [TopLayers(TopLayers.Config(2)), MMS(MMS.Config())])
def test_statistics_that_training_moves_are_saved_too(adapter):
    model, other = encoder(Conformer, conv_norm="batch"), encoder(Conformer, conv_norm="batch")
    adapter.insert(model)
    adapter.insert(other)
    model.train()(*waveforms())
    assert not torch.equal(model.eval()(*waveforms()).layers[-1], other(*waveforms()).layers[-1])
    other.load_state_dict(adapter.trainable_state(model), strict=False)
    assert torch.equal(model(*waveforms()).layers[-1], other(*waveforms()).layers[-1])


def test_complaints_are_one_line():
    with pytest.raises(ValueError, match="num_top_layers: 4 of the encoder's 2 layers; give 0 to 2"):
        TopLayers(TopLayers.Config()).insert(encoder())
    with pytest.raises(ValueError, match=r"adapter\.num_top_layers: 0 layers would train"):
        TopLayers.Config(num_top_layers=0)


def test_frozen_layers_stay_in_eval_mode_under_a_norm_that_trains():
    module = encoder(pre_norm=True)
    TopLayers(TopLayers.Config(num_top_layers=1)).insert(module)
    assert module.transformer.norm.weight.requires_grad
    parts, inside = frozen_parts(module), module.transformer
    assert parts[-1] is inside.layers[0]
    assert {module.frontend, module.projection, module.dropout_input, inside.positions, inside.dropout} <= set(parts)
    assert not {inside, inside.norm, inside.layers[1]} & set(parts)


def test_batch_norms_that_do_not_train_are_found():
    module = encoder(Conformer, conv_norm="batch")
    norms = frozen_batch_norms(module)
    TopLayers(TopLayers.Config(num_top_layers=1)).insert(module)
    assert not norms
    assert len(frozen_batch_norms(module)) == len(module.transformer.layers) - 1
