"""A checkpoint goes back into the module that it was taken of, and into no other."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from audiossl.interop.checkpoint import best_step, restore, save_checkpoint


def make(width=3, *, bias=True, groups=1):
    module = nn.Sequential(nn.Linear(2, width, bias=bias))
    parameters = list(module.parameters())
    sets = [{"params": parameters}] if groups == 1 else [{"params": [each]} for each in parameters]
    return module, torch.optim.AdamW(sets, lr=0.1)


@pytest.fixture
def checkpoint(tmp_path):
    module, optimizer = make()
    module(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    state = {"step": 7, "optimizer": optimizer.state_dict()}
    return module, save_checkpoint(tmp_path, 7, module.state_dict(), state, keep=1)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("{", "best.json:1: not valid JSON"),
        ("[" * 100_000, "best.json: not valid JSON: maximum recursion"),
        ('{"step": %s}' % ("7" * 5000), "best.json: not valid JSON: Exceeds the limit"),
        ("[7]", "best.json: not a JSON object"),
        ('{"step": "7"}', "best.json: step is '7', not a whole number"),
    ],
)
def test_a_damaged_mark_of_the_best_is_one_line(tmp_path, content, fault):
    (tmp_path / "best.json").write_text(content)
    with pytest.raises(ValueError, match=fault) as error:
        best_step(tmp_path)
    assert str(error.value).endswith("; remove it, and the newest checkpoint is taken")
    assert "\n" not in str(error.value)


def test_it_is_as_it_was(checkpoint):
    saved, path = checkpoint
    module, optimizer = make()
    assert restore(path, module, optimizer)["step"] == 7
    assert all(torch.equal(value, module.state_dict()[name]) for name, value in saved.state_dict().items())
    assert optimizer.state_dict()["state"][0]["step"] == 1


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"width": 4}, "size mismatch for 0.bias"),
        ({"bias": False}, "1 tensors differ, such as '0.bias'"),
        ({"groups": 2}, "different number of parameter groups"),
    ],
)
def test_what_does_not_fit_is_one_line(checkpoint, options, fault):
    with pytest.raises(ValueError, match="put back what was changed, or choose another --out") as caught:
        restore(checkpoint[1], *make(**options))
    assert fault in str(caught.value)
    assert str(caught.value).startswith(f"{checkpoint[1]}: ")
    assert "\n" not in str(caught.value)
