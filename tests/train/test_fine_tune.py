import gc
import pickle
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch

from audiossl import registry
from audiossl.adapters.frozen import Frozen
from audiossl.adapters.full import Full
from audiossl.adapters.houlsby import Houlsby
from audiossl.adapters.lora import LoRA
from audiossl.adapters.top_layers import TopLayers
from audiossl.contracts import Utterance
from audiossl.data.augment import AugmentConfig
from audiossl.data.collate import collate, to_tensors
from audiossl.data.loader import BatchMaker, LoaderConfig
from audiossl.encoders.wav2vec2 import Wav2Vec2
from audiossl.nn.vocabulary import Vocabulary
from audiossl.tasks.ctc import CTC
from audiossl.train.fine_tune import FineTune, FineTuneConfig

ADAPTERS = [
    Houlsby(Houlsby.Config(bottleneck=4)),
    Houlsby(Houlsby.Config.tiny()),
    Full(Full.Config()),
    Frozen(Frozen.Config()),
]
NAMES = ["houlsby", "top", "full", "frozen"]
MASKS = FineTuneConfig(mask_length=3, channel_mask_length=2)
NO_MASKS = FineTuneConfig(mask_prob=0.0, channel_mask_prob=0.0)
every_adapter = pytest.mark.parametrize("adapter", ADAPTERS, ids=NAMES)


def model(adapter, config=MASKS, seed=0, **encoder_options):
    torch.manual_seed(seed)
    encoder = Wav2Vec2(replace(Wav2Vec2.Config.tiny(), **encoder_options))
    vocabulary = Vocabulary.from_texts(["AB C"], "characters")
    return FineTune(encoder, adapter, CTC(encoder.dim, encoder.num_layers, CTC.Config.tiny(), vocabulary), config)


def make_batch(module, seconds=(1.0, 0.6), seed=0):
    rng = np.random.default_rng(3)
    items = [
        Utterance(f"u{k}", rng.standard_normal(round(s * 16000)).astype(np.float32), 16000, {"text": "AB C"})
        for k, s in enumerate(seconds)
    ]
    batch = collate([module.views(item, rng) for item in items], [item.id for item in items])
    return to_tensors(module.batch_views(batch, np.random.default_rng(seed)))


@every_adapter
def test_only_what_trains_gets_gradients(adapter):
    module = model(adapter)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=0.01)
    for seed in range(2):  # adapters begin at 0, so what lies under their last map moves in the second step
        result = module(make_batch(module, seed=seed))
        (result.loss_sum / result.count).backward()
        for name, parameter in module.named_parameters():
            assert (parameter.grad is not None) is parameter.requires_grad, name
        optimizer.step()
    trains = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    assert {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])} <= trains
    assert trains <= module.state_to_save().keys()


def test_nothing_below_the_first_adapter_builds_a_graph():
    module = model(Houlsby(Houlsby.Config.tiny()))
    layers = module.encode(make_batch(module)).layers
    assert [layer.requires_grad for layer in layers] == [False, False, True]
    assert [layer.training for layer in module.encoder.transformer.layers] == [False, True]
    assert not module.encoder.frontend.training
    assert not model(Frozen(Frozen.Config())).encoder.training
    assert all(layer.training for layer in model(Full(Full.Config())).encoder.transformer.layers)


def test_a_frozen_encoder_gives_the_same_features_in_training():
    module = model(Frozen(Frozen.Config()), NO_MASKS)
    batch = make_batch(module)
    first, second = module.encode(batch).layers[-1], module.encode(batch).layers[-1]
    assert torch.equal(first, second)
    assert module.task.training


@pytest.mark.parametrize("adapter", [Houlsby(Houlsby.Config.tiny()), TopLayers(TopLayers.Config(1))])
def test_what_lies_below_the_first_trained_layer_is_what_was_pretrained(adapter):
    module = model(adapter, replace(NO_MASKS, layer_drop=1.0))
    for part in module.encoder.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.5
    batch = make_batch(module)
    training = module.encode(batch).layers
    whole = module.eval().encode(batch).layers
    assert [torch.equal(a, b) for a, b in zip(training, whole, strict=True)] == [True, True, False]


@every_adapter
def test_saved_tensors_restore_the_model(adapter):
    module, other = model(adapter).eval(), model(adapter).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += parameter.requires_grad * 0.1
    batch = make_batch(module)
    assert not torch.equal(module(batch).loss_sum, other(batch).loss_sum)
    other.load_saved(module.state_to_save())
    assert torch.equal(module(batch).loss_sum, other(batch).loss_sum)
    assert other.predict(batch) == module.predict(batch)


def test_an_adapter_checkpoint_is_small():
    sizes = {
        name: sum(t.numel() for t in model(a).state_to_save().values()) for name, a in zip(NAMES, ADAPTERS, strict=True)
    }
    assert sizes["frozen"] < sizes["top"] < sizes["houlsby"] < 0.2 * sizes["full"]


def test_weights_of_another_adapter_are_refused():
    with pytest.raises(
        ValueError, match=r"saved weights: \d+ tensors do not fit this adapter and task, such as 'encoder"
    ):
        model(ADAPTERS[0]).load_saved(model(ADAPTERS[1]).state_to_save())
    with pytest.raises(ValueError, match="saved weights: 12 tensors"):
        model(Houlsby(Houlsby.Config(bottleneck=5, num_top_layers=1))).load_saved(model(ADAPTERS[1]).state_to_save())


def resting(adapter, steps=2):
    return model(adapter, FineTuneConfig(mask_length=3, channel_mask_length=2, freeze_steps=steps))


@pytest.mark.parametrize("adapter", [ADAPTERS[0], ADAPTERS[2]], ids=["houlsby", "full"])
def test_for_the_first_steps_the_task_trains_alone(adapter):
    module = resting(adapter)
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=0.01, weight_decay=0.0)
    moved = []
    for step in range(4):
        before = {name: p.detach().clone() for name, p in module.named_parameters()}
        module(make_batch(module, seed=step)).loss_sum.backward()
        # distributed training waits for a gradient of each
        assert all((p.grad is not None) is p.requires_grad for p in module.parameters())
        optimizer.step()
        optimizer.zero_grad()
        module.after_step(step + 1)
        changed = {name.partition(".")[0] for name, p in module.named_parameters() if not torch.equal(p, before[name])}
        moved.append(changed)
    assert moved == [{"task"}, {"task"}, {"encoder", "task"}, {"encoder", "task"}]


def test_while_the_encoder_rests_it_builds_no_graph_and_the_loss_is_the_same():
    module, other = resting(Full(Full.Config())), model(Full(Full.Config()))
    batch = make_batch(module)
    torch.manual_seed(0)
    first = module(batch)
    torch.manual_seed(0)
    second = other(batch)
    assert first.loss_sum.item() == second.loss_sum.item()
    assert count_saved(module, batch) < 0.2 * count_saved(other, batch)
    module.after_step(2)
    assert count_saved(module, batch) == count_saved(other, batch)


def test_what_does_not_train_cannot_rest():
    with pytest.raises(ValueError, match=r"finetune\.freeze_steps: 2, but nothing of the encoder trains"):
        resting(Frozen(Frozen.Config()))


def count_saved(module, batch):
    """Bytes that one forward pass keeps for the backward pass, parameters aside."""
    parameters = {p.data_ptr() for p in module.parameters()}
    kept = {}

    def pack(tensor):
        if tensor.data_ptr() not in parameters:
            kept[tensor.data_ptr()] = tensor.nbytes
        return tensor

    torch.manual_seed(0)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = module(batch).loss_sum
    assert loss.requires_grad
    return sum(kept.values())


@pytest.mark.parametrize("name", ["diarization", "enhancement", "separation"])
def test_labels_of_times_refuse_another_speed(name):
    encoder, cls = Wav2Vec2(Wav2Vec2.Config.tiny()), registry.get("tasks", name)
    module = FineTune(encoder, Frozen(Frozen.Config()), cls.from_data(encoder, cls.Config.tiny(), None), NO_MASKS)
    config = LoaderConfig(augment=AugmentConfig(speed_probability=0.5))
    with pytest.raises(ValueError, match=rf"speed_probability is 0.5, but what {module.needs[0]} says is aligned"):
        BatchMaker(None, module, config, sample_rate=16000, seed=0)
    assert registry.get("tasks", "voice_conversion").aligned


TOP = [
    Houlsby(Houlsby.Config(bottleneck=4, num_top_layers=1)),
    LoRA(LoRA.Config(num_top_layers=1)),
    TopLayers(TopLayers.Config(num_top_layers=1)),
]


def deep(adapter, num_layers, layers="last"):
    torch.manual_seed(0)
    encoder = Wav2Vec2(replace(Wav2Vec2.Config.tiny(), num_layers=num_layers))
    task = CTC(encoder.dim, num_layers, CTC.Config(layers=layers), Vocabulary.from_texts(["AB C"], "characters"))
    return FineTune(encoder, adapter, task, FineTuneConfig())


@pytest.mark.parametrize("adapter", TOP, ids=["houlsby", "lora", "top_layers"])
def test_no_activation_is_kept_below_the_lowest_trained_layer(adapter):
    kept = [count_saved(module, make_batch(module)) for module in (deep(adapter, layers) for layers in (1, 2, 5))]
    assert kept[0] == kept[1] == kept[2] > 0
    everything = deep(Full(Full.Config()), 5)
    assert count_saved(everything, make_batch(everything)) > 2 * kept[2]


@pytest.mark.parametrize("adapter", TOP, ids=["houlsby", "lora", "top_layers"])
def test_a_weighted_sum_keeps_the_outputs_that_it_weighs_and_nothing_else(adapter):
    batches = [(module := deep(adapter, layers, "weighted"), make_batch(module)) for layers in (1, 2, 5)]
    kept = [count_saved(*pair) for pair in batches]
    with torch.no_grad():
        output = batches[0][0].encode(batches[0][1]).layers[0]
    weighed = output.numel() * output.element_size()
    # a share of each, which is a number and may keep a few bytes
    assert [kept[1] - kept[0], kept[2] - kept[1]] == pytest.approx([weighed, 3 * weighed], abs=256)


def test_outputs_below_the_lowest_trained_layer_are_gone_before_the_backward_pass():
    module, outputs = deep(TOP[0], 5), []
    for layer in module.encoder.transformer.layers:
        layer.register_forward_hook(lambda _, __, output: outputs.append(weakref.ref(output)))
    loss = module(make_batch(module)).loss_sum
    gc.collect()
    # what the fourth of five layers gives is the input of the one that trains
    assert [reference() is None for reference in outputs[:3]] == [True, True, True]
    loss.backward()


def test_masks_act_in_training_only():
    module = model(Frozen(Frozen.Config()))
    batch = make_batch(module)
    assert batch["masked"].any()
    assert batch["channels_masked"].shape == (2, module.encoder.dim)
    masked = module.encode(batch).layers[-1]
    module.eval()
    plain = module.encoder(batch["waveform"], batch["waveform_lengths"]).layers[-1]
    assert torch.equal(module.encode(batch).layers[-1], plain)
    assert not torch.equal(masked, plain)
    encoder = module.encoder
    local = encoder.local_features(batch["waveform"], batch["waveform_lengths"])
    x = encoder.projection(local.z)
    for b, t in batch["masked"].nonzero().tolist():
        x[b, t] = encoder.mask_emb.detach()
    for b, c in batch["channels_masked"].nonzero().tolist():
        x[b, :, c] = 0
    torch.testing.assert_close(masked, encoder.transformer(x, local.lengths)[-1])


def test_without_masks_the_batch_has_none_and_the_mask_embedding_rests():
    module = model(Full(Full.Config()), NO_MASKS)
    batch = make_batch(module)
    assert "masked" not in batch
    assert "channels_masked" not in batch
    assert not module.encoder.mask_emb.requires_grad
    module(batch).loss_sum.backward()
    assert all(p.grad is not None for p in module.parameters() if p.requires_grad)


def test_prediction_does_not_depend_on_batch_mates():
    module = model(Frozen(Frozen.Config())).eval()
    torch.nn.init.normal_(module.task.head[-1].weight)
    both = module.predict(make_batch(module))
    short = make_batch(module)
    single = {
        "waveform": short["waveform"][1:, :9600],
        "waveform_lengths": short["waveform_lengths"][1:],
    }
    assert module.predict(single) == both[1:]
    assert both[1]


@pytest.mark.parametrize("legacy", [True, False])
def test_a_norm_that_counts_padding_hears_none_out_of_training(legacy):
    module = model(Frozen(Frozen.Config()), NO_MASKS, conv_norm="group", legacy_norm=legacy)
    batch = make_batch(module)
    single = {"waveform": batch["waveform"][1:, :9600], "waveform_lengths": batch["waveform_lengths"][1:]}
    padded = module.encode(batch).layers[-1][1, :29]
    module.eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):  # as `--dev` is scored
        module.encode(single)
    alone, both = module.encode(single), module.encode(batch)
    torch.testing.assert_close(both.layers[-1][1, :29], alone.layers[-1][0])
    assert [layer.shape for layer in both.layers] == [(2, 49, module.encoder.dim)] * 3
    assert both.lengths.tolist() == [49, 29]
    assert torch.allclose(padded, alone.layers[-1][0], atol=1e-3) is not legacy
    assert module._minds_batch_mates is legacy


def test_views_are_light_and_whole():
    module = model(Frozen(Frozen.Config()))
    assert len(pickle.dumps((module.views, module.batch_views))) < 2000
    batch = make_batch(module)
    assert batch["waveform_lengths"].tolist() == [16000, 9600]
    assert batch["num_frames"].tolist() == [49, 29]
    assert batch["text"] == ["AB C", "AB C"]
    with pytest.raises(ValueError, match="399 samples give no frame"):
        module.views(Utterance("u", np.zeros(399, np.float32), 16000, {"text": "A"}), np.random.default_rng(0))


@pytest.mark.parametrize("same", [True, False])
def test_as_many_channels_are_masked_in_each_row(same):
    module = model(Frozen(Frozen.Config()), replace(MASKS, same_count=same))
    channels = make_batch(module, (1.0, 0.6, 0.5, 0.4))["channels_masked"].sum(1)
    assert channels.min() > 0
    assert (len(set(channels.tolist())) == 1) is same


@pytest.mark.parametrize(
    ("name", "value"), [("mask_prob", 65), ("layer_drop", -0.1), ("channel_mask_length", 0), ("freeze_steps", -1)]
)
def test_options_out_of_range_are_named(name, value):
    with pytest.raises(ValueError, match=f"finetune.{name}: {value} is "):
        FineTuneConfig(**{name: value})
