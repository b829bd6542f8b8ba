"""VIbCReg's objective is its loss on the whitened projections of two crops."""

import pytest
import torch
from two_crops import make, mean_of, noise, projected, represented

from audiossl.losses.vibcreg import vibcreg, vibcreg_terms
from audiossl.nn.iter_norm import IterNorm
from audiossl.objectives.vibcreg import VIbCReg

SMALL = {"projector_dims": (10, 6), "groups": 2}


def test_forward_is_the_loss_of_the_projections():
    module, batch = make(VIbCReg, **SMALL, invariance=2.0, variance=3.0, covariance=0.5), noise()
    output = module(batch)
    expected = vibcreg(*projected(module, batch), invariance=2.0, variance=3.0, covariance=0.5)
    assert output.loss_sum.item() == pytest.approx(6 * expected.item(), rel=1e-5)
    assert output.count == 6
    for name, term in vibcreg_terms(*projected(module, batch))._asdict().items():
        assert mean_of(output, name) == pytest.approx(term.item(), rel=1e-4)


def test_both_views_are_whitened_together():
    module, batch = make(VIbCReg, **SMALL), noise(40)
    layers, norm = module.projector[:-1], module.projector[-1].train()
    assert isinstance(norm, IterNorm)
    with torch.no_grad():
        views = [layers(view) for view in represented(module, batch)]
        together, apart = vibcreg(*norm(torch.cat(views)).chunk(2)), vibcreg(*map(norm, views))
    assert module(batch).loss_sum.item() == pytest.approx(40 * together.item(), rel=1e-3)
    assert apart.item() != pytest.approx(together.item(), rel=1e-2)


def test_everything_trains_but_a_bias_that_the_normalisation_takes_out():
    module, batch = make(VIbCReg, **SMALL).train(), noise()
    module(batch).loss_sum.backward()
    still = [name for name, p in module.named_parameters() if p.grad is None or not p.grad.any()]
    assert [name for name in still if not name.startswith("encoder.")] == ["projector.3.bias"]


def test_without_a_projector_representations_are_whitened():
    module, batch = make(VIbCReg, projector_dims=(), groups=1), noise()
    assert module(batch).loss_sum.item() == pytest.approx(6 * vibcreg(*projected(module, batch)).item(), rel=1e-5)


def test_defaults_are_those_published():
    config = VIbCReg.Config()
    assert (config.invariance, config.variance, config.covariance) == (1.0, 1.0, 8.0)
    assert (config.projector_dims, config.groups, config.iterations) == ((2048, 2048, 512), 64, 5)


def test_faults_are_named():
    with pytest.raises(ValueError, match="groups: 6 dimensions do not make 4 groups of one size; give a divisor"):
        make(VIbCReg, projector_dims=(10, 6), groups=4)
    with pytest.raises(ValueError, match="groups 0 and iterations 5 must be at least 1"):
        VIbCReg.Config(groups=0)
