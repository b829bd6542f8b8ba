"""Any folder of recordings: every audio file below it becomes an utterance, without transcripts.

Layout: anything; files are taken by suffix (`wav`, `flac`, `ogg`, `opus`, `mp3`, `sph` ...) and hidden ones are passed over, as are links to folders that
are there already; what has to be converted first (`m4a`, `wma` ...) is counted in a warning. The id is the relative path without suffix, `/` as `-` and white space as `_`. Licence and source: the user's own.

Writes one data directory, `out/all`. By default each file is its own speaker, Kaldi's way of saying that speakers are not known; with
`--prep.speaker_from_folder true` the speaker is the name of a folder on the path, and the id starts with it, so that utterances
sort by speaker; where one name begins another (`ann`, `ann-lee`), more than one `-` follows it for that.
A file whose header cannot be used is named and left out; more of them than `--prep.max_bad_fraction` is an error.
"""

from __future__ import annotations

import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from audiossl.data.audio import SUFFIXES
from audiossl.data.corpus import check_fraction, header_fault, identifier, published, write_imitation
from audiossl.data.threads import in_threads
from audiossl.data.writer import CorpusUtterance, write_data_dir

if TYPE_CHECKING:
    from collections.abc import Iterator

_UNREAD = frozenset((".m4a", ".aac", ".mp4", ".wma", ".webm", ".amr", ".3gp", ".caf"))
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Config:
    """speaker_level: which folder below --corpus names the speaker, 0 the outermost, -1 the one that holds the file."""

    speaker_from_folder: bool = False
    speaker_level: int = -1
    max_bad_fraction: float = 0.01

    def __post_init__(self) -> None:
        check_fraction(self.max_bad_fraction)


def prepare(corpus: Path | None, out: Path, config: Config | None = None) -> None:
    """Write `out/all`; nothing is copied."""
    config = config or Config()
    corpus = published(corpus)
    write_data_dir(_utterances(corpus, config), out / "all")


def fake(root: Path) -> None:
    """Write a tiny imitation: two speakers' folders, two sessions, two formats, a note that is no audio."""
    rng = np.random.default_rng(0)
    for speaker in ("ann", "bob lee"):
        for session in ("one", "two"):
            for name, rate in (("a.wav", 8000), ("b.flac", 16000)):
                write_imitation(root / speaker / session / name, rng, duration=0.2, sample_rate=rate)
    (root / "readme.txt").write_text("Not a recording.\n", encoding="utf-8")


def _utterances(corpus: Path, config: Config) -> Iterator[CorpusUtterance]:
    paths = list(_recordings(corpus, SUFFIXES | _UNREAD))
    unread = [path for path in paths if path.suffix.lower() in _UNREAD]
    paths = [path for path in paths if path.suffix.lower() not in _UNREAD]
    if not paths and not unread:
        raise ValueError(f"{corpus}: no audio file below it; known suffixes: {' '.join(sorted(SUFFIXES))}")
    if unread:
        told = f"{corpus}: {len(unread)} recordings are in formats that are not read, as {unread[0]}; convert them: ffmpeg -i A.m4a A.flac"
        if not paths:
            raise ValueError(told)
        _log.warning("left out: %s", told)
    dashes = _dashes({_speaker(path, corpus, config) for path in paths}) if config.speaker_from_folder else ""
    bad = 0
    seen: dict[str, Path] = {}
    for path, wrong in in_threads(header_fault, paths, len(paths), corpus.name):
        if wrong:
            _log.warning("left out: %s", wrong)
            bad += 1
            continue
        utterance = _utterance(path, corpus, config, dashes)
        if utterance.id in seen:
            raise ValueError(f"{path}: gives the id {utterance.id!r}, as does {seen[utterance.id]}; rename one of them")
        seen[utterance.id] = path
        yield utterance
    if bad == len(paths) or bad > config.max_bad_fraction * len(paths):
        raise ValueError(
            f"{corpus}: {bad} of {len(paths)} recordings cannot be used (named above); "
            "restore them or raise --prep.max_bad_fraction"
        )


def _recordings(corpus: Path, suffixes: frozenset[str]) -> Iterator[Path]:
    seen: dict[tuple[int, int], str] = {}  # folder by device and inode
    starts = [corpus]  # links to folders are followed last, so that what lies below them twice keeps its own path
    for start in starts:
        for folder, folders, files in os.walk(start):
            status = Path(folder).stat()
            known = seen.setdefault((status.st_dev, status.st_ino), folder)
            if known != folder:
                _log.warning("passed over: %s is %s again", folder, known)
                folders.clear()
                continue
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            starts += [Path(folder, name) for name in folders if Path(folder, name).is_symlink()]
            for name in sorted(files):
                if Path(name).suffix.lower() in suffixes and not name.startswith("."):
                    yield Path(folder, name)


def _utterance(path: Path, corpus: Path, config: Config, dashes: str) -> CorpusUtterance:
    name = identifier(path.relative_to(corpus).with_suffix("").as_posix())
    if not config.speaker_from_folder:
        return CorpusUtterance(name, name, path, name, columns={})
    speaker = _speaker(path, corpus, config)
    name = f"{speaker}{dashes}{name.removeprefix(f'{speaker}-')}"
    return CorpusUtterance(name, name, path, speaker, columns={})


def _speaker(path: Path, corpus: Path, config: Config) -> str:
    folders = path.relative_to(corpus).parent.parts
    try:
        return identifier(folders[config.speaker_level])
    except IndexError:
        raise ValueError(
            f"{path}: no folder at level {config.speaker_level} names its speaker; "
            "move it or change --prep.speaker_level"
        ) from None


def _dashes(speakers: set[str]) -> str:
    """Return what separates speakers from the rest of an id, so that ids sort as their speakers do: one `-`, or more than follow each other in a name."""
    clash = any(name[:place] in speakers for name in speakers for place, sign in enumerate(name) if sign == "-")
    return "-" * (1 + max(len(run) for name in speakers for run in re.findall("-*", name))) if clash else "-"
