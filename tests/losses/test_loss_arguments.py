"""Every loss is called by the names of its arguments, and says which of them does not fit."""

from __future__ import annotations

import inspect
import re

import pytest
import torch
from loss_oracles import rows

from audiossl import registry
from audiossl.losses._checks import need_positive
from audiossl.losses.barlow_twins import cross_correlation
from audiossl.losses.dino import dino
from audiossl.losses.nt_xent import nt_xent_all_views, nt_xent_multi_view
from audiossl.losses.swav import swav
from audiossl.losses.vibcreg import vibcreg_terms
from audiossl.losses.vicreg import vicreg_terms

A, B, C = rows(4, 6), rows(4, 6, seed=1), rows(4, 6, seed=2)
VIEWS, OTHER_VIEWS = rows(2, 4, 6), rows(2, 4, 6, seed=1)
NUMBERS, LENGTHS = torch.tensor([0, 1, 0, 1]), torch.tensor([3, 4])
PAIR = {"first": A, "second": B}
CROSS = {"predictions": VIEWS, "targets": OTHER_VIEWS}
MASKED = {"context": A, "targets": B, "negatives": torch.tensor([[[1], [0], [3], [2]]]), "slots": torch.arange(4)}

ARGUMENTS = {
    "adaptive_relevance_margin": {"query": A, "document": B, "own": NUMBERS},
    "barlow_twins": PAIR,
    "bimodal_contrastive": {"acoustic": A, "phonetic": B, "words": NUMBERS},
    "byol_regression": CROSS,
    "clamped_contrastive": MASKED,
    "cluster_contrastive": {**MASKED, "clusters": NUMBERS},
    "codebook_diversity": {"soft_probs": VIEWS.softmax(dim=2)},
    "codeword_cross_entropy": {"context": A, "codewords": B, "target": NUMBERS},
    "cpc": {"predictions": VIEWS, "latents": OTHER_VIEWS},
    "ctc": {
        "logits": VIEWS,
        "lengths": LENGTHS,
        "target": torch.ones(2, 1).long(),
        "target_lengths": torch.ones(2).long(),
    },
    "data2vec2": {"predictions": A, "targets": B},
    "deepcluster": {"scores": A, "cluster": NUMBERS},
    "dino": {"student": VIEWS, "teacher": OTHER_VIEWS, "centre": rows(6)},
    "dinosr": {"logits": VIEWS, "codes": NUMBERS.repeat(2, 1)},
    "info_nce": {"query": A, "key": B},
    "lim": {**PAIR, "other": C},
    "margin_softmax": {"embeddings": A, "classes": B, "target": NUMBERS},
    "moco_contrast": {"query": A, "key": B, "queue": C[:3]},
    "nt_xent": PAIR,
    "permutation_free_cross_entropy": {"logits": VIEWS, "labels": (OTHER_VIEWS > 0).double(), "lengths": LENGTHS},
    "permutation_free_mse": {"estimates": rows(2, 4, 3, 2), "targets": rows(2, 4, 3, 2, seed=1), "lengths": LENGTHS},
    "reconstruction": {"estimate": A, "target": B},
    "sdsc": {"estimate": A, "reference": B},
    "self_labelling": {"acoustic": A, "phonetic": B, "radius": 1.0},
    "simsiam_regression": CROSS,
    "step_binary_cross_entropy": {
        "predictions": rows(2, 4, 1, 6),
        "targets": VIEWS,
        "negatives": torch.ones(2, 4, 1).long(),
        "lengths": LENGTHS,
    },
    "sup_con": {"embeddings": A, "labels": NUMBERS},
    "swav": {"scores": VIEWS},
    "unit_cross_entropy": {"logits": A, "target": NUMBERS},
    "utterance_contrastive": {"anchors": A, "targets": B, "utterance": NUMBERS, "candidates": NUMBERS.unsqueeze(1)},
    "vibcreg": PAIR,
    "vicreg": PAIR,
    "w_mse": {**PAIR, "group_size": 4, "shrinkage": 0.5},
    "wav2vec2_contrastive": MASKED,
}
FUNCTIONS = {name: registry.get("losses", name) for name in ARGUMENTS}
FURTHER = {
    "cross_correlation": (cross_correlation, PAIR),
    "vicreg_terms": (vicreg_terms, PAIR),
    "vibcreg_terms": (vibcreg_terms, PAIR),
    "nt_xent_multi_view": (nt_xent_multi_view, {"local_views": VIEWS, "global_views": OTHER_VIEWS}),
}
SAME_ROWS = {  # arguments that hold the same utterances, or the same frames, along the last axis but one
    "barlow_twins": ("first", "second"),
    "byol_regression": ("predictions", "targets"),
    "cpc": ("predictions", "latents"),
    "cross_correlation": ("first", "second"),
    "data2vec2": ("predictions", "targets"),
    "dino": ("student", "teacher"),
    "info_nce": ("query", "key"),
    "lim": ("first", "second", "other"),
    "moco_contrast": ("query", "key"),
    "nt_xent": ("first", "second"),
    "nt_xent_multi_view": ("local_views", "global_views"),
    "reconstruction": ("estimate", "target"),
    "sdsc": ("estimate", "reference"),
    "simsiam_regression": ("predictions", "targets"),
    "utterance_contrastive": ("anchors", "targets"),
    "vibcreg": ("first", "second"),
    "vibcreg_terms": ("first", "second"),
    "vicreg": ("first", "second"),
    "vicreg_terms": ("first", "second"),
    "w_mse": ("first", "second"),
}
MAY_BE_EMPTY = {"data2vec2", "reconstruction", "sdsc", "utterance_contrastive"}  # a value per frame, none for none


def called(name, **changes):
    function, arguments = FURTHER[name] if name in FURTHER else (FUNCTIONS[name], ARGUMENTS[name])
    generator = {"generator": torch.Generator().manual_seed(0)} if name == "w_mse" else {}
    return function(**{**arguments, **generator, **changes})


def tensors(name):
    arguments = FURTHER[name][1] if name in FURTHER else ARGUMENTS[name]
    return {key: arguments[key] for key in SAME_ROWS[name]}


def shapes(given):
    return "".join(f".*{key} of shape {re.escape(str(tuple(value.shape)))}" for key, value in given.items())


def flat(result):
    return result if isinstance(result, tuple) else (result,)


def test_every_loss_is_here_and_those_of_two_views_are_checked():
    assert set(ARGUMENTS) == set(registry.names("losses"))
    pairs = {("first", "second"), ("query", "key")}
    assert {n for n in ARGUMENTS if tuple(inspect.signature(FUNCTIONS[n]).parameters)[:2] in pairs} <= set(SAME_ROWS)


@pytest.mark.parametrize("name", ARGUMENTS)
def test_names_do_what_positions_do(name):
    parameters = inspect.signature(FUNCTIONS[name]).parameters.values()
    assert not any(p.kind is p.POSITIONAL_ONLY for p in parameters)
    first = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD and p.name in ARGUMENTS[name]]
    options = {key: value for key, value in ARGUMENTS[name].items() if key not in first}
    if name == "w_mse":
        options["generator"] = torch.Generator().manual_seed(0)
    positional = FUNCTIONS[name](*[ARGUMENTS[name][key] for key in first], **options)
    for ours, theirs in zip(flat(called(name)), flat(positional), strict=True):
        assert torch.equal(ours, theirs)
        assert ours.double().isfinite().all()


@pytest.mark.parametrize("name", ARGUMENTS)
def test_what_is_no_tensor_is_named(name):
    for key, value in ARGUMENTS[name].items():
        if isinstance(value, torch.Tensor):
            with pytest.raises(ValueError, match=f"^{name}: {key} is a ndarray; give a torch.Tensor$"):
                called(name, **{key: value.numpy()})


@pytest.mark.parametrize("name", ARGUMENTS)
def test_a_missing_argument_is_named(name):
    function, (first, *_) = FUNCTIONS[name], ARGUMENTS[name]
    with pytest.raises(TypeError, match=f"missing .*'{first}'"):
        function(**{key: value for key, value in ARGUMENTS[name].items() if key != first})


@pytest.mark.parametrize("name", SAME_ROWS)
@pytest.mark.parametrize("length", [1, 3])
def test_batches_of_other_lengths_are_refused(name, length):
    for key, value in tensors(name).items():
        given = {**tensors(name), key: value.narrow(-2, 0, length)}
        with pytest.raises(ValueError, match=shapes(given)):
            called(name, **given)


@pytest.mark.parametrize("name", SAME_ROWS)
def test_other_ranks_are_refused(name):
    given = {key: value.unsqueeze(-1) for key, value in tensors(name).items()}
    if name != "sdsc":
        with pytest.raises(ValueError, match=shapes(given)):
            called(name, **given)
        given = {key: value.select(-2, 0) for key, value in tensors(name).items()}
        with pytest.raises(ValueError, match=shapes(given)):
            called(name, **given)
    key, value = next(iter(tensors(name).items()))
    given = {**tensors(name), key: value.select(-2, 0)}
    with pytest.raises(ValueError, match=shapes(given)):
        called(name, **given)


@pytest.mark.parametrize("name", [name for name in SAME_ROWS if name not in MAY_BE_EMPTY])
def test_an_empty_batch_is_refused(name):
    given = {key: value.narrow(-2, 0, 0) for key, value in tensors(name).items()}
    with pytest.raises(ValueError, match=f"{shapes(given)}.*not empty$"):
        called(name, **given)


@pytest.mark.parametrize("name", ["data2vec2", "reconstruction"])
def test_no_masked_frames_are_no_loss(name):
    assert len(called(name, **{key: value[:0] for key, value in tensors(name).items()})) == 0


@pytest.mark.parametrize("name", ["sup_con", "margin_softmax"])
def test_rows_and_labels_that_differ_are_refused(name):
    key = "labels" if name == "sup_con" else "target"
    for embeddings, labels in ((A, NUMBERS[:1]), (A, NUMBERS[:3]), (A[:1], NUMBERS), (A[0], NUMBERS)):
        with pytest.raises(ValueError, match=shapes({"embeddings": embeddings, key: labels})):
            called(name, **{"embeddings": embeddings, key: labels})


def test_empty_and_flat_batches_of_one_argument_are_refused():
    with pytest.raises(ValueError, match=r"embeddings of shape \(0, 6\); give \(row, dim\), not empty"):
        called("sup_con", embeddings=A[:0], labels=NUMBERS[:0])
    for scores in (VIEWS[0], VIEWS[:, :0]):
        with pytest.raises(
            ValueError, match=re.escape(f"scores of shape {tuple(scores.shape)}; give (crop, batch, prot")
        ):
            swav(scores)
    with pytest.raises(ValueError, match=r"views of shape \(4, 6\); give \(view, batch, dim\), not empty"):
        nt_xent_all_views(A)
    with pytest.raises(ValueError, match="1 view has no other to find"):
        nt_xent_all_views(VIEWS[:1])


def test_one_crop_makes_no_pair():
    with pytest.raises(ValueError, match="1 student crop has no other to match"):
        dino(VIEWS[:1], OTHER_VIEWS[:1], rows(6))
    assert dino(VIEWS, OTHER_VIEWS[:1], rows(6)).isfinite()


WITH_TEMPERATURE = [n for n in ARGUMENTS if any("temperature" in p for p in inspect.signature(FUNCTIONS[n]).parameters)]


@pytest.mark.parametrize("name", WITH_TEMPERATURE)
@pytest.mark.parametrize("value", [0, -1.0, float("nan")])
def test_temperatures_that_are_not_positive_are_refused(name, value):
    for key in inspect.signature(FUNCTIONS[name]).parameters:
        if "temperature" in key:
            with pytest.raises(ValueError, match=f"^{key}: {value} is not positive$"):
                called(name, **{key: value})


def test_a_temperature_in_a_tensor_is_not_looked_at():
    need_positive(temperature=torch.zeros((), device="meta"))  # whose value nobody can read
    assert called("dino", teacher_temperature=torch.tensor(0.04, dtype=torch.float64)) == called(
        "dino", teacher_temperature=0.04
    )
