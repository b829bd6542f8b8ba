import pickle

import numpy as np
import pytest
import torch

from audiossl.adapters.frozen import Frozen
from audiossl.adapters.full import Full
from audiossl.adapters.houlsby import Houlsby
from audiossl.contracts import Utterance
from audiossl.data.collate import collate, to_tensors
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


def model(adapter, config=MASKS, seed=0):
    torch.manual_seed(seed)
    encoder = Wav2Vec2(Wav2Vec2.Config.tiny())
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
    with pytest.raises(ValueError, match="saved weights: 10 tensors"):
        model(Houlsby(Houlsby.Config(bottleneck=5, num_top_layers=1))).load_saved(model(ADAPTERS[1]).state_to_save())


def test_masks_act_in_training_only():
    module = model(Frozen(Frozen.Config()))
    batch = make_batch(module)
    assert batch["masked"].any()
    assert batch["channels_masked"].shape == (2, module.encoder.feature_dim)
    masked = module.encode(batch).layers[-1]
    module.eval()
    plain = module.encoder(batch["waveform"], batch["waveform_lengths"]).layers[-1]
    assert torch.equal(module.encode(batch).layers[-1], plain)
    assert not torch.equal(masked, plain)
    local = module.encoder.local_features(batch["waveform"], batch["waveform_lengths"])
    z = local.z.clone()
    for b, c in batch["channels_masked"].nonzero().tolist():
        z[b, :, c] = 0
    expected = module.encoder.contextualise(z, local.lengths, masked=batch["masked"]).layers[-1]
    torch.testing.assert_close(masked, expected)


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


def test_views_are_light_and_whole():
    module = model(Frozen(Frozen.Config()))
    assert len(pickle.dumps((module.views, module.batch_views))) < 2000
    batch = make_batch(module)
    assert batch["waveform_lengths"].tolist() == [16000, 9600]
    assert batch["num_frames"].tolist() == [49, 29]
    assert batch["text"] == ["AB C", "AB C"]
    with pytest.raises(ValueError, match="399 samples give no frame"):
        module.views(Utterance("u", np.zeros(399, np.float32), 16000, {"text": "A"}), np.random.default_rng(0))
