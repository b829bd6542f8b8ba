import json
import pickle
import re

import numpy as np
import pytest

from audiossl.nn.bpe import BPE, load_vocabulary
from audiossl.nn.vocabulary import Vocabulary

pytest.importorskip("sentencepiece", reason="word pieces need the extra `asr`")

TEXTS = ["HE HOPED THERE WOULD BE STEW", "  IT'S  LATE", "", "THE THE ÉCLAIR"] * 3


@pytest.fixture(scope="module")
def pieces():
    return BPE.from_texts(TEXTS, 40)


def test_pieces_spell_the_text(pieces):
    assert len(pieces) == len(pieces.tokens) == 41  # and the blank
    assert pieces.tokens[:2] == ("<blank>", "<unk>")
    for text in TEXTS:
        indices = pieces.encode(text)
        assert indices.dtype == np.int64
        assert (indices > pieces.unknown_index).all()
        assert "".join(pieces.tokens[i] for i in indices) == "".join("▁" + word for word in text.split())
        assert pieces.decode(indices) == " ".join(text.split())
    assert len(pieces.encode("THE THE")) < len("THE|THE")


def test_what_training_did_not_hold_is_unknown_and_blanks_write_nothing(pieces):
    indices = pieces.encode("HE ZZ").tolist()
    assert indices.count(pieces.unknown_index) == 1
    assert pieces.decode(indices) == "HE <unk>"
    assert pieces.decode([0, *pieces.encode("IT'S"), 0]) == "IT'S"


def test_the_same_text_gives_the_same_pieces(pieces):
    again = BPE.from_texts(iter(TEXTS), 40)
    assert again == pieces
    assert hash(again) == hash(pieces)
    assert BPE.from_texts(TEXTS, 30) != pieces
    assert pickle.loads(pickle.dumps(pieces)) == pieces


def test_an_experiment_keeps_the_model_and_its_hash(pieces, tmp_path):
    path = tmp_path / "vocabulary.json"
    pieces.save(path)
    assert sorted(item.name for item in tmp_path.iterdir()) == ["bpe.model", "vocabulary.json"]
    assert json.loads(path.read_text())["tokens"] == list(pieces.tokens)
    assert load_vocabulary(path) == BPE.load(path) == pieces
    BPE.from_texts(TEXTS, 30).save(tmp_path / "other.json")  # takes the place of the model
    with pytest.raises(ValueError, match=r"bpe\.model: is not the model that vocabulary\.json names"):
        BPE.load(path)
    (tmp_path / "bpe.model").unlink()
    with pytest.raises(ValueError, match=r"bpe\.model: no such file"):
        BPE.load(path)
    path.write_text('{"kind": "bpe"}')
    with pytest.raises(ValueError, match="not a vocabulary of word pieces: 'model'"):
        load_vocabulary(path)


def test_other_vocabularies_are_read_as_they_are(tmp_path):
    words = Vocabulary.from_texts(TEXTS, "words")
    words.save(tmp_path / "vocabulary.json")
    assert load_vocabulary(tmp_path / "vocabulary.json") == words
    with pytest.raises(ValueError, match=r"nothing\.json: no such file; fine-tune first"):
        load_vocabulary(tmp_path / "nothing.json")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(ValueError, match="not a JSON object"):
        load_vocabulary(tmp_path / "list.json")


@pytest.mark.parametrize(
    ("texts", "size", "fault"),
    [
        ([" ", ""], 10, "the texts hold no tokens"),
        (
            TEXTS,
            3000,
            "bpe_size: 3000 pieces cannot be learnt from these texts; choose another number: Vocabulary size",
        ),
        (TEXTS, 5, "bpe_size: 5 pieces cannot be learnt from these texts; choose another number: Vocabulary size"),
        (["A ▁B"], 10, "holds '▁', which stands for the space"),
    ],
)
def test_errors_are_one_line(texts, size, fault):
    with pytest.raises(ValueError, match=re.escape(fault)) as caught:
        BPE.from_texts(texts, size)
    assert "\n" not in str(caught.value)
