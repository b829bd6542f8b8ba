"""DINO's loss and centre against loops over pairs of crops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from loss_oracles import check_gradient, check_half_precision, rows, softmax

from audiossl.losses.dino import dino, moved_centre


def by_loops(student, teacher, centre):
    pairs = []
    for g in range(len(teacher)):
        for c in range(len(student)):
            if c != g:
                nats = [
                    -softmax((t - centre) / 0.04) @ np.log(softmax(s / 0.1))
                    for t, s in zip(teacher[g], student[c], strict=True)
                ]
                pairs.append(np.mean(nats))
    return pairs


def example():
    return 0.3 * rows(6, 3, 5), 0.1 * rows(2, 3, 5, seed=1), 0.1 * rows(5, seed=2)


def test_loss_is_the_mean_over_ten_pairs():
    student, teacher, centre = example()
    pairs = by_loops(student.numpy(), teacher.numpy(), centre.numpy())
    assert len(pairs) == 10
    assert dino(student, teacher, centre).item() == pytest.approx(np.mean(pairs), abs=1e-10)


def test_centre_moves_towards_the_mean_of_raw_outputs():
    _, teacher, centre = example()
    moved = moved_centre(centre, teacher, momentum=0.9)
    oracle = [0.9 * centre[d] + 0.1 * sum(teacher[g, n, d] for g in range(2) for n in range(3)) / 6 for d in range(5)]
    torch.testing.assert_close(moved, torch.stack(oracle))
    assert not moved_centre(centre, teacher.requires_grad_()).requires_grad


def test_only_the_student_gets_a_gradient():
    student, teacher, centre = (x.requires_grad_() for x in example())
    dino(student, teacher, centre.detach()).backward()
    assert student.grad.any()
    assert teacher.grad is None


def test_gradients_and_precision():
    student, teacher, centre = example()
    check_gradient(lambda s: dino(s, teacher, centre), student)
    check_half_precision(dino, student, teacher, centre)


def test_more_teacher_crops_than_student_crops():
    student, teacher, centre = example()
    with pytest.raises(ValueError, match="2 teacher crops are more than the student's 1"):
        dino(student[:1], teacher, centre)
