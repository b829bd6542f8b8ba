"""The layout that LibriSpeech and its relatives share: `<speaker>/<chapter>/` with recordings and one file of transcripts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from audiossl.data.corpus import listed, text_lines
from audiossl.data.writer import CorpusUtterance

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def read_chapters(part: Path) -> Iterator[CorpusUtterance]:
    """Yield the utterances of `<part>/<speaker>/<chapter>/`, with `text`.

    ValueError where there is none, or where recordings and transcripts differ.
    """
    chapters = [path for path in listed(part, "*/*") if path.is_dir()]
    if not chapters:
        raise ValueError(f"{part}: holds no <speaker>/<chapter> folder; unpack {part.name} again")
    for chapter in chapters:
        for name, words in _transcripts(chapter):
            yield CorpusUtterance(name, name, chapter / f"{name}.flac", chapter.parent.name, columns={"text": words})


def _transcripts(chapter: Path) -> Iterator[tuple[str, str]]:
    """(utterance, words) of a chapter, after checking that recordings and transcripts are the same."""
    path = chapter / f"{chapter.parent.name}-{chapter.name}.trans.txt"
    if not path.is_file():
        raise ValueError(f"{path}: not found; unpack {chapter.parent.parent.name} again")
    recorded = {recording.stem for recording in listed(chapter, "*.flac")}
    for number, line in enumerate(text_lines(path), start=1):
        name, _, words = line.partition(" ")
        if name not in recorded:
            raise ValueError(
                f"{path}:{number}: {name}.flac is not beside it; unpack {chapter.parent.parent.name} again"
            )
        recorded.remove(name)
        yield name, words.strip()
    if recorded:
        raise ValueError(f"{path}: has no line for {min(recorded)}.flac; unpack {chapter.parent.parent.name} again")
