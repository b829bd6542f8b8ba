import pytest

from audiossl.metrics.weighted_key_score import parse_key, weighted_key_score


# Worth of a key named for another, from the table of MIREX.
@pytest.mark.parametrize(
    ("named", "wanted", "worth"),
    [
        ("C_major", "C_major", 100),
        ("Db:maj", "C#_major", 100),
        ("G_major", "C_major", 50),
        ("B_minor", "E_minor", 50),
        ("F_major", "C_major", 0),  # a fifth below
        ("A_minor", "C_major", 30),
        ("C_major", "A_minor", 30),
        ("C_minor", "C_major", 20),
        ("G_minor", "C_major", 0),
        ("A_major", "C_major", 0),
        ("Cb_major", "B_major", 100),
    ],
)
def test_worth_of_a_key(named, wanted, worth):
    assert weighted_key_score([named], [wanted]) == worth


def test_pieces_count_alike():
    assert weighted_key_score(["C_major", "C_major", "C_major"], ["C_major", "F_major", "D_major"]) == pytest.approx(50)


def test_tones():
    assert [parse_key(name) for name in ("c minor", "f#-major", "Bb_minor", "Cb maj", "AB_minor")] == [
        (0, 1),
        (6, 0),
        (10, 1),
        (11, 0),
        (8, 1),
    ]


@pytest.mark.parametrize("name", ["H_major", "C", "C_dorian", ""])
def test_what_is_no_key_is_named(name):
    with pytest.raises(ValueError, match=f"{name!r} is no key; write it like"):
        weighted_key_score([name], ["C_major"])


def test_one_for_each():
    with pytest.raises(ValueError, match="give one each"):
        weighted_key_score(["C_major"], [])
