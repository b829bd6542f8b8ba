"""What is said of texts that are unlike those of training; `tests/train/test_run_finetune.py` has it of whole runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from audiossl.nn.known_tokens import check_known
from audiossl.nn.vocabulary import Vocabulary

PLACE = Path("dev/text")
LETTERS = Vocabulary.from_texts(["ABC ABC"], "characters")


@pytest.mark.parametrize(
    ("strange", "told"), [(0, ""), (2, ""), (3, "18 of the 21 tokens looked at, and not those of 'X'")]
)
def test_nine_in_ten_tokens_are_enough(strange, told):
    said = check_known(LETTERS, ["ABC"] * 6 + ["X"] * strange, PLACE)
    assert said == (told and f"dev/text: training has {told}; what training lacks cannot be read, and counts as errors")


def test_spaces_and_ends_do_not_count():
    vocabulary = Vocabulary.from_texts(["A B"], "characters", end=True)
    assert check_known(vocabulary, ["", " "], PLACE) == ""
    said = check_known(vocabulary, ["X Y", "Z X"], PLACE)
    assert said.startswith("dev/text: training has none of the 4 tokens looked at, and not those of 'X'; what")


def test_spaces_may_be_what_training_lacks():
    vocabulary = Vocabulary.from_texts(["A", "B"], "characters")
    assert "training has 4 of the 6 tokens looked at, and not those of ' ';" in check_known(
        vocabulary, ["A B", "B A"], PLACE
    )


def test_another_case_is_named_where_it_would_do():
    phones = Vocabulary.from_texts(["EI BI"], "phones")
    with pytest.raises(
        ValueError, match=r", and 2 if they were in upper case: write both in one case; give texts like"
    ):
        check_known(phones, ["ei bi"], PLACE)
    assert "case" not in check_known(phones, ["k l"], PLACE)
