import pytest
import torch

from audiossl import registry
from audiossl.adapters.frozen import Frozen
from audiossl.adapters.full import Full
from audiossl.adapters.houlsby import Houlsby
from audiossl.config import build, load_toml
from audiossl.encoders.wav2vec2 import Wav2Vec2
from audiossl.interop.checkpoint import WEIGHTS, save_checkpoint
from audiossl.nn.attention import FrameLayout
from audiossl.nn.vocabulary import Vocabulary
from audiossl.tasks.ctc import CTC
from audiossl.train.fine_tune import FineTune, FineTuneConfig


def encoder():
    torch.manual_seed(0)
    return Wav2Vec2(Wav2Vec2.Config.tiny()).eval()


def trained(module):
    return {name for name, parameter in module.named_parameters() if parameter.requires_grad}


def waveforms():
    return torch.randn(2, 8000, generator=torch.Generator().manual_seed(0)), torch.tensor([8000, 6000])


@pytest.mark.parametrize("name", registry.names("adapters"))
def test_every_adapter_is_the_identity_at_first(name):
    model = encoder()
    before = model(*waveforms()).layers
    adapter = registry.get("adapters", name)
    adapter(adapter.Config.tiny()).insert(model)
    for old, new in zip(before, model(*waveforms()).layers, strict=True):
        assert torch.equal(old, new)


@pytest.mark.parametrize("name", registry.names("adapters"))
def test_what_is_saved_covers_what_trains_and_restores_it(name):
    cls = registry.get("adapters", name)
    adapter = cls(cls.Config.tiny())
    model, other = encoder(), encoder()
    adapter.insert(model)
    adapter.insert(other)
    assert trained(model) <= adapter.trainable_state(model).keys() <= model.state_dict().keys()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += parameter.requires_grad * 0.1
    other.load_state_dict(adapter.trainable_state(model), strict=False)
    for a, b in zip(model(*waveforms()).layers, other(*waveforms()).layers, strict=True):
        assert torch.equal(a, b)


def test_houlsby_has_the_published_size():
    with torch.device("meta"):
        model = Wav2Vec2(Wav2Vec2.Config.base())
        Houlsby(Houlsby.Config()).insert(model)
    count = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert count == 12 * 788_480
    assert 100 * count / sum(p.numel() for p in model.parameters()) == pytest.approx(9.13, abs=0.05)


def test_houlsby_is_x_plus_up_of_activation_of_down_of_norm():
    model = encoder()
    Houlsby(Houlsby.Config(bottleneck=3, activation="relu")).insert(model)
    adapter = model.transformer.layers[0].ffn_adapter
    torch.nn.init.normal_(adapter.up.weight)
    x = torch.randn(5, 32)
    normed = (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, unbiased=False) + 1e-5).sqrt()
    expected = x + (normed @ adapter.down.weight.T + adapter.down.bias).clamp_min(0) @ adapter.up.weight.T
    torch.testing.assert_close(adapter(x[None], FrameLayout(1, 5))[0], expected)


@pytest.mark.parametrize("packed", [False, True])
def test_a_convolution_in_the_bottleneck_hears_neighbours_in_time_and_no_padding(packed):
    model = encoder()
    Houlsby(Houlsby.Config(bottleneck=3, kernel=5, activation="relu")).insert(model)
    adapter = model.transformer.layers[0].ffn_adapter
    for weight in (adapter.up.weight, adapter.conv.weight):
        torch.nn.init.normal_(weight)
    x, lengths = torch.randn(2, 9, 32), torch.tensor([9, 6])
    layout = FrameLayout.of(lengths, 9, packed=packed)
    y = layout.leave(adapter(layout.enter(x), layout))
    for row, length in zip(range(2), lengths.tolist(), strict=True):
        normed = torch.nn.functional.layer_norm(x[row, :length], (32,))
        down = torch.nn.functional.pad(normed @ adapter.down.weight.T + adapter.down.bias, (0, 0, 2, 2))
        spans = torch.stack([(down[t : t + 5] * adapter.conv.weight[:, 0].T).sum(0) for t in range(length)])
        expected = x[row, :length] + spans.clamp_min(0) @ adapter.up.weight.T
        torch.testing.assert_close(y[row, :length], expected)


def test_houlsby_fills_the_top_layers_only():
    model = encoder()
    Houlsby(Houlsby.Config(bottleneck=4, num_top_layers=1)).insert(model)
    layer = "transformer.layers.1"
    assert {name.rsplit(".", 2)[0] for name in trained(model)} == {f"{layer}.attention_adapter", f"{layer}.ffn_adapter"}


def test_houlsby_gradients_reach_its_tensors_alone():
    model = encoder().train()
    Houlsby(Houlsby.Config(bottleneck=4)).insert(model)
    model(*waveforms()).layers[-1].square().sum().backward()
    got = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert got == trained(model)
    assert len(got) == 2 * 2 * 4


def test_houlsby_complains_in_one_line():
    model = encoder()
    with pytest.raises(ValueError, match="num_top_layers: 3 is more than the encoder's 2 layers"):
        Houlsby(Houlsby.Config(num_top_layers=3)).insert(model)
    Houlsby(Houlsby.Config()).insert(model)
    with pytest.raises(ValueError, match="has adapters already"):
        Houlsby(Houlsby.Config()).insert(model)
    with pytest.raises(ValueError, match="bottleneck 0"):
        Houlsby.Config(bottleneck=0)
    with pytest.raises(ValueError, match="kernel: 4 has no middle frame"):
        Houlsby.Config(kernel=4)


def test_full_leaves_the_frontend_alone_unless_told():
    model = encoder()
    Full(Full.Config()).insert(model)
    everything = {name for name, _ in model.named_parameters()}
    assert trained(model) == {name for name in everything if not name.startswith("frontend.")}
    Full(Full.Config(freeze_frontend=False)).insert(model)
    assert trained(model) == everything
    model.feature_grad_mult = 0.0
    with pytest.raises(ValueError, match=r"adapter\.freeze_frontend: false, but encoder\.feature_grad_mult is 0"):
        Full(Full.Config(freeze_frontend=False)).insert(model)


def test_frozen_trains_and_saves_nothing():
    model = encoder()
    adapter = Frozen(Frozen.Config())
    adapter.insert(model)
    assert trained(model) == set()
    assert adapter.trainable_state(model) == {}


# The head of so many tokens is in the file too: with 500 word pieces it makes the largest 20.5 MB.
@pytest.mark.parametrize(
    ("recipe", "tokens", "changed", "size"),
    [
        ("ctc_adapters", 32, {}, 19.02e6),
        ("ctc_adapters", 501, {}, 20.46e6),
        ("ctc_adapters", 501, {"bottleneck": 240}, 19.28e6),
        ("ctc_lora", 32, {}, 1.28e6),
        ("ctc_mms", 32, {}, 1.39e6),
    ],
)
def test_adapter_files_of_a_base_encoder_hold_what_trained_and_no_more(tmp_path, recipe, tokens, changed, size):
    tables = load_toml(registry.folder("recipes") / f"{recipe}.toml")
    with torch.device("meta"):
        model = Wav2Vec2(Wav2Vec2.Config.base())
        cls = registry.get("adapters", tables["adapter"].pop("name"))
        adapter = cls(build(cls.Config, tables["adapter"] | changed, recipe))
        vocabulary = Vocabulary("characters", ("<blank>", "<unk>", *(chr(0x400 + k) for k in range(tokens - 2))))
        task = CTC(
            model.dim, model.num_layers, build(CTC.Config, {"layers": tables["task"]["layers"]}, "task"), vocabulary
        )
        state = FineTune(model, adapter, task, FineTuneConfig(mask_prob=0.0)).state_to_save()
    weights = {name: torch.zeros(value.shape, dtype=value.dtype) for name, value in state.items()}
    found = (save_checkpoint(tmp_path, 1, weights, {}, keep=1) / WEIGHTS).stat().st_size
    assert found == pytest.approx(size, abs=0.02e6)
    assert found - 4 * sum(value.numel() for value in weights.values()) < 12_000  # names and shapes
