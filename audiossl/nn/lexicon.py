"""A pronouncing dictionary: text to phones, one pronunciation for each word."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


@dataclass(frozen=True)
class Lexicon:
    """Phones of each word, with spaces between them. paths: where they were read."""

    paths: tuple[str, ...]
    phones: Mapping[str, str]

    @classmethod
    def read(cls, paths: Iterable[str]) -> Lexicon:
        """Read files of lines `word phone phone ...`; the first pronunciation of a word wins, in the order of files and lines.

        ValueError names a file that is absent, a line without phones, and an encoding other than UTF-8.
        """
        found: dict[str, str] = {}
        paths = tuple(paths)
        for path in map(Path, paths):
            for number, line in enumerate(lexicon_lines(path), start=1):
                word, _, phones = " ".join(line.split()).partition(" ")
                if word and not phones:
                    raise ValueError(f"{path}:{number}: {word!r} has no phones; write `word phone phone ...`")
                if word:
                    found.setdefault(word, phones)
        return cls(paths, found)

    def phones_of(self, text: str) -> str:
        """Phones of all words of a text; ValueError names a word that is not in the lexicon."""
        try:
            return " ".join(self.phones[word] for word in text.split())
        except KeyError as error:
            raise ValueError(f"{error} is not in the lexicon {', '.join(self.paths)}; add its pronunciation") from error


def lexicon_lines(path: Path) -> list[str]:
    """Lines of a lexicon; ValueError where it cannot be read or is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read as a lexicon ({error.strerror}); correct its path") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is not UTF-8 ({error.reason}); convert the lexicon with iconv") from error
