import numpy as np
import pytest

from audiossl.nn.vocabulary import Vocabulary

TEXTS = ["HELLO WORLD", "  IT'S  A\tTEST", ""]


def test_characters_spell_words_with_a_boundary():
    vocabulary = Vocabulary.from_texts(TEXTS, "characters")
    assert vocabulary.tokens[:2] == ("<blank>", "<unk>")
    assert set(vocabulary.tokens[2:]) == set("HELLOWORLDIT'SATEST|")
    assert list(vocabulary.tokens[2:]) == sorted(vocabulary.tokens[2:])
    indices = vocabulary.encode("HE  LO")
    assert indices.dtype == np.int64
    assert [vocabulary.tokens[i] for i in indices] == ["H", "E", "|", "L", "O"]


@pytest.mark.parametrize("kind", ["characters", "words", "phones"])
def test_text_comes_back(kind, tmp_path):
    vocabulary = Vocabulary.from_texts(TEXTS, kind)
    vocabulary.save(tmp_path / "vocabulary.json")
    again = Vocabulary.load(tmp_path / "vocabulary.json")
    assert again == vocabulary
    assert len(again) == len(vocabulary.tokens)
    for text in TEXTS:
        assert again.decode(again.encode(text)) == " ".join(text.split())
    assert [path.name for path in tmp_path.iterdir()] == ["vocabulary.json"]


def test_what_training_did_not_hold_is_unknown():
    characters = Vocabulary.from_texts(TEXTS, "characters")
    assert characters.encode("HÉ").tolist() == [characters.encode("H")[0], characters.unknown_index]
    words = Vocabulary.from_texts(TEXTS, "words")
    assert words.decode(words.encode("HELLO THERE")) == "HELLO <unk>"


def test_blanks_write_nothing():
    vocabulary = Vocabulary.from_texts(["a b"], "words")
    assert vocabulary.decode([0, 2, 0, 0, 3]) == "a b"


class FakeManifest:
    path = "data/train"

    def __init__(self, texts):
        self.texts = texts

    def __len__(self):
        return len(self.texts)

    def column(self, name):
        assert name == "text"
        return self.texts


def test_errors_name_the_place():
    assert Vocabulary.from_manifest(FakeManifest(["b a"]), "text", "words").tokens[2:] == ("a", "b")
    with pytest.raises(ValueError, match=r"^data/train/text: the texts hold no tokens"):
        Vocabulary.from_manifest(FakeManifest([" ", ""]), "text", "words")
    with pytest.raises(ValueError, match=r"^data/train/text: 'a\|b' holds '\|'"):
        Vocabulary.from_manifest(FakeManifest(["a|b"]), "text", "characters")
    with pytest.raises(ValueError, match="reserved token '<blank>'"):
        Vocabulary.from_texts(["<blank> a"], "words")


def test_a_broken_file_is_named(tmp_path):
    path = tmp_path / "vocabulary.json"
    with pytest.raises(ValueError, match="no such file; fine-tune first, or copy it from the experiment"):
        Vocabulary.load(path)
    for content, what in {
        "{": ":1: not valid JSON",
        "[]": ": not a JSON object",
        '{"kind": "words", "tokens": ["a"]}': ": not a vocabulary",
        '{"kind": "words"}': ": not a vocabulary",
    }.items():
        path.write_text(content)
        with pytest.raises(ValueError, match=f"{path}{what}"):
            Vocabulary.load(path)


def test_the_end_is_a_token_of_its_own_that_writes_nothing(tmp_path):
    vocabulary = Vocabulary.from_texts(["ab ba"], "characters", end=True)
    assert vocabulary.tokens == ("<blank>", "<unk>", "<eos>", "a", "b", "|")
    assert vocabulary.encode("ab").tolist() == [3, 4, 2]
    assert vocabulary.encode("").tolist() == [2]
    assert vocabulary.decode([3, 2, 5, 4, 2]) == "a b"
    vocabulary.save(tmp_path / "vocabulary.json")
    assert Vocabulary.load(tmp_path / "vocabulary.json").encode("b").tolist() == [4, 2]
    assert not Vocabulary.from_texts(["ab"], "characters").has_end
    with pytest.raises(ValueError, match="reserved token '<eos>'"):
        Vocabulary.from_texts(["a <eos>"], "phones", end=True)


def test_marks_of_slots_are_tokens_and_words_are_spelt():
    text = "PLAY B-artist THE CLASH E-artist B-when NOW E-when"
    vocabulary = Vocabulary.from_texts([text], "slots", end=True)
    tokens = [vocabulary.tokens[index] for index in vocabulary.encode(text)]
    assert tokens == [
        *"PLAY|", "B-artist", *"THE|CLASH", "E-artist", "|", "B-when", *"NOW", "E-when", "<eos>",
    ]  # fmt: skip
    assert vocabulary.decode(vocabulary.encode(text)) == text
    assert vocabulary.decode(vocabulary.encode("B-artist CLASH")) == "B-artist CLASH"
    # Marks are words of their own wherever they are read.
    index = {token: number for number, token in enumerate(vocabulary.tokens)}
    assert vocabulary.decode([index[token] for token in ("A", "B-when", "N", "E-when", "O")]) == "A B-when N E-when O"
    unknown = vocabulary.encode("B-other A")
    assert unknown.tolist()[:2] == [vocabulary.unknown_index, index["A"]]
