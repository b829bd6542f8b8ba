"""MoCo: its loss by loops over queue entries, the order of its queue, the keys' batch norms and several processes."""

import numpy as np
import pytest
import torch

from audiossl.config import build, find_recipe, load_toml
from audiossl.data.audio import write_audio
from audiossl.data.loader import LoaderConfig, make_loader
from audiossl.data.manifest import Manifest
from audiossl.encoders.xvector import XVector
from audiossl.objectives._speaker import MarginConfig
from audiossl.objectives.moco import MoCo
from audiossl.train.distributed import leave

SAMPLES = 1600
SETTINGS = {"crop_duration": 0.1, "temperature": 0.1, "queue_size": 10, "momentum": 0.9}


def objective(seed=0, **changes):
    """Batch norms of encoders are in eval mode, so that crops do not depend on their neighbours; the teacher has weights of its own."""
    torch.manual_seed(seed)
    module = MoCo(XVector(XVector.Config.tiny()), MoCo.Config(**{**SETTINGS, **changes}))
    module.begin()
    for parameter in module.teacher.parameters():
        parameter += 0.1 * torch.randn(parameter.shape)
    for encoder in (module.encoder, module.teacher):
        norms = [m for m in encoder.modules() if isinstance(m, torch.nn.BatchNorm1d)]
        for norm in norms:
            norm.momentum = 1.0  # statistics of one batch: with those of the start, all inputs look alike
        with torch.no_grad():
            encoder.embed(torch.randn(32, SAMPLES), torch.full((32,), SAMPLES))
        encoder.eval()
    return module


def batch(size=4, seed=0):
    """label: 1, 2, 3, 1, ..."""
    waveform = torch.randn(size, 2 * SAMPLES, generator=torch.Generator().manual_seed(seed))
    lengths = torch.full((size,), 2 * SAMPLES)
    return {"waveform": waveform, "waveform_lengths": lengths, "label": torch.arange(size) % 3 + 1}


def vectors(encoder, waveform):
    """Embeddings of both crops, one by one: (view, batch, dim) float64."""
    crops = waveform.view(len(waveform), 2, SAMPLES)
    with torch.no_grad():
        rows = [[encoder.embed(crop[None], torch.tensor([SAMPLES]))[0] for crop in view] for view in crops.unbind(1)]
    return np.array([[row.numpy() for row in view] for view in rows], dtype=np.float64)


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def by_loops(queries, keys, queue, margin):
    losses, right = [], []
    for own, other in ((0, 1), (1, 0)):
        for query, key in zip(unit(queries[own]), unit(keys[other]), strict=True):
            negatives = [entry @ query for entry in queue[other]]
            shares = np.exp(np.array([query @ key - margin, *negatives]) / 0.1)
            losses.append(-np.log(shares[0] / shares.sum()))
            right.append(query @ key > max(negatives))
    return np.mean(losses), np.mean(right)


@pytest.mark.parametrize("margin", [0.0, 0.3])
def test_loss_equals_loops_over_the_queue(margin):
    module, data = objective(margin=MarginConfig("additive", margin) if margin else MarginConfig()), batch(6)
    queue = module.queue.double().numpy().copy()
    output = module(data)
    queries, keys = (vectors(encoder, data["waveform"]) for encoder in (module.encoder, module.teacher))
    loss, accuracy = by_loops(queries, keys, queue, margin)
    assert output.loss_sum.item() == pytest.approx(6 * loss, rel=1e-5)
    assert output.metrics["accuracy"][0].item() == pytest.approx(6 * accuracy)


def test_queue_is_a_ring_that_is_written_after_the_loss():
    module = objective()
    expected, place = module.queue.double().numpy().copy(), 0
    for step in range(4):  # 16 keys into 10 places
        data = batch(seed=step)
        queries, keys = (vectors(encoder, data["waveform"]) for encoder in (module.encoder, module.teacher))
        loss, _ = by_loops(queries, keys, expected, 0.0)
        assert module(data).loss_sum.item() == pytest.approx(4 * loss, rel=1e-5)
        for utterance in range(4):
            expected[:, place] = unit(keys[:, utterance])
            place = (place + 1) % 10
        np.testing.assert_allclose(module.queue.numpy(), expected, atol=1e-5)
    assert module.place == place == 6
    before = module.queue.clone()
    module.eval()(batch(seed=9))
    assert torch.equal(module.queue, before)


def test_without_symmetry_the_first_crops_look_for_the_second_ones():
    module, data = objective(symmetric=False), batch(6)
    queue = module.queue.double().numpy().copy()
    assert queue.shape[:2] == (1, 10)
    seen, embed = [], module.teacher.embed
    module.teacher.embed = lambda x, lengths: seen.append(len(x)) or embed(x, lengths)
    output = module(data)
    assert seen == [6]
    queries, keys = (unit(vectors(encoder, data["waveform"])) for encoder in (module.encoder, module.teacher))
    losses = []
    for query, key in zip(queries[0], keys[1], strict=True):
        shares = np.exp(np.array([query @ key, *(queue[0] @ query)]) / 0.1)
        losses.append(-np.log(shares[0] / shares.sum()))
    assert output.loss_sum.item() == pytest.approx(6 * np.mean(losses), rel=1e-5)
    assert output.metrics["positive_cosine"][0].item() == pytest.approx((queries[0] * keys[1]).sum(), rel=1e-4)
    np.testing.assert_allclose(module.queue[0, :6].numpy(), keys[1], atol=1e-5)


def test_keys_of_the_same_value_are_no_negatives():
    """What is in the queue from the start has none."""
    module = objective(mask_column="utt2spk")
    assert module.needs == ("utt2spk",)
    assert module.labels.tolist() == [-1] * 10
    module(batch(4))
    assert module.labels.tolist() == [1, 2, 3, 1] + [-1] * 6
    data, queue = batch(5, seed=1), module.queue.double().numpy().copy()
    output = module(data)
    queries, keys = (unit(vectors(encoder, data["waveform"])) for encoder in (module.encoder, module.teacher))
    losses, right = [], []
    for own, other in ((0, 1), (1, 0)):
        for row, (query, key) in enumerate(zip(queries[own], keys[other], strict=True)):
            same = [entry < 4 and entry % 3 == row % 3 for entry in range(10)]
            negatives = queue[other][~np.array(same)] @ query
            shares = np.exp(np.array([query @ key, *negatives]) / 0.1)
            losses.append(-np.log(shares[0] / shares.sum()))
            right.append(query @ key > negatives.max())
    assert output.loss_sum.item() == pytest.approx(5 * np.mean(losses), rel=1e-5)
    assert output.metrics["accuracy"][0].item() == pytest.approx(5 * np.mean(right))
    assert "labels" not in objective().state_dict()


def test_values_of_the_masked_column_become_numbers(tmp_path):
    """In the loader; the same ones in every run."""
    for name in ("a", "b", "c"):
        write_audio(tmp_path / f"{name}.flac", np.full(9600, 0.1, dtype=np.float32), 16000)
    (tmp_path / "wav.scp").write_text("".join(f"{name} {tmp_path}/{name}.flac\n" for name in ("a", "b", "c")))
    (tmp_path / "utt2spk").write_text("a ann\nb ben\nc ann\n")
    config, module = LoaderConfig(num_workers=0), objective(mask_column="utt2spk")
    made = [
        next(iter(make_loader(Manifest.open(tmp_path), module, config, sample_rate=16000, seed=0))) for _ in range(2)
    ]
    label = dict(zip(made[0]["utt_ids"], made[0]["label"].tolist(), strict=True))
    assert label["a"] == label["c"] != label["b"]
    assert min(label.values()) >= 0
    assert torch.equal(made[0]["label"], made[1]["label"])
    module(made[0])
    assert sorted(module.labels.tolist()) == [-1] * 7 + sorted(label.values())


def test_queue_that_is_smaller_than_the_batch_is_refused():
    with pytest.raises(ValueError, match="queue_size: 3 is less than the 4 utterances"):
        objective(queue_size=3)(batch())
    with pytest.raises(ValueError, match="queue_size: 0 is not positive"):
        MoCo.Config(queue_size=0)


def test_batch_norms_see_keys_in_parts_that_are_dealt_anew(monkeypatch):
    module, data = objective(key_groups=2), batch(8)
    seen, embed = [], module.teacher.embed
    monkeypatch.setattr(module.teacher, "embed", lambda x, lengths: seen.append(x) or embed(x, lengths))
    orders = []
    for seed in range(3):
        seen.clear()
        torch.manual_seed(seed)
        module(data)
        first, second = (part.view(2, 4, SAMPLES) for part in seen)  # (view, utterance, sample)
        crops = data["waveform"].view(8, 2, SAMPLES)
        places = [int((crops[:, 0] == crop).all(1).nonzero()) for crop in torch.cat([first[0], second[0]])]
        assert sorted(places) == list(range(8))
        assert torch.equal(torch.cat([first[1], second[1]]), crops[places, 1])  # twins stay together
        orders.append(places)
    assert len({tuple(order) for order in orders}) == 3


def test_keys_return_to_their_utterances_whatever_the_parts():
    one, many = (objective(key_groups=groups)(batch(7)) for groups in (1, 3))
    assert many.loss_sum.item() == pytest.approx(one.loss_sum.item(), rel=1e-6)


@pytest.mark.parametrize("changes", [{"separate_views": True}, {"symmetric": False}])
@pytest.mark.parametrize("size", [2, 3, 5])
def test_no_part_is_a_single_row_of_batch_norms(changes, size):
    assert torch.isfinite(objective(key_groups=2, **changes).train()(batch(size)).loss_sum)


def test_a_margin_that_reads_lengths_reads_those_of_the_encoder():
    losses = []
    for factor in (1, 1000):
        module = objective(margin=MarginConfig("magface", 0.5))
        with torch.no_grad():
            module.encoder.body.embedding.weight *= factor
            module.encoder.body.embedding.bias *= factor
        losses.append(module(batch()).loss_sum.item())
    assert losses[1] > losses[0] + 4


def test_key_encoder_is_the_moving_average_of_the_query_encoder():
    module, rng = objective(), np.random.default_rng(0)
    names = [name for name, _ in module.encoder.named_parameters()]
    expected = {name: p.double().numpy().copy() for name, p in module.teacher.named_parameters()}
    for step in range(1, 6):
        with torch.no_grad():
            for parameter in module.encoder.parameters():
                parameter += torch.from_numpy(rng.normal(size=parameter.shape)).float()
        module.after_step(step)
        leading = dict(module.encoder.named_parameters())
        expected = {n: 0.9 * expected[n] + 0.1 * leading[n].detach().double().numpy() for n in names}
    for name, parameter in module.teacher.named_parameters():
        np.testing.assert_allclose(parameter.numpy(), expected[name], atol=1e-5)
        assert not parameter.requires_grad


def test_recipe_names_only_what_there_is():
    recipe = load_toml(find_recipe("moco_am"))
    table = {key: value for key, value in recipe["objective"].items() if key != "name"}
    config = build(MoCo.Config, table, "moco_am")
    assert config.margin == MarginConfig("additive", 0.1)


def work(rank, world, folder, column):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    try:
        module = objective(key_groups=2, mask_column=column)
        torch.manual_seed(rank)  # every process draws its own order; the first one's counts
        rows = [slice(0, 5), slice(5, 8)][rank]
        losses = []
        for step in range(3):
            data = {name: value[rows] for name, value in batch(8, seed=step).items()}
            losses.append(module(data).loss_sum.item())
        torch.save((losses, module.queue, module.place), f"{folder}/{rank}.pt")
    finally:
        torch.distributed.destroy_process_group()
    leave(0)


@pytest.mark.slow
@pytest.mark.parametrize("column", ["", "utt2spk"])
def test_two_processes_equal_one(tmp_path, column):
    torch.multiprocessing.spawn(work, (2, str(tmp_path), column), nprocs=2)
    parts = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    module = objective(mask_column=column)
    for step in range(3):
        together = module(batch(8, seed=step)).loss_sum.item()
        assert sum(losses[step] for losses, _, _ in parts) == pytest.approx(together, rel=1e-5)
    for _, queue, place in parts:
        torch.testing.assert_close(queue, module.queue)
        assert place == module.place == 24 % 10
