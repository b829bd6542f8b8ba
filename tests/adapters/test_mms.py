import numpy as np
import pytest
import torch

from audiossl.adapters.mms import MMS, BlockAdapter
from audiossl.encoders.wav2vec2 import Wav2Vec2


def encoder(**options):
    torch.manual_seed(0)
    config = Wav2Vec2.Config.tiny()
    return Wav2Vec2(type(config)(**{**vars(config), **options})).eval()


def waveforms():
    return torch.randn(2, 8000, generator=torch.Generator().manual_seed(0)), torch.tensor([8000, 6000])


def trained(module):
    return {name for name, parameter in module.named_parameters() if parameter.requires_grad}


def test_published_size():
    with torch.device("meta"):
        model = Wav2Vec2(Wav2Vec2.Config.xlarge())
        MMS(MMS.Config()).insert(model)
    count = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert count == 48 * (2 * 1280 + 16 * 1280 + 16 + 1280 * 16 + 1280)
    # the paper: about 2 million parameters per language, 0.2 % of the model
    assert count == pytest.approx(2.15e6, rel=0.01)
    assert 100 * count / sum(p.numel() for p in model.parameters()) == pytest.approx(0.2, abs=0.05)


def test_adapter_is_x_plus_up_of_relu_of_down_of_norm():
    adapter = BlockAdapter(6, 3).double()
    rng = np.random.default_rng(0)
    for tensor in adapter.state_dict().values():
        tensor.copy_(torch.from_numpy(rng.standard_normal(tuple(tensor.shape))))
    x = rng.standard_normal((5, 6))
    state = {name: tensor.numpy() for name, tensor in adapter.state_dict().items()}
    expected = np.empty_like(x)
    for i, frame in enumerate(x):
        normed = (frame - frame.mean()) / np.sqrt(frame.var() + 1e-5) * state["norm.weight"] + state["norm.bias"]
        hidden = np.maximum(state["down.weight"] @ normed + state["down.bias"], 0)
        expected[i] = frame + state["up.weight"] @ hidden + state["up.bias"]
    torch.testing.assert_close(adapter(torch.from_numpy(x)), torch.from_numpy(expected), atol=1e-10, rtol=0)


@pytest.mark.parametrize("pre_norm", [False, True])
def test_it_comes_behind_the_residual_of_each_block(pre_norm):
    model, plain = encoder(pre_norm=pre_norm), encoder(pre_norm=pre_norm)
    MMS(MMS.Config(bottleneck=3)).insert(model)
    with torch.no_grad():
        for layer in model.transformer.layers:
            layer.block_adapter.up.weight.normal_()
    waveform, lengths = waveforms()
    layers = model(waveform, lengths).layers
    # the blocks one after the other, by hand
    local = plain.local_features(waveform, lengths)
    x, layout = plain.transformer.enter(plain.projection(local.z), local.lengths)
    torch.testing.assert_close(layers[0], x)
    for index, block in enumerate(plain.transformer.layers):
        x = model.transformer.layers[index].block_adapter(block(x, layout))
        last = pre_norm and index == len(plain.transformer.layers) - 1
        torch.testing.assert_close(layers[index + 1], plain.transformer.norm(x) if last else x)


def test_names_of_the_encoder_stay_and_gradients_reach_the_adapters_alone():
    model, plain = encoder().train(), encoder()
    MMS(MMS.Config.tiny()).insert(model)
    assert trained(model) == model.state_dict().keys() - plain.state_dict().keys()
    assert len(trained(model)) == 2 * 6
    model(*waveforms()).layers[-1].square().sum().backward()
    assert {name for name, parameter in model.named_parameters() if parameter.grad is not None} == trained(model)


def test_complaints_are_one_line():
    model = encoder()
    MMS(MMS.Config.tiny()).insert(model)
    with pytest.raises(ValueError, match="has adapters already"):
        MMS(MMS.Config.tiny()).insert(model)
    with pytest.raises(ValueError, match=r"adapter\.bottleneck: 0 units"):
        MMS.Config(bottleneck=0)
