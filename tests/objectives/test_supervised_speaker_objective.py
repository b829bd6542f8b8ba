"""Supervised speakers: margin softmax against a loop, classes from a data directory, and how few labels are shown."""

import hashlib
import math

import numpy as np
import pytest
import torch
from torch import nn
from two_crops import SAMPLES, encoder, noise, unit

from audiossl.contracts import Utterance
from audiossl.data.audio import write_audio
from audiossl.data.manifest import Manifest
from audiossl.data.writer import CorpusUtterance, write_data_dir
from audiossl.objectives._classes import Classes
from audiossl.objectives._speaker import MarginConfig
from audiossl.objectives.supervised_speaker import SupervisedSpeaker

ALL = 2**64 - 1
COUNTS = {"ann": 10, "bob": 4, "eve": 1}


def made(names=("ann", "bob", "eve"), **options):
    """In training mode but for the encoder, so that rows do not depend on each other."""
    own = encoder()
    torch.manual_seed(1)
    config = SupervisedSpeaker.Config(crop_duration=0.3, **options)
    module = SupervisedSpeaker(own, config, Classes("utt2spk", 0, names, (ALL,) * len(names))).train()
    module.encoder.eval()
    return module


def batch_of(labels):
    waveform = noise(len(labels))["waveform"][:, :SAMPLES]
    return {
        "waveform": waveform,
        "waveform_lengths": torch.full((len(labels),), SAMPLES),
        "label": torch.tensor(labels),
    }


def nats(module, batch, margin):
    """-log softmax of 30 cos with cos(angle + margin) at the target, row by row."""
    vectors, losses = unit(module.vectors.detach().numpy()), []
    for row, label in zip(batch["waveform"], batch["label"].tolist(), strict=True):
        with torch.no_grad():
            point = unit(module.encoder.embed(row[None], torch.tensor([SAMPLES]))[0].numpy())
        logits = [30 * float(point @ vector) for vector in vectors]
        logits[label] = 30 * math.cos(math.acos(logits[label] / 30) + margin)
        losses.append(math.log(sum(math.exp(value) for value in logits)) - logits[label])
    return losses


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    write_audio(folder / "a.wav", 0.1 * np.ones(160), 16000)
    names = [f"{speaker}-{index}" for speaker, count in COUNTS.items() for index in range(count)]
    write_data_dir(
        [
            CorpusUtterance(
                n, n, folder / "a.wav", n[:3], columns={"utt2lang": "xx", "utt2note": "two words" if "9" in n else "a"}
            )
            for n in names
        ],
        folder / "data",
    )
    return Manifest.open(folder / "data")


def test_loss_is_a_loop_over_labelled_rows():
    module, batch = made(margin=MarginConfig("additive_angular", 0.2)), batch_of([2, 0, -1, 1, 1])
    output = module(batch)
    expected = [loss for loss, label in zip(nats(module, batch, 0.2), [2, 0, -1, 1, 1], strict=True) if label >= 0]
    assert output.loss_sum.item() == pytest.approx(sum(expected), rel=1e-4)
    assert output.count == 4
    assert output.metrics["labelled"] == (4.0, 5.0)
    assert output.metrics["kept"] == (4.0, 4.0)
    output.loss_sum.backward()
    assert module.vectors.grad.abs().min() > 0
    assert any(p.grad.abs().max() > 1e-6 for p in module.encoder.parameters())


def test_accuracy_is_of_labelled_rows():
    module, batch = made(), batch_of([0, 0, -1])
    with torch.no_grad():
        points = module.encoder.embed(batch["waveform"], batch["waveform_lengths"])
        module.vectors[0], module.vectors[1], module.vectors[2] = points[0], points[1], -points[0]
    assert module(batch).metrics["accuracy"] == (1.0, 2.0)


def test_a_batch_without_labels_counts_nothing():
    module = made()
    output = module(batch_of([-1, -1]))
    assert (output.loss_sum.item(), output.count.item()) == (0.0, 0.0)
    output.loss_sum.backward()
    assert not module.vectors.grad.any()


def test_margin_grows():
    module = made(margin=MarginConfig("additive", 0.4, ramp_steps=2))
    sizes = [float(module.margin.margin)]
    for step in (1, 2):
        module.after_step(step)
        sizes.append(float(module.margin.margin))
    assert sizes == pytest.approx([0.0, 0.2, 0.4])


def test_views_are_a_crop_and_a_class():
    module = made()
    for speaker, label in (("bob", 1), ("zoe", -1)):
        utterance = Utterance("u", np.arange(2 * SAMPLES, dtype=np.float32), 16000, {"utt2spk": speaker})
        view = module.views(utterance, np.random.default_rng(0))
        assert view["label"] == label
        assert view["waveform"].shape == (SAMPLES,)
        assert (np.diff(view["waveform"]) == 1).all()


def shown(manifest, **options):
    config = SupervisedSpeaker.Config(crop_duration=0.3, **options)
    module = SupervisedSpeaker(encoder(), config, Classes.of(manifest, config))
    speakers = manifest.column("utt2spk")
    ids = {name for index, name in enumerate(manifest.ids) if module.classes.number(name, speakers[index]) >= 0}
    assert list(module.labelled(manifest).ids) == sorted(ids)
    return ids


def test_fraction_is_of_each_speaker_seeded_and_nested(manifest):
    by_fraction = {fraction: shown(manifest, fraction=fraction) for fraction in (0.01, 0.2, 0.5, 1.0)}
    sizes = {f: [sum(n.startswith(s) for n in ids) for s in COUNTS] for f, ids in by_fraction.items()}
    assert sizes == {0.01: [1, 1, 1], 0.2: [2, 1, 1], 0.5: [5, 2, 1], 1.0: [10, 4, 1]}
    assert by_fraction[0.01] < by_fraction[0.2] < by_fraction[0.5] < by_fraction[1.0]
    assert len({frozenset(shown(manifest, fraction=0.2, seed=seed)) for seed in range(5)}) > 1
    lots = {n: hashlib.blake2b(f"3 {n}".encode(), digest_size=8).digest() for n in manifest.ids if n[:3] == "ann"}
    chosen = shown(manifest, fraction=0.3, seed=3)
    assert {n for n in chosen if n[:3] == "ann"} == set(sorted(lots, key=lots.get)[:3])


def test_classes_are_sorted_and_part_of_the_state(manifest):
    module = SupervisedSpeaker.from_data(encoder(), SupervisedSpeaker.Config(crop_duration=0.3), manifest.path)
    assert module.classes.names == ("ann", "bob", "eve")
    assert module.needs == ("utt2spk",)
    state = module.state_dict()
    assert all(isinstance(value, torch.Tensor) for value in state.values())
    made().load_state_dict(state)
    with pytest.raises(ValueError, match=r"utt2spk: 3 classes, 3 when this experiment began; they differ in 'eve'"):
        made(("ann", "bob", "zoe")).load_state_dict(state)


def test_vectors_go_on_where_the_classes_are_the_same():
    began = made().state_dict() | {"vectors": torch.randn_like(made().vectors)}
    module = made()
    assert module.start_from(began) == "the vectors of its 3 classes are used too"
    assert torch.equal(module.vectors, began["vectors"])
    assert module.vectors.requires_grad
    other = made(("ann", "bob", "zoe"))
    fresh = other.vectors.clone()
    assert "its 3 classes are not the 3 of the data; these start afresh" in other.start_from(began)
    assert torch.equal(other.vectors, fresh)
    assert made(loss="sup_con", num_crops=2).start_from(began) is None
    assert module.start_from(made(loss="sup_con", num_crops=2).state_dict()) is None


def two_crops(labels):
    return {"waveform": noise(len(labels))["waveform"], "label": torch.tensor(labels)}


def test_each_crop_is_an_example_of_its_class():
    batch = two_crops([2, 0, -1, 1])
    output = made(num_crops=2)(batch)
    halves = [
        made()({"waveform": batch["waveform"][:, k : k + SAMPLES], "label": batch["label"]}) for k in (0, SAMPLES)
    ]
    assert output.count == 6
    assert output.loss_sum.item() == pytest.approx(sum(half.loss_sum.item() for half in halves), rel=1e-5)
    assert output.metrics["accuracy"][0] == sum(half.metrics["accuracy"][0] for half in halves)


def test_sup_con_is_the_published_loss_of_all_labelled_crops():
    """Khosla et al. (2020), eq. 2, by loops; classes have no vectors."""
    labels = [2, 0, -1, 1, 0]
    batch = two_crops(labels)
    module = made(loss="sup_con", num_crops=2, scale=10.0, margin=MarginConfig())
    assert "vectors" not in module.state_dict()
    kept = [(row, label) for row, label in zip(batch["waveform"], labels, strict=True) if label >= 0]
    with torch.no_grad():
        points = [
            unit(module.encoder.embed(row[None, k : k + SAMPLES], torch.tensor([SAMPLES]))[0].numpy())
            for k in (0, SAMPLES)
            for row, _ in kept
        ]
    own = [label for _ in range(2) for _, label in kept]
    losses, right = [], 0
    for i, point in enumerate(points):
        scores = {j: 10 * float(point @ other) for j, other in enumerate(points) if j != i}
        total = math.log(sum(map(math.exp, scores.values())))
        losses.append(np.mean([total - scores[j] for j in scores if own[j] == own[i]]))
        right += own[max(scores, key=scores.get)] == own[i]
    output = module(batch)
    assert output.count == 8
    assert output.loss_sum.item() == pytest.approx(sum(losses), rel=1e-4)
    assert output.metrics["accuracy"] == (right, 8)
    output.loss_sum.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())


def test_sup_con_without_a_label_in_the_batch_is_zero():
    output = made(loss="sup_con", num_crops=2).eval()(two_crops([-1, -1]))
    assert (output.loss_sum, output.count) == (0.0, 0.0)


def test_faults_are_named(manifest):
    for options, message in (
        ({"loss": "sup_con"}, "num_crops: 1 crop of an utterance has no positive for sup_con; give 2 or more"),
        ({"num_crops": 0}, "scale 30.0 and num_crops 0 must be positive"),
        ({"fraction": 0.0}, r"fraction: 0.0 is not in \(0, 1\]; 0.02 is 2 %"),
        ({"scale": 0}, "scale 0 and num_crops 1 must be positive"),
        ({"crop_duration": 0}, "crop_duration: 0 s"),
        ({"column": "utt2lang"}, "utt2lang: 1 class; two or more"),
        ({"column": "utt2note"}, "utt2note: ann-9 has 'two words'; a class is one word"),
        ({"column": "utt2x"}, "utt2x: no such file"),
    ):
        with pytest.raises(ValueError, match=message):
            SupervisedSpeaker.from_data(encoder(), SupervisedSpeaker.Config(**options), manifest.path)


class Linear(nn.Module):
    """An encoder of 16 samples."""

    sample_rate, embedding_dim = 16000, 8

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(16, 8)

    def embed(self, waveform, lengths):
        return self.layer(waveform)


def test_a_margin_of_0_3_trains_a_thousand_steps_without_nan():
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    config = SupervisedSpeaker.Config(crop_duration=0.001, margin=MarginConfig("additive_angular", 0.3))
    names = tuple("abcde")
    module = SupervisedSpeaker(Linear(), config, Classes("utt2spk", 0, names, (ALL,) * 5)).train()
    centres = torch.randn(5, 16, generator=generator)
    with torch.no_grad():  # positives that meet their class exactly: the pole of the angle
        module.vectors.copy_(module.encoder.layer(centres))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9)
    losses = []
    for step in range(1000):
        label = torch.randint(5, (16,), generator=generator)
        noisy = centres[label] + (0.5 if step else 0.0) * torch.randn(16, 16, generator=generator)
        output = module({"waveform": noisy, "waveform_lengths": torch.full((16,), 16), "label": label})
        optimizer.zero_grad()
        (output.loss_sum / output.count).backward()
        assert all(p.grad.isfinite().all() for p in module.parameters())
        optimizer.step()
        losses.append(output.loss_sum.item() / 16)
    assert np.isfinite(losses).all()
    assert np.mean(losses[-100:]) < 0.2 * np.mean(losses[1:21])
