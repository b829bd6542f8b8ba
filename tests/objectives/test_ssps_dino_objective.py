"""SSPS on DINO: targets of other utterances, what the teacher's queue and memory hold, and DINO itself where nothing is sampled."""

import math

import numpy as np
import pytest
import torch
from two_crops import encoder, unit

from audiossl.config import build, find_recipe, load_toml
from audiossl.losses.dino import dino, moved_centre
from audiossl.objectives._speaker import through
from audiossl.objectives.dino import DINO
from audiossl.objectives.ssps_dino import SSPSDINO

LONG, SHORT = 4800, 2400
IDS = [f"s{number}" for number in range(8)]
DINO_SETTINGS = {
    "crop_duration": 0.3,
    "local_duration": 0.15,
    "local_crops": 1,
    "head_dim": 7,
    "bottleneck_dim": 5,
    "prototypes": 9,
    "momentum": 0.5,
}
SAMPLING = {"num_clusters": 3, "queue_size": 12, "start_epoch": 1, "clean_duration": 0}


def apart(module):
    """In training mode but for what has batch norms, so that rows do not depend on each other; teacher and centre away from the start."""
    module.begin()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in [*module.teacher.body.embedding.parameters(), *module.teacher_head.parameters()]:
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
        module.centre.copy_(0.1 * torch.randn(module.centre.shape, generator=generator))
    module.train()
    for part in (module.encoder, module.head, module.teacher, module.teacher_head):
        part.eval()
    return module


def made(**options):
    own = encoder()
    torch.manual_seed(1)
    return apart(SSPSDINO(own, SSPSDINO.Config(**DINO_SETTINGS | SAMPLING | options), IDS))


def plain():
    own = encoder()
    torch.manual_seed(1)
    return apart(DINO(own, DINO.Config(**DINO_SETTINGS)))


def batch_of(places):
    waveform = torch.randn(len(IDS), 2 * LONG + SHORT, generator=torch.Generator().manual_seed(2))
    return {
        "waveform": waveform[[max(place, 0) for place in places]],
        "waveform_lengths": torch.full((len(places),), 2 * LONG + SHORT),
        "index": torch.tensor(places),
    }


def heard(module, places):
    """Teacher's embeddings of both global crops, and its directions below the prototypes, one utterance at a time."""
    embeddings, directions = [], []
    for row in batch_of(places)["waveform"]:
        crops = row[: 2 * LONG].split(LONG)
        with torch.no_grad():
            found = [module.teacher.embed(crop[None], torch.tensor([LONG]))[0] for crop in crops]
            below = [module.teacher_head.layers(one[None])[0] for one in found]
        embeddings.append([one.numpy() for one in found])
        directions.append([unit(one.numpy()) for one in below])
    return np.array(embeddings), np.array(directions)  # (utterance, crop, dim) each


def test_before_its_epoch_it_is_dino():
    module, other, batch = made(), plain(), batch_of([3, 1, 2])
    output, expected = module(batch), other(batch)
    assert output.loss_sum.item() == pytest.approx(expected.loss_sum.item(), rel=1e-5)
    torch.testing.assert_close(module.centre, other.centre)
    assert output.metrics["replaced"][0] == 0


def test_targets_are_those_of_the_sampled_utterances():
    module, batch = made(neighbours=1), batch_of([0, 2, 3])
    module.sampler.owners[:2] = torch.tensor([4, 7])
    entries = np.random.default_rng(0).standard_normal((2, 2, 5))
    entries = unit(entries)
    module.sampler.queue[:2] = torch.from_numpy(entries.reshape(2, 10))
    module.sampler.clusters.copy_(torch.tensor([0, 0, 1, 2, 1, 1, 1, 2]))
    module.sampler.near.copy_(torch.tensor([[1], [2], [0]]))
    centre = module.centre.clone()
    _, own = heard(module, [0, 2, 3])
    used = np.stack([entries[0], entries[1], own[2]])  # cluster 1, cluster 2, and nobody in cluster 0
    prototypes = unit(module.teacher_head.prototypes.weight.detach().numpy())
    teacher = torch.from_numpy(np.einsum("ngd,kd->gnk", used, prototypes))
    pieces = module.pieces(batch)
    with torch.no_grad():
        views = torch.cat([module.embed(pieces[:2]), module.embed(pieces[2:])])
        student = through(module.head, views).double()
    output = module(batch)
    expected = 3 * dino(student, teacher, centre.double())
    assert output.loss_sum.item() == pytest.approx(expected.item(), rel=1e-4)
    assert (output.metrics["replaced"][0] / output.metrics["replaced"][1]).item() == pytest.approx(2 / 3)
    moved = moved_centre(centre.double(), teacher, momentum=0.9)
    torch.testing.assert_close(module.centre.double(), moved, atol=1e-5, rtol=1e-4)


def test_memory_and_queue_hold_what_the_teacher_heard():
    module = made()
    for places in ([0, 1, 2, 3], [4, -1, 6, 7]):
        module(batch_of(places))
    assert module.sampler.owners.tolist()[:8] == [0, 1, 2, 3, 4, -1, 6, 7]
    embeddings, directions = heard(module, [0, 1, 2, 3])
    np.testing.assert_allclose(module.sampler.queue[:4].numpy(), directions.reshape(4, 10), atol=1e-4)
    mean = unit(unit(embeddings).mean(axis=1))
    np.testing.assert_allclose(module.sampler.memory[:4].float().numpy(), mean, atol=2e-3)
    assert module.sampler.known.tolist() == [place != 5 for place in range(8)]


def test_what_is_clustered_is_the_teachers_embedding_of_a_clean_crop():
    module, batch = made(clean_duration=0.2), batch_of([0, 1, 2])
    batch["clean"] = torch.randn(3, 3200, generator=torch.Generator().manual_seed(5))
    module(batch)
    with torch.no_grad():
        points = unit(module.teacher.embed(batch["clean"], torch.full((3,), 3200)).numpy())
    np.testing.assert_allclose(module.sampler.memory[:3].float().numpy(), points, atol=2e-3)
    _, directions = heard(module, [0, 1, 2])
    np.testing.assert_allclose(module.sampler.queue[:3].numpy(), directions.reshape(-1, 10)[:3], atol=1e-4)


def test_it_clusters_at_the_end_of_an_epoch_and_then_samples():
    module = made()
    for step, places in enumerate(([0, 1, 2, 3], [4, 5, 6, 7]), start=1):
        module(batch_of(places))
        module.after_step(step)
    assert module.sampler.epochs == 1
    assert (module.sampler.clusters >= 0).all()
    output = module(batch_of([0, 1, 2, 3, 4, 5, 6, 7]))
    assert output.metrics["replaced"][0] > 0
    assert output.loss_sum.isfinite()


def test_evaluation_replaces_and_remembers_nothing():
    module = made()
    for step, places in enumerate(([0, 1, 2, 3], [4, 5, 6, 7]), start=1):
        module(batch_of(places))
        module.after_step(step)
    module.eval()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    assert module(batch_of([0, 1, 2])).metrics["replaced"][0] == 0
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_options():
    config = SSPSDINO.Config()
    assert (config.crop_duration, config.start_epoch, config.num_clusters) == (4.0, 60, 25_000)
    assert math.isclose(sum(config.durations), 2 * 4.0 + 4 * 2.0)
    with pytest.raises(ValueError, match="start_epoch: 0 is not positive"):
        SSPSDINO.Config(start_epoch=0)
    with pytest.raises(ValueError, match="local_duration: 0 is not positive"):
        SSPSDINO.Config(local_duration=0)
    with pytest.raises(ValueError, match="num_clusters: 8 utterances do not fill 9 clusters"):
        made(num_clusters=9)


def test_recipe_is_what_was_published():
    recipe = load_toml(find_recipe("ssps_dino"))
    table = {key: value for key, value in recipe["objective"].items() if key != "name"}
    published = SSPSDINO.Config(ema_steps=recipe["train"]["max_steps"], separate_views=True)
    assert build(SSPSDINO.Config, table, "ssps_dino") == published
