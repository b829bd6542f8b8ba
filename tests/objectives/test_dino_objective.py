"""DINO: its loss by loops over pairs of crops, its head in NumPy, centre, frozen prototypes, and the teacher as the encoder to use."""

import json
import math

import numpy as np
import pytest
import torch

from audiossl.config import build, find_recipe, load_toml, to_table, write_toml
from audiossl.contracts import Utterance
from audiossl.encoders.xvector import XVector
from audiossl.interop.checkpoint import save_checkpoint
from audiossl.interop.encoder import load_encoder
from audiossl.objectives.byol import BYOL
from audiossl.objectives.dino import DINO

LONG, SHORT = 3200, 1600
WIDTHS = {"head_dim": 7, "bottleneck_dim": 5, "prototypes": 9}
SETTINGS = {"crop_duration": 0.2, "local_duration": 0.1, "momentum": 0.5, **WIDTHS}


def objective(seed=0, **changes):
    torch.manual_seed(seed)
    return DINO(XVector(XVector.Config.tiny()), DINO.Config(**{**SETTINGS, **changes}))


def settle(module, waveform):
    """Give batch norms the statistics of some batch: with those of the start, all inputs look alike."""
    norms = [m for m in module.modules() if isinstance(m, torch.nn.BatchNorm1d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        module.train()({"waveform": waveform})
    for norm in norms:
        norm.momentum = 0.1


def apart(module):
    """A teacher and a centre that are not where they begin, and prototypes far enough apart for a temperature of 0.04."""
    module.begin()
    for parameter in [*module.teacher.parameters(), *module.teacher_head.parameters()]:
        parameter += 0.3 * torch.randn(parameter.shape)
    crops = 2 * LONG + module.config.local_crops * SHORT
    settle(module, torch.randn(16, crops))
    module.centre.normal_(std=0.1)
    return module.eval()


def batch(size=3, seed=0, local_crops=4):
    samples = 2 * LONG + local_crops * SHORT
    return {"waveform": torch.randn(size, samples, generator=torch.Generator().manual_seed(seed))}


def head_by_formula(head, x):
    """One row through batch norms in eval mode, GELU by erf, and cosines with the prototypes: float64."""
    for layer in head.layers:
        if isinstance(layer, torch.nn.Linear):
            bias = 0 if layer.bias is None else layer.bias.detach().double().numpy()
            x = layer.weight.detach().double().numpy() @ x + bias
        elif isinstance(layer, torch.nn.BatchNorm1d):
            mean, var, gain, shift = (
                v.detach().double().numpy() for v in (layer.running_mean, layer.running_var, layer.weight, layer.bias)
            )
            x = (x - mean) / np.sqrt(var + 1e-5) * gain + shift
        else:
            x = np.array([v * (1 + math.erf(v / math.sqrt(2))) / 2 for v in x])
    prototypes = head.prototypes.weight.detach().double().numpy()
    return prototypes @ x / np.linalg.norm(x) / np.linalg.norm(prototypes, axis=1)


def softmax(x):
    return np.exp(x) / np.exp(x).sum()


def outputs(encoder, head, crops):
    """Of one utterance's crops: one array each."""
    with torch.no_grad():
        rows = [encoder.embed(crop[None], torch.tensor([len(crop)]))[0].double().numpy() for crop in crops]
    return [head_by_formula(head, row) for row in rows]


def test_loss_is_the_mean_over_ten_pairs_of_crops():
    module, data = apart(objective()), batch()
    output = module(data)
    centre = module.centre.double().numpy()
    nats, targets = [], []
    for row in data["waveform"]:
        crops = row.split([LONG, LONG, SHORT, SHORT, SHORT, SHORT])
        student, teacher = (
            outputs(module.encoder, module.head, crops),
            outputs(module.teacher, module.teacher_head, crops[:2]),
        )
        wanted = [softmax((t - centre) / 0.04) for t in teacher]
        pairs = [(g, c) for g in range(2) for c in range(6) if g != c]
        assert len(pairs) == 10
        nats += [-wanted[g] @ np.log(softmax(student[c] / 0.1)) for g, c in pairs]
        targets += wanted
    assert output.loss_sum.item() == pytest.approx(3 * np.mean(nats), rel=1e-4)
    mean = np.mean(targets, axis=0)
    perplexity, entropy = np.exp(-mean @ np.log(mean)), np.mean([-t @ np.log(t) for t in targets])
    logged = {name: (total / count).item() for name, (total, count) in output.metrics.items()}
    assert logged["target_perplexity"] == pytest.approx(perplexity, rel=1e-4)
    assert logged["target_entropy"] == pytest.approx(entropy, rel=1e-4)


def test_without_local_crops_the_global_ones_teach_each_other():
    module = apart(objective(local_crops=0))
    data, losses = batch(1, local_crops=0), []
    crops = data["waveform"][0].split(LONG)
    student, teacher = (
        outputs(module.encoder, module.head, crops),
        outputs(module.teacher, module.teacher_head, crops),
    )
    for g, c in ((0, 1), (1, 0)):
        wanted = softmax((teacher[g] - module.centre.double().numpy()) / 0.04)
        losses.append(-wanted @ np.log(softmax(student[c] / 0.1)))
    assert module(data).loss_sum.item() == pytest.approx(np.mean(losses), rel=1e-4)


def test_centre_follows_the_raw_outputs_in_training_only():
    module, data = apart(objective()), batch()
    before = module.centre.double().numpy().copy()
    module(data)
    np.testing.assert_array_equal(module.centre.numpy(), before.astype(np.float32))
    raw = [
        row
        for x in data["waveform"]
        for row in outputs(module.teacher, module.teacher_head, x.split([LONG, LONG, 4 * SHORT])[:2])
    ]
    module.train()
    module.teacher.eval()
    module.teacher_head.eval()
    module(data)
    np.testing.assert_allclose(module.centre.numpy(), 0.9 * before + 0.1 * np.mean(raw, axis=0), atol=1e-5)


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD])
def test_prototypes_stand_still_at_first(optimizer):
    module = objective(freeze_steps=2)
    optimizer = optimizer(module.parameters(), lr=0.01, weight_decay=0.1)
    prototypes = []
    for step in range(1, 5):
        prototypes.append(module.head.prototypes.weight.detach().clone())
        optimizer.zero_grad()
        module(batch(seed=step)).loss_sum.backward()
        assert module.head.layers[0].weight.grad.any()
        assert module.head.prototypes.weight.grad.any() == (step > 2)
        optimizer.step()
        module.after_step(step)
        assert module.state_dict()["released"] == (step >= 2)
    assert torch.equal(prototypes[1], prototypes[0])
    assert torch.equal(prototypes[2], prototypes[0])
    assert not torch.equal(prototypes[3], prototypes[2])


def test_crops_have_their_lengths_and_the_teacher_sees_no_short_one():
    module = objective(crops="disjoint")
    utterance = Utterance("u", np.arange(16000, dtype=np.float32), 16000)
    waveform = module.views(utterance, np.random.default_rng(0))["waveform"]
    crops = np.split(waveform, np.cumsum([LONG, LONG, SHORT, SHORT, SHORT]))
    assert [len(crop) for crop in crops] == [LONG, LONG, SHORT, SHORT, SHORT, SHORT]
    assert all((np.diff(crop) == 1).all() for crop in crops)
    seen, embed = [], module.teacher.embed
    module.teacher.embed = lambda x, lengths: seen.append(x.shape) or embed(x, lengths)
    module(batch())
    assert seen == [(2 * 3, LONG)]


def experiment(folder, name, module):
    tables = {
        "encoder": {"name": "xvector", **to_table(XVector.Config.tiny())},
        "objective": {"name": name, **to_table(module.config)},
    }
    folder.mkdir()
    write_toml(folder / "config.toml", tables)
    save_checkpoint(folder, 1, module.state_dict(), {}, keep=1)
    return folder


def test_what_is_loaded_is_the_teacher_where_the_objective_says_so(tmp_path):
    for name, module, attribute in (
        ("dino", objective(), "teacher"),
        ("byol", BYOL(XVector(XVector.Config.tiny()), BYOL.Config.tiny()), "encoder"),
    ):
        module.begin()
        with torch.no_grad():
            for parameter in module.encoder.parameters():
                parameter += 1
        loaded = load_encoder(experiment(tmp_path / name, name, module)).state_dict()
        wanted = getattr(module, attribute).state_dict()
        assert loaded.keys() == wanted.keys()
        assert all(torch.equal(loaded[key], value) for key, value in wanted.items())


@pytest.mark.parametrize("separate", [False, True])
def test_the_head_sees_all_crops_or_one_length_after_the_other(separate):
    module, rows = objective(separate_views=separate).train(), {"head": [], "encoder": []}
    for name, seen in rows.items():
        for norm in getattr(module, name).modules():
            if isinstance(norm, torch.nn.BatchNorm1d):
                norm.register_forward_pre_hook(lambda _, inputs, seen=seen: seen.append(len(inputs[0])))
    module(batch())
    assert set(rows["head"]) == ({6, 12} if separate else {18})
    assert set(rows["encoder"]) == {6, 12}
    assert objective(separate_views=True, local_crops=0)(batch(local_crops=0)).loss_sum.isfinite()


def test_the_temperature_of_the_teacher_rises_to_its_end():
    """As in wespeaker: a straight line. Resuming goes on where it was."""
    ramp = {"start_teacher_temperature": 0.04, "teacher_temperature": 0.07, "teacher_ramp_steps": 10}
    for step, temperature in ((0, 0.04), (5, 0.055), (10, 0.07), (99, 0.07)):
        before = objective(**ramp)
        if step:
            before.begin()
            before.after_step(step)
        module = apart(objective(**ramp))
        module.temperature.copy_(before.state_dict()["temperature"])
        constant = apart(objective(teacher_temperature=temperature))
        assert module.temperature.item() == pytest.approx(temperature)
        assert module(batch()).loss_sum.item() == pytest.approx(constant(batch()).loss_sum.item(), rel=1e-5)
    assert "temperature" not in constant.state_dict()


def test_bad_options_are_named():
    with pytest.raises(ValueError, match="local_duration: 0 is not positive"):
        DINO.Config(local_duration=0)
    with pytest.raises(ValueError, match="freeze_steps: -1 is negative"):
        DINO.Config(freeze_steps=-1)
    with pytest.raises(ValueError, match="teacher_ramp_steps: -1 is negative"):
        DINO.Config(teacher_ramp_steps=-1)
    with pytest.raises(ValueError, match="start_teacher_temperature: 0 is not positive"):
        DINO.Config(start_teacher_temperature=0)
    with pytest.raises(ValueError, match="start_teacher_temperature: 0.02 changes nothing with teacher_ramp_steps 0"):
        DINO.Config(start_teacher_temperature=0.02)
    with pytest.raises(ValueError, match="centre_momentum: 2 is not between"):
        DINO.Config(centre_momentum=2)


def test_recipe_names_only_what_there_is():
    recipe = load_toml(find_recipe("dino_speaker"))
    table = {key: value for key, value in recipe["objective"].items() if key != "name"}
    config = build(DINO.Config, table, "dino_speaker")
    assert config == DINO.Config(ema_steps=recipe["train"]["max_steps"], separate_views=True)
    assert json.dumps(to_table(config))
