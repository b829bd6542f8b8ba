"""DINO: the student's crops match the teacher's distribution over the head's outputs for the other, long crops."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from audiossl.losses._checks import need_positive, need_same_shape
from audiossl.losses._precision import full_precision
from audiossl.nn.gather import layout_of, mean_over_batch

if TYPE_CHECKING:
    from torch import Tensor


@full_precision
def dino(
    student: Tensor,
    teacher: Tensor,
    centre: Tensor,
    *,
    student_temperature: float = 0.1,
    teacher_temperature: Tensor | float = 0.04,
) -> Tensor:
    """Mean over the batch and over pairs of different crops of the cross-entropy from teacher to student (Caron et al., 2021, eq. 3).

    student: (crop, batch, output), the global crops first and in the teacher's order. teacher: (global crop, batch, output), detached here.
    centre: (output,), what is subtracted from the teacher's. Two global and four local crops make 10 pairs: a crop is never its own
    target. Nats. Additive over utterances. ValueError for one crop alone, and for a temperature that is a number and not positive.
    """
    need_same_shape("crop, batch, output", free_first=True, student=student, teacher=teacher)
    need_positive(student_temperature=student_temperature, teacher_temperature=teacher_temperature)
    crops, batch = student.shape[:2]
    if len(teacher) > crops:
        raise ValueError(
            f"dino: {len(teacher)} teacher crops are more than the student's {crops}; the student sees all of them"
        )
    if crops < 2:
        raise ValueError("dino: 1 student crop has no other to match; give two crops or more")
    target = ((teacher.detach() - centre) / teacher_temperature).softmax(dim=2)
    log_probs = (student / student_temperature).log_softmax(dim=2)
    # One product per utterance instead of a tensor of batch x output for each pair.
    nats = -torch.einsum("gno,cno->gcn", target, log_probs)
    same = torch.eye(len(teacher), crops, dtype=torch.bool, device=nats.device)
    return nats[~same].sum() / (batch * (~same).sum())


@torch.no_grad()
@full_precision
def moved_centre(centre: Tensor, teacher: Tensor, *, momentum: float = 0.9, across_processes: bool = True) -> Tensor:
    """Return the centre after this batch: momentum x centre + (1 - momentum) x mean of the teacher's outputs (Caron et al., 2021, eq. 4).

    centre: (output,). teacher: (global crop, batch, output) as it comes, not yet centred. The mean goes over the batches of all
    processes. To be called after the loss of the same batch, which must not see itself.
    """
    outputs = teacher.mean(dim=0)
    layout = layout_of(outputs, across_processes=across_processes)
    return momentum * centre + (1 - momentum) * mean_over_batch(outputs, layout)
