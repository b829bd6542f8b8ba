"""SF: ASR's head over characters and the marks of slots."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from ctc_oracles import DIM, LAYERS, Texts, array, batch_of, frames, recurrent_logits, unsettle

from audiossl.diagnostics.sources import FeatureShape
from audiossl.tasks.slot_filling import SlotFilling

TEXTS = ["GO B-to A B E-to", "B-to B E-to", "GO"]


def make(**changed):
    torch.manual_seed(0)
    shape = FeatureShape(DIM, LAYERS, 320, 16_000)
    config = replace(SlotFilling.Config.tiny(), **changed)
    return unsettle(SlotFilling.from_data(shape, config, Texts("utt2slots", TEXTS))).eval()


def test_marks_are_single_tokens():
    task = make()
    assert task.vocabulary.tokens == ("<blank>", "<unk>", "<eos>", "A", "B", "B-to", "E-to", "G", "O", "|")
    batch = batch_of(task, TEXTS)
    assert batch["tokens_lengths"].tolist() == [9, 4, 3]
    assert [task.vocabulary.decode(row[row >= 0].tolist()) for row in batch["tokens"]] == TEXTS


def test_logits_equal_a_forward_pass_in_numpy():
    task, output = make(), frames(seed=4)
    logits = task.logits(output)
    for k, length in enumerate(output.lengths.tolist()):
        np.testing.assert_allclose(array(logits[k, :length]), recurrent_logits(task, output, k), atol=1e-5)


def test_types_and_values_are_scored():
    predictions = {"u0": "GO B-to A E-to", "u1": "B", "u2": "GO"}
    scores = make().evaluate(predictions, Texts("utt2slots", TEXTS))
    # Types: found, not found, rightly none. Values: `A` for `A B` is two edits of three, nothing for `B` one of one.
    assert scores == {"slot_f1": pytest.approx(200 / 3), "slot_cer": pytest.approx(75.0)}
    assert make().metric == ("slot_f1", "max")
