"""A combined objective is the weighted sum of its losses, and says what is wrong with a term."""

import pytest
import torch
from two_crops import make, mean_of, noise, projected, represented

from audiossl.config import build, load_toml, to_table, write_toml
from audiossl.losses.info_nce import info_nce
from audiossl.losses.nt_xent import nt_xent
from audiossl.losses.vicreg import vicreg
from audiossl.losses.w_mse import w_mse
from audiossl.margins.additive import Additive
from audiossl.objectives.combined import Combined


def test_forward_is_the_weighted_sum():
    y = {"info_nce": {"weight": 0.5, "temperature": 0.1}, "nt_xent": {"symmetric": False}}
    z = {"vicreg": {"weight": 2, "covariance": 0.3}, "w_mse": {"weight": 0.25, "group_size": 3}}
    module, batch = make(Combined, projector_dims=(10, 2), y=y, z=z), noise()
    of_y, of_z = represented(module, batch), projected(module, batch)
    values = {
        "y_info_nce": info_nce(*of_y, temperature=0.1),
        "y_nt_xent": nt_xent(*of_y, symmetric=False),
        "z_vicreg": vicreg(*of_z, covariance=0.3),
        "z_w_mse": w_mse(*of_z, generator=torch.Generator().manual_seed(4), group_size=3),
    }
    torch.manual_seed(4)
    output = module(batch)
    assert {name: mean_of(output, name) for name in values} == pytest.approx(
        {name: value.item() for name, value in values.items()}, rel=1e-3
    )
    expected = sum(weight * value for weight, value in zip((0.5, 1, 2, 0.25), values.values(), strict=True))
    assert output.loss_sum.item() == pytest.approx(6 * expected.item(), rel=1e-3)
    assert output.count == 6


def test_a_batch_that_fills_no_group_trains_nothing():
    y, z = {"info_nce": {}}, {"w_mse": {"group_size": 3}}
    module = make(Combined, projector_dims=(10, 2), y=y, z=z).train()
    output = module(noise(2))
    assert (output.loss_sum.item(), output.count.item()) == (0.0, 0.0)
    output.loss_sum.backward()
    assert all(not p.grad.any() for p in module.parameters())  # and none is missing
    assert output.metrics.keys() == module(noise(6)).metrics.keys()
    module(noise(2)), module(noise(2))
    with pytest.raises(ValueError, match="3 batches in a row, the last of 2 utterances, do not fill a group of 3"):
        module(noise(2))


def test_defaults_are_the_published_sum():
    module, batch = make(Combined), noise()
    y, z = represented(module, batch), projected(module, batch)
    expected = info_nce(*y, temperature=0.07) + vicreg(*z, invariance=1, variance=1, covariance=0.04)
    assert module(batch).loss_sum.item() == pytest.approx(6 * expected.item(), rel=1e-3)


def test_a_term_may_have_a_margin():
    """Of its own, part of the state, and growing."""
    margin = {"name": "additive", "size": 0.2, "ramp_steps": 2}
    module, batch = make(Combined, y={"info_nce": {"temperature": 0.1, "margin": margin}}, z={"vicreg": {}}), noise()
    assert module.state_dict()["margins.y_info_nce.margin"] == 0
    module.after_step(2)
    assert module.state_dict()["margins.y_info_nce.margin"].item() == pytest.approx(0.2)
    expected = info_nce(*represented(module, batch), temperature=0.1, margin=Additive(Additive.Config(margin=0.2)))
    assert mean_of(module(batch), "y_info_nce") == pytest.approx(expected.item(), rel=1e-3)
    assert mean_of(module(batch), "z_vicreg") == pytest.approx(vicreg(*projected(module, batch)).item(), rel=1e-3)


def test_a_term_without_weight_is_left_out():
    module = make(Combined, y={"info_nce": {"weight": 0}}, z={"vicreg": {}}, projector_dims=(4,))
    assert [(term.level, term.name, term.weight) for term in module.terms] == [("z", "vicreg", 1.0)]


def test_terms_survive_a_recipe(tmp_path):
    table = {"y": {"info_nce": {"similarity": "dot"}}, "z": {"barlow_twins": {"weight": 2, "redundancy": 1}}}
    config = build(Combined.Config, table, "objective")
    write_toml(tmp_path / "config.toml", to_table(config))
    assert build(Combined.Config, load_toml(tmp_path / "config.toml"), "objective") == config


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"z": {"vicregg": {}}}, "unknown losses 'vicregg'; did you mean 'vicreg'"),
        (
            {"z": {"swav": {}}},
            "objective.z.swav: swav does not compare two views; losses that do: barlow_twins, info_nce",
        ),
        (
            {"z": {"vicreg": {"covarianc": 1.0}}},
            "objective.z.vicreg: unknown key 'covarianc'; did you mean 'covariance'",
        ),
        ({"z": {"vicreg": {"covariance": "1"}}}, "objective.z.vicreg.covariance: '1' is not a number"),
        ({"z": {"vicreg": {"weight": -1}}}, "objective.z.vicreg.weight: -1.0 is negative; give 0 or more"),
        ({"z": {"vicreg": {"covariance": -0.1}}}, "objective.z.vicreg.covariance: -0.1 is negative"),
        ({"y": {"info_nce": {"temperature": -1}}}, "objective.y.info_nce.temperature: -1 is not positive"),
        (
            {"projector_dims": (512,), "z": {"w_mse": {"group_size": 8}}},
            "objective.z.w_mse.group_size: 8 rows cannot be whitened in 512 dimensions; give twice as many rows",
        ),
        ({"z": {"w_mse": {}}}, "group_size: 128 rows cannot be whitened in 2048 dimensions"),
        ({"z": {"vicreg": {"weight": True}}}, "objective.z.vicreg.weight: True is not a number"),
        (
            {"y": {"nt_xent": {"symmetric": 1}}},
            "objective.y.nt_xent.symmetric: 1 is of another kind than the default True",
        ),
        ({"y": {"nt_xent": {"across_processes": False}}}, "unknown key 'across_processes'"),
        ({"y": {"info_nce": 1.0}}, r"objective.y.info_nce: 1.0 is not a table; write \[objective.y.info_nce\]"),
        ({"y": [], "z": {}}, r"objective.y: \[\] is not a table"),
        ({"z": {"vicreg": {"margin": {"name": "additive"}}}}, "objective.z.vicreg: unknown key 'margin'"),
        (
            {"y": {"info_nce": {"margin": 0.1}}},
            r"info_nce.margin: 0.1 is not a table; write \[objective.y.info_nce.margin\]",
        ),
        ({"y": {"info_nce": {"margin": {"size": 0.1}}}}, "margin.size: 0.1 changes nothing without a margin"),
        ({"y": {}, "z": {}}, "no term has a weight"),
        ({"z": {}}, r"projector_dims: \[2048, 2048, 2048\] is for terms in objective.z"),
    ],
)
def test_terms_that_do_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        Combined.Config(**options)


@pytest.mark.parametrize(("level", "projector_dims"), [("y", (64,)), ("z", ())])
def test_groups_that_the_embedding_is_too_wide_for(level, projector_dims):
    terms = {"y": {}, "z": {"vicreg": {}}, level: {"w_mse": {"group_size": 2}}}
    with pytest.raises(ValueError, match=rf"objective.{level}.w_mse.group_size: 2 rows cannot be whitened in \d+ dim"):
        make(Combined, projector_dims=projector_dims, **terms)
    make(Combined, projector_dims=projector_dims, **terms | {level: {"w_mse": {"group_size": 2, "shrinkage": 0.5}}})
