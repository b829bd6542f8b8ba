from __future__ import annotations

import pytest

from audiossl.nn.lexicon import Lexicon


def test_the_first_pronunciation_wins(tmp_path):
    first, second = tmp_path / "a.txt", tmp_path / "b.txt"
    first.write_text("READ\tR EH1 D\nREAD R IY1 D\n\nA AH0\n")
    second.write_text("A EY1\nBOOK  B UH1 K\n")
    lexicon = Lexicon.read([str(first), str(second)])
    assert lexicon.phones_of(" READ A  BOOK") == "R EH1 D AH0 B UH1 K"
    assert lexicon.phones_of("") == ""
    assert Lexicon.read([str(second), str(first)]).phones_of("A") == "EY1"


def test_faults_are_named(tmp_path):
    path = tmp_path / "a.txt"
    with pytest.raises(ValueError, match=r"a.txt: cannot be read as a lexicon \(No such file.*\); correct its path"):
        Lexicon.read([str(path)])
    path.write_text("A AH0\nB\n")
    with pytest.raises(ValueError, match=r"a.txt:2: 'B' has no phones; write"):
        Lexicon.read([str(path)])
    path.write_bytes(b"\xff A")
    with pytest.raises(ValueError, match="is not UTF-8"):
        Lexicon.read([str(path)])
